"""The tasks whose outputs are labels: classification, tagging, and named entities."""

from sacrebleu.metrics.base import Metric

from data.labels.targets import words_of
from experiments.labels.scores import (
    Accuracy,
    EntityF1,
    Found,
    MacroF1,
    found_entities,
    found_labels,
    is_tag,
    percent,
    totals,
)
from experiments.task import TASKS, Score, Task, Translated
from transformer.config import UserError, counted


def tabulated(found: dict[str, Found]) -> dict[str, dict[str, float]]:
    """Returns the rows of a table of labels."""
    return {
        label: {"F1": counts.f1, "precision": counts.precision, "recall": counts.recall, "count": counts.gold}
        for label, counts in found.items()
    }


class Classification(Task):
    """A text into its label, scored by accuracy and macro F1."""

    metric = "accuracy"

    def metrics(self, language: str | None) -> dict[str, Metric]:
        """Accuracy, and the mean F1 of the labels."""
        return {"accuracy": Accuracy(), "macro F1": MacroF1()}

    def warning(self, sources: list[str], references: list[str], language: str | None) -> str | None:
        """None. UserError for a reference that is not one label."""
        for number, line in enumerate(references, start=1):
            if len(line.split()) != 1:
                raise UserError(f"line {number}: the reference is not one label: {line[:100]!r}")
        return None

    def details(self, text: Translated) -> dict[str, dict[str, dict[str, float]]]:
        """F1, precision and recall by label."""
        return {"label": tabulated(totals(map(found_labels, text.outputs, text.references)))}


class Tagging(Task):
    """A sentence into the tags of its words, scored by accuracy."""

    metric = "accuracy"

    def metrics(self, language: str | None) -> dict[str, Metric]:
        """Accuracy over words."""
        return {"accuracy": Accuracy()}

    def warning(self, sources: list[str], references: list[str], language: str | None) -> str | None:
        """None. UserError for references without a tag for each word."""
        for number, (source, line) in enumerate(zip(sources, references, strict=True), start=1):
            if (tags := len(line.split())) != (words := len(words_of(source))):
                raise UserError(f"line {number}: {counted(tags, 'tag')} for {counted(words, 'word')}: {line[:100]!r}")
        return None

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """Accuracy, and the percentage of the sentences whose tags are all right."""
        scores, failed = super().score(text)
        complete = sum(output == reference for output, reference in zip(text.outputs, text.references, strict=True))
        value = percent(complete, len(text.references))
        return [*scores, Score("complete match", value, scores[0].signature)], failed

    def details(self, text: Translated) -> dict[str, dict[str, dict[str, float]]]:
        """F1, precision and recall by tag."""
        return {"tag": tabulated(totals(map(found_labels, text.outputs, text.references)))}


class Entities(Tagging):
    """A sentence into the named entities in it, as tags B-PER I-PER O of its words, scored by F1 of the entities."""

    metric = "F1"

    def metrics(self, language: str | None) -> dict[str, Metric]:
        """F1 of the entities, and accuracy over words."""
        return {"F1": EntityF1(), "accuracy": Accuracy()}

    def warning(self, sources: list[str], references: list[str], language: str | None) -> str | None:
        """An I without a B. UserError for references that are no such tags, or without one for each word."""
        super().warning(sources, references, language)
        for number, line in enumerate(references, start=1):
            before = "O"
            for tag in line.split():
                if not is_tag(tag):
                    raise UserError(f"line {number}: {tag!r} is not a tag of entities, such as B-PER, I-PER or O")
                if tag.startswith("I-") and before not in (tag, f"B-{tag[2:]}"):
                    return f"line {number}: {tag} follows {before}: it is read as the beginning of an entity"
                before = tag
        return None

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """F1 with its precision and recall, and accuracy."""
        (f1, *others), failed = super().score(text)
        found = sum(totals(map(found_entities, text.outputs, text.references)).values(), Found())
        parts = {"precision": found.precision, "recall": found.recall}
        return [f1, *(Score(name, value, f1.signature) for name, value in parts.items()), *others], failed

    def details(self, text: Translated) -> dict[str, dict[str, dict[str, float]]]:
        """F1, precision and recall by type of entity."""
        return {"type": tabulated(totals(map(found_entities, text.outputs, text.references)))}


TASKS.build_in({"classification": Classification(), "tagging": Tagging(), "entities": Entities()})
