"""What a task is: how the outputs of a model are scored, and what a sample of them shows.

The boundary between a task and the rest of the code. The model, the batches, the search and the work directory know
nothing about it: a corpus supplies pairs of lines (`data/corpora/`), and the vocabulary turns lines into ids and ids
into lines (`data/tokenizer.py`). Everything that asks what a good output is goes through `task_of`.

After `TASKS["digits"] = Digits()`, the setting `data.task = "digits"` selects it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sacrebleu.metrics.base import Metric

from experiments.history import SAMPLE, Row
from transformer.config import DataConfig
from transformer.registry import Registry


class Score(NamedTuple):
    """A corpus score, in percent, and the signature that states how it was computed."""

    name: str
    value: float
    signature: str
    margin: float | None = None
    """Half the width of its 95% interval over test sets like this one; None if it is not known."""

    def __str__(self) -> str:
        margin = "" if self.margin is None else f" ± {self.margin:.2f}"
        return f"{self.name} = {self.value:.2f}{margin}   {self.signature}"


class Translated(NamedTuple):
    """The input of a metric, line by line: sources, their translations, and references."""

    sources: list[str]
    outputs: list[str]
    references: list[str]
    language: str | None = None
    """The target language, such as "de" or "zh-Hans"; None if it is unknown."""


class Task(Protocol):
    """What depends on the task. A subclass needs `metric` and `metrics` only: the rest follows from them."""

    metric: str
    """Name of the score that training shows after each validation, in lower case the `dev_bleu` of metrics.jsonl. The
    higher the better."""

    def metrics(self, language: str | None) -> dict[str, Metric]:
        """Returns the metrics by which `compare` tests two systems, by name: `metric` first.

        They are metrics of sacreBLEU, whose significance tests need the statistics of each line.
        """

    def missing(self, language: str | None) -> str | None:
        """Returns what has to be installed before outputs can be scored; None if nothing is missing."""
        return None

    def warning(self, sources: list[str], references: list[str], language: str | None) -> str | None:
        """Returns why outputs would be scored wrongly with these references; None if they would not.

        UserError if they cannot be scored at all.
        """
        return None

    def is_repaired(self, source: str, pieces: Sequence[str]) -> bool:
        """Whether the vocabulary had to change what the model predicted, for the output to be one of this task."""
        return False

    def validate(self, outputs: list[str], references: list[str], language: str | None) -> float:
        """Returns the score `metric` of some validation outputs."""
        return float(self.metrics(language)[self.metric].corpus_score(outputs, [references]).score)

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """Returns all scores of a test set, the one to publish first, and the failures of custom metrics."""
        scores = []
        for name, metric in self.metrics(text.language).items():
            value = metric.corpus_score(text.outputs, [text.references]).score
            scores.append(Score(name, value, str(metric.get_signature())))
        return scores, []

    def details(self, text: Translated) -> dict[str, dict[str, dict[str, float]]]:
        """Returns tables of the scores of parts of a test set, by title, row and column."""
        return {}

    def published(self, output: str) -> str:
        """Returns what is published of an output beside a record, which anyone may read: no text of the source."""
        return output

    def sample(self, source: str, output: str, reference: str) -> dict[str, str]:
        """Returns the labelled texts of a sample, in the order in which they are shown."""
        return dict(zip(SAMPLE, (source, output, reference), strict=True))


TASKS: Registry[Task] = Registry("data.task", {})
"""Tasks by name. Those of this code are in experiments/evaluation/task.py, which the package imports."""


def task_of(config: DataConfig) -> Task:
    """Returns the task of a corpus. UserError for an unknown one."""
    return TASKS.find(config.task)


def score_in(rows: Iterable[Row], config: DataConfig | None = None) -> tuple[str, str]:
    """Returns the name of a run's validation score, in the rows of metrics.jsonl and for the reader.

    The rows decide: a run may be watched where its task is not registered.
    """
    names = (name for row in rows for name in row if name.startswith("dev_") and name not in ("dev_loss", "dev_ppl"))
    known = {f"dev_{task.metric.lower()}": task.metric for task in TASKS.values()}
    expected = TASKS[config.task].metric if config and config.task in TASKS else "score"
    name = next(names, f"dev_{expected.lower()}")
    return name, known.get(name, name.removeprefix("dev_"))
