"""BLEU against time for the ways to translate with fewer steps: the test set of a run, one sentence or many at a time.

    python -m benchmarks.latency RUN [--mask-predict RUN2 ...] [--draft RUN3] [--count 200]

RUN is searched by a beam of 4 and greedily, and greedily with RUN3 as its draft; each RUN2 is decoded in 1, 2, 4 and 10
iterations. Each is timed on the first sentences one by one, and on the whole test set in batches of 64; all programs
are compiled before that. Outputs with a draft are compared with those of greedy search.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.timing import alone, record
from experiments.evaluation.metrics import bleu
from experiments.evaluation.test_sets import TestSet, own_split
from experiments.translator import Translator

ITERATIONS = (1, 2, 4, 10)
DRAFT = 4
"""Pieces of a draft."""
LENGTHS, EXTRA = 3, 12
"""Lengths that mask-predict tries, and how much longer than the source they may be. It computes as many pieces as the
longest may have, so the 50 of a search, which only an output without an end reaches, would double its time."""


def quiet(line: str) -> None:
    """Logs nothing."""


def with_settings(translator: Translator, **settings: Any) -> Translator:
    """The same model with other settings of decoding."""
    other = Translator(translator.params, translator.experiment, translator.tokenizer, quiet, translator.graph)
    decode = replace(translator.experiment.decode, **settings)
    other.experiment, other.meta = replace(translator.experiment, decode=decode), translator.meta
    return other


def ways(options: argparse.Namespace) -> dict[str, Translator]:
    """The ways to translate, by name."""
    run = Translator.load(options.run, log=quiet)
    greedy = with_settings(run, beam=1)
    found = {"beam of 4": with_settings(run, beam=4), "greedy": greedy}
    if options.draft:
        found[f"greedy, drafts of {DRAFT}"] = greedy.with_draft(Translator.load(options.draft, log=quiet), DRAFT)
    for name in options.mask_predict:
        at_once = Translator.load(name, log=quiet)
        for count in ITERATIONS:
            settings = {"beam": LENGTHS, "extra_length": EXTRA, "iterations": count}
            found[f"{Path(name).name}, {count}"] = with_settings(at_once, **settings)
    return found


def measured(translator: Translator, text: TestSet, count: int) -> tuple[dict[str, Any], list[str]]:
    """Seconds per sentence, one by one and in batches, and BLEU; and the outputs of the batches."""
    single, everything = text.sources[:count], text.sources
    for sentence in single:  # compiles what they need
        translator.translate([sentence])
    translator.translate(everything)
    with alone():
        start = time.perf_counter()
        outputs = translator.translate(everything)
        batched = time.perf_counter() - start
        times = []
        for sentence in single:
            start = time.perf_counter()
            translator.translate([sentence])
            times.append(time.perf_counter() - start)
    language = text.languages.target if text.languages else None
    score = bleu(language).corpus_score(outputs, [text.references]).score
    return {
        "bleu": score,
        "milliseconds, one by one": 1e3 * median(times),
        "milliseconds, in batches": 1e3 * batched / len(everything),
    }, outputs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("run")
    parser.add_argument("--mask-predict", nargs="+", default=[])
    parser.add_argument("--draft")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    found, outputs = {}, {}
    for name, translator in ways(options).items():
        text = own_split(translator, "test", quiet)
        found[name], outputs[name] = measured(translator, text, options.count)
        figures = "  ".join(f"{what} {value:.2f}" for what, value in found[name].items())
        print(f"{name:28} {figures}", flush=True)
    facts: dict[str, Any] = {"measured": found, "test set": text.label, "sentences one by one": options.count}
    if options.draft:
        pairs = zip(outputs["greedy"], outputs[f"greedy, drafts of {DRAFT}"], strict=True)
        facts["outputs that differ with a draft"] = sum(a != b for a, b in pairs)
        print(f"outputs that differ with a draft: {facts['outputs that differ with a draft']}")
    record("latency", facts, quiet=True)


if __name__ == "__main__":
    main()
