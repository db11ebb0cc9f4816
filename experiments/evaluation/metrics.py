"""Scores of a translation: sacreBLEU and chrF on detokenised text, and the paper's own protocol, each by its name.

    BLEU        sacreBLEU, cased, with the tokens that it takes for the language (13a for most): the one to publish
    BLEU-intl   its "intl" tokens
    BLEU-lc     as BLEU, lowercased
    BLEU-split  the paper's, into German: Moses tokens, compounds split at hyphens, as multi-bleu counts
    chrF2       character n-grams

A BLEU means nothing without its protocol: the same output differs by more than a point between the first and the last.
"""

import math
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU, CHRF

from data.corpora import languages_of
from data.languages import primary
from experiments.evaluation.moses import hypothesis_tokens, reference_tokens
from transformer.checkpoint import brief
from transformer.config import DataConfig, UserError
from transformer.registry import Registry


class Score(NamedTuple):
    """A corpus score, in percent, and the signature without which it means nothing."""

    name: str
    value: float
    signature: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f}   {self.signature}"


class Translated(NamedTuple):
    """What a metric scores: the lines of a text, of its translation, and of the right one."""

    sources: list[str]
    outputs: list[str]
    references: list[str]
    language: str | None = None
    """The target's, as in "de" or "zh-Hans"; None where nobody said."""


Measured = tuple[float, str]
"""A score, in percent where the metric has it so, and its signature."""

MetricPart = Callable[[Translated], Measured | None]
"""The score of a translation. None: the metric says nothing of this language."""


def target_language(config: DataConfig) -> str | None:
    """The code of what a corpus is translated into; None where nobody said."""
    languages = languages_of(config)
    return languages.target if languages else None


# Written without spaces between words, and not among those that sacreBLEU has tokens of its own for.
_WITHOUT_SPACES = frozenset({"th", "lo", "km", "my", "bo", "dz"})
# Chinese languages that share the characters, and so the tokens, of "zh".
_CHINESE = frozenset({"yue", "wuu", "hak", "nan", "lzh"})


def bleu(language: str | None, **settings: Any) -> BLEU:
    """sacreBLEU with the tokens that it chooses for a target language (zh, ja-mecab, ko-mecab; 13a for most).

    For languages without spaces between words that it has no choice for, "flores200". UserError where the tokenizer
    needs what is not installed or cannot be had.
    """
    code = primary(language or "")
    code = "zh" if code in _CHINESE else code
    try:
        return BLEU(trg_lang=code, tokenize="flores200" if code in _WITHOUT_SPACES else None, **settings)
    except Exception as error:
        extra = f': pip install "sacrebleu[{code}]"' if code in ("ja", "ko") else f" ({brief(error)})"
        raise UserError(f"BLEU into {language} needs a tokenizer that is not here{extra}") from error


def check_tokenizer(language: str | None) -> str | None:
    """Why BLEU into a language cannot be computed here, in a sentence; None: it can.

    For what is done before a run, perhaps on another machine than it: where BLEU is needed, `bleu` refuses.
    """
    try:
        bleu(language)
    except UserError as error:
        return f"{error}; `train` and `evaluate` will refuse without it"
    return None


def check_language(references: list[str], language: str | None) -> str | None:
    """What is wrong with counting the words of these lines as of that language, in a sentence; None: nothing.

    Text without spaces, scored as if it had them, has hardly a word that is right: a BLEU near 0, however good it is.
    """
    tokens = bleu(language).tokenizer.signature()
    letters = [c for line in references[:1000] for c in line if c.isalpha()]
    if tokens != "13a" or not letters:
        return None
    if sum(map(_is_of_no_spaces, letters)) * 2 > len(letters):
        said = f"into {language}" if language else "into a language that was not said"
        return (
            f"{said}, BLEU counts words between spaces, and the references have none: its number will mean nothing; "
            f"say the languages of the text with --data.languages, as in en-zh"
        )
    return None


@cache
def _is_of_no_spaces(character: str) -> bool:
    scripts = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
    return unicodedata.name(character, "").startswith(scripts)


def by_bleu(text: Translated, **settings: Any) -> Measured:
    """sacreBLEU with the tokens of the target language."""
    metric = bleu(text.language, **settings)
    return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())


def by_bleu_intl(text: Translated) -> Measured | None:
    """sacreBLEU with "intl" tokens; of languages with spaces between their words alone."""
    if bleu(text.language).tokenizer.signature() != "13a":
        return None
    metric = BLEU(tokenize="intl")
    return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())


def by_chrf(text: Translated) -> Measured:
    """Character n-grams, sacreBLEU's."""
    metric = CHRF()
    return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())


def by_the_papers_protocol(text: Translated) -> Measured | None:
    """The protocol of the paper's German numbers, by the steps of experiments.evaluation.moses.

    As multi-bleu counts, that is without smoothing: 0.00 where no four tokens in a row are right.
    """
    if primary(text.language or "") != "de":
        return None
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    outputs = list(map(hypothesis_tokens, text.outputs))
    value = metric.corpus_score(outputs, [list(map(reference_tokens, text.references))]).score
    return value, f"{metric.get_signature()}|input:get_ende_bleu.sh"


METRICS: Registry[MetricPart] = Registry(
    "metric",
    {
        "BLEU": by_bleu,
        "BLEU-intl": by_bleu_intl,
        "BLEU-lc": partial(by_bleu, lowercase=True),
        "BLEU-split": by_the_papers_protocol,
        "chrF2": by_chrf,
    },
)


def custom_metrics() -> dict[str, dict[str, str]]:
    """The metrics that are not of this code, each as "metric.NAME"."""
    return {
        f"metric.{name}": {"name": name} | METRICS.origins[name] for name in METRICS if name not in METRICS.built_in
    }


def score(text: Translated) -> tuple[list[Score], list[str]]:
    """All scores of a translation, the one to publish first, and why metrics of the user's own gave none."""
    scores, failed = [], []
    for name, metric in METRICS.items():
        try:
            if (found := metric(text)) is not None:
                scores.append(Score(name, *checked(found)))
        except Exception as error:
            if name in METRICS.built_in:
                raise
            failed.append(f"the metric {name!r} failed: {type(error).__name__}: {brief(error)}")
    return scores, failed


def scores_told(scores: list[Score]) -> list[str]:
    """What is printed of all scores: a line each, and one more where two of them seem not to be of one translation."""
    value = {score.name: score.value for score in scores}
    lines = list(map(str, scores))
    if value.get("BLEU-split") == 0 and value.get("BLEU", 0) > 0:
        lines.append("BLEU-split is 0 as no four tokens in a row are right: multi-bleu does not smooth; BLEU does")
    return lines


def checked(found: Measured) -> Measured:
    """The same, as a record can hold it. UserError for anything but a finite number and a text."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], str)):
        raise UserError(f"it wants to be a number and a signature, not {found!r}")
    value = float(found[0])
    if isinstance(found[0], str) or not math.isfinite(value):
        raise UserError(f"{found[0]!r} is no finite number")
    return value, found[1]


def tokens_of(signature: str) -> str:
    """The tokenizer that a signature of BLEU names: 13a of "nrefs:1|...|tok:13a|..."."""
    return next((part.removeprefix("tok:") for part in signature.split("|") if part.startswith("tok:")), "")
