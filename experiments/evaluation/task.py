"""The task of a model: how its outputs are scored, and what a sample shows. Translation is the only one so far.

The boundary between a task and the rest of the code. The model, the batches, the search and the work directory know
nothing about it: a corpus supplies pairs of lines (`data/corpora.py`), and the vocabulary turns lines into ids and ids
into lines (`data/tokenizer.py`). Everything that asks what a good output is goes through `task_of`.
"""

from typing import Protocol

from experiments.evaluation.metrics import (
    Score,
    Translated,
    bleu,
    check_language,
    check_tokenizer,
    score,
    target_language,
)
from experiments.history import SAMPLE
from transformer.config import DataConfig


class Task(Protocol):
    """What depends on the task."""

    metric: str
    """Name of the score that training shows after each validation, in lower case the `dev_bleu` of metrics.jsonl."""

    def missing(self, config: DataConfig) -> str | None:
        """Returns what has to be installed before outputs can be scored; None if nothing is missing."""

    def warning(self, references: list[str], language: str | None) -> str | None:
        """Returns why references in this language would be scored wrongly; None if they would not."""

    def validate(self, outputs: list[str], references: list[str], config: DataConfig) -> float:
        """Returns the score `metric` of some validation outputs."""

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """Returns all scores of a test set, the one to publish first, and the failures of custom metrics."""

    def sample(self, source: str, output: str, reference: str) -> dict[str, str]:
        """Returns the labelled texts of a sample, in the order in which they are shown."""


class Translation:
    """Text into another language, scored by BLEU and chrF."""

    metric = "BLEU"

    def missing(self, config: DataConfig) -> str | None:
        """The tokenizer that sacreBLEU uses for the target language."""
        return check_tokenizer(target_language(config))

    def warning(self, references: list[str], language: str | None) -> str | None:
        """References without spaces that BLEU would split at spaces."""
        return check_language(references, language)

    def validate(self, outputs: list[str], references: list[str], config: DataConfig) -> float:
        """BLEU."""
        return float(bleu(target_language(config)).corpus_score(outputs, [references]).score)

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """Every registered metric."""
        return score(text)

    def sample(self, source: str, output: str, reference: str) -> dict[str, str]:
        """Source, output and reference."""
        return dict(zip(SAMPLE, (source, output, reference), strict=True))


_TRANSLATION = Translation()


def task_of(config: DataConfig) -> Task:
    """Returns the task of a corpus."""
    return _TRANSLATION
