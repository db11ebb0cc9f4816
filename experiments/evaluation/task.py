"""The task of a model: how its outputs are scored, and what a sample shows.

The boundary between a task and the rest of the code. The model, the batches, the search and the work directory know
nothing about it: a corpus supplies pairs of lines (`data/corpora.py`), and the vocabulary turns lines into ids and ids
into lines (`data/tokenizer.py`). Everything that asks what a good output is goes through `task_of`.

After `TASKS["digits"] = Digits()`, the setting `data.task = "digits"` selects it.
"""

from typing import Protocol

from data.treebanks.linear import TAGS
from experiments.evaluation.evalb import F1, Bracketing, F1Score
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
from transformer.config import DataConfig, UserError
from transformer.registry import Registry


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


class Parsing:
    """A sentence into its constituency tree (section 6.3), scored by labelled bracketing F1."""

    metric = "F1"

    def __init__(self, tags: bool):
        self.tags = tags
        """Whether the model predicts part-of-speech tags."""

    def missing(self, config: DataConfig) -> str | None:
        """Nothing has to be installed."""
        return None

    def warning(self, references: list[str], language: str | None) -> str | None:
        """References that are no trees."""
        try:
            F1().corpus_score(references, [references])
        except UserError as error:
            return f"the references are not bracketed trees, one per line: {error}"
        return None

    def validate(self, outputs: list[str], references: list[str], config: DataConfig) -> float:
        """F1, of which a skipped sentence is no part."""
        return self._f1(outputs, references)[0].score

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """F1, and what else EVALB prints."""
        found, signature = self._f1(text.outputs, text.references)
        counts = found.counts
        scores = {
            "F1": found.score,
            "precision": counts.precision,
            "recall": counts.recall,
            "complete match": counts.complete_match,
        }
        tagging = {"tagging": counts.tagging} if self.tags else {}
        return [Score(name, value, signature) for name, value in (scores | tagging).items()], []

    def _f1(self, outputs: list[str], references: list[str]) -> tuple[F1Score, str]:
        metric = F1()
        pairs = [pair for pair in zip(outputs, references, strict=True) if pair[0]]
        if not pairs:
            return F1Score(Bracketing()), "nothing was parsed"
        found = metric.corpus_score([output for output, _ in pairs], [[reference for _, reference in pairs]])
        return found, str(metric.get_signature())

    def sample(self, source: str, output: str, reference: str) -> dict[str, str]:
        """Sentence, tree and reference."""
        return dict(zip(SAMPLE, (source, output, reference), strict=True))


TASKS: Registry[Task] = Registry(
    "data.task",
    {"translation": Translation()} | {name: Parsing(tags) for name, tags in TAGS.items()},
)
"""Tasks by name."""


def task_of(config: DataConfig) -> Task:
    """Returns the task of a corpus. UserError for an unknown one."""
    return TASKS.find(config.task)
