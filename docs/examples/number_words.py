"""A task of its own: numbers in words are written in digits, "one hundred and five" as "105".

The corpus has every number from 1 to 9,999 once; one in twenty is for validation, and one for testing. An output is
right or wrong, so the score is the percentage of right ones.
"""

import hashlib
from itertools import islice

from sacrebleu.metrics.base import Metric, Score, Signature

from data.corpora import CORPORA
from data.corpora.corpus import Source
from experiments.task import TASKS, Task

NUMBERS = range(1, 10_000)
ONES = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(n):
    for unit, name in ((1000, "thousand"), (100, "hundred")):
        if n >= unit:
            rest = n % unit
            joined = " and " if rest and (rest < 100) else " "
            return f"{in_words(n // unit)} {name}" + (joined + in_words(rest) if rest else "")
    if n < 20:
        return ONES[n - 1]
    return TENS[n // 10 - 2] + (f" {ONES[n % 10 - 1]}" if n % 10 else "")


class NumberWords:
    name, licence, languages = "number-words", "that of this code", None

    def sources(self, downloads, log):
        text = "\n".join(map(in_words, NUMBERS))
        return {"all": Source("number words", hashlib.sha256(text.encode()).hexdigest())}

    def pairs(self, split, count, downloads, log):
        places = {"train": range(2, 20), "dev": range(1), "test": range(1, 2)}[split]
        numbers = (n for n in NUMBERS if n * 7919 % 10_007 % 20 in places)
        return islice(((in_words(n), str(n)) for n in numbers), count)


class Accuracy(Metric):
    """Percentage of outputs that equal their reference: a metric of sacreBLEU, for its significance tests."""

    _SIGNATURE_TYPE = Signature

    def _preprocess_segment(self, sent):
        return sent.strip()

    def _extract_reference_info(self, refs):
        return {"refs": refs}

    def _compute_segment_statistics(self, hypothesis, ref_kwargs):
        return [int(hypothesis in ref_kwargs["refs"]), 1]

    def _compute_score_from_stats(self, stats):
        return Score("accuracy", 100 * stats[0] / max(1, stats[1]))

    def _aggregate_and_compute(self, stats):
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])


class WordsToDigits(Task):
    """Number words into digits, scored by exact match."""

    metric = "accuracy"

    def metrics(self, language):
        return {"accuracy": Accuracy()}


CORPORA["number-words"] = NumberWords()
TASKS["number-words"] = WordsToDigits()
