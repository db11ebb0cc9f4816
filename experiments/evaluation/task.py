"""The tasks: translation, and constituency parsing."""

from collections.abc import Sequence

from sacrebleu.metrics import CHRF
from sacrebleu.metrics.base import Metric

from data.treebanks.linear import TAGS, is_tree_over, sequence_of
from data.treebanks.trees import tree_in, words_in, words_of
from experiments.evaluation.evalb import F1, by_label, by_length
from experiments.evaluation.metrics import bleu, check_language, check_tokenizer, score
from experiments.task import TASKS, Score, Task, Translated
from transformer.config import UserError


class Translation(Task):
    """Text into another language, scored by BLEU and chrF."""

    metric = "BLEU"

    def metrics(self, language: str | None) -> dict[str, Metric]:
        """BLEU with the tokenizer of the language, and chrF."""
        return {"BLEU": bleu(language), "chrF2": CHRF()}

    def missing(self, language: str | None) -> str | None:
        """The tokenizer that sacreBLEU uses for the target language."""
        return check_tokenizer(language)

    def warning(self, sources: list[str], references: list[str], language: str | None) -> str | None:
        """References without spaces that BLEU would split at spaces."""
        return check_language(references, language)

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """Every registered metric."""
        return score(text)


class Parsing(Task):
    """A sentence into its constituency tree (section 6.3), scored by labelled bracketing F1."""

    metric = "F1"

    def __init__(self, tags: bool):
        self.tags = tags
        """Whether the model predicts part-of-speech tags."""

    def metrics(self, language: str | None) -> dict[str, Metric]:
        """F1."""
        return {"F1": F1()}

    def warning(self, sources: list[str], references: list[str], language: str | None) -> str | None:
        """None. UserError for references that are no trees over the words of their sentences."""
        for number, (source, line) in enumerate(zip(sources, references, strict=True), start=1):
            try:
                words = [word.text for word in words_of(tree_in(line, f"reference {number}"))]
            except UserError as error:
                raise UserError(f"the references are not bracketed trees, one per line: {error}") from error
            if words != words_in(source):
                raise UserError(
                    f"line {number}: the reference is not a tree over the words of its sentence: {line[:100]}"
                )
        return None

    def is_repaired(self, source: str, pieces: Sequence[str]) -> bool:
        """Whether the symbols are no linearised tree with as many words as the sentence."""
        return not is_tree_over(words_in(source), [piece.removeprefix("▁") for piece in pieces])

    def score(self, text: Translated) -> tuple[list[Score], list[str]]:
        """F1, and what else EVALB prints."""
        metric = F1()
        found = metric.corpus_score(text.outputs, [text.references])
        signature = str(metric.get_signature())
        counts = found.counts
        scores = {
            "F1": found.score,
            "precision": counts.precision,
            "recall": counts.recall,
            "complete match": counts.complete_match,
        }
        tagging = {"tagging": counts.tagging} if self.tags else {}
        return [Score(name, value, signature) for name, value in (scores | tagging).items()], []

    def published(self, output: str) -> str:
        """The symbols of the tree: the words are those of the treebank, whose licence may forbid to distribute them."""
        return sequence_of(output, tags=True)

    def details(self, text: Translated) -> dict[str, dict[str, dict[str, float]]]:
        """F1 by label of the constituent and by length of the sentence in words."""
        parsed = [(gold, output) for gold, output in zip(text.references, text.outputs, strict=True) if output]
        golds, outputs = ([tree_in(pair[side], "tree") for pair in parsed] for side in (0, 1))
        return {
            "label": {
                label: {
                    "F1": counts.f1,
                    "precision": counts.precision,
                    "recall": counts.recall,
                    "brackets": counts.gold,
                }
                for label, counts in by_label(golds, outputs).items()
            },
            "words": {
                words: {"F1": counts.f1, "complete match": counts.complete_match, "sentences": counts.sentences}
                for words, counts in by_length(golds, outputs).items()
            },
        }


TASKS.build_in({"translation": Translation()} | {name: Parsing(tags) for name, tags in TAGS.items()})
