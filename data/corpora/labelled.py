"""Corpora of labels: the tags of a treebank, generated ones, and the user's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data.corpora.corpus import Corpus, Log, Source, SplitName, WithTestSets
from data.corpora.own import FilesCorpus
from data.labels.files import sentences_in, texts_in
from data.text import SEPARATOR, Pair
from data.treebanks.trees import tree_in, words_of
from transformer.config import UserError


@dataclass(frozen=True)
class TreebankTags:
    """The words of a treebank with their part-of-speech tags."""

    name: str
    treebank: Corpus

    @property
    def licence(self) -> str:
        return self.treebank.licence

    @property
    def languages(self) -> str | None:
        return self.treebank.languages

    @property
    def test_sets(self) -> tuple[str, ...]:
        return tuple(self.treebank.test_sets) if isinstance(self.treebank, WithTestSets) else ()

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return self.treebank.sources(downloads, log)

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        return map(tagged, self.treebank.pairs(split, count, downloads, log))

    def test_set(self, name: str, downloads: Path, log: Log) -> tuple[list[Pair], dict[str, Source]]:
        assert isinstance(self.treebank, WithTestSets)
        pairs, sources = self.treebank.test_set(name, downloads, log)
        return list(map(tagged, pairs)), sources


def tagged(pair: Pair) -> Pair:
    """Returns the sentence of a tree with the tags of its words, for the sentence with the tree."""
    return pair[0], " ".join(word.tag for word in words_of(tree_in(pair[1], "tree")))


@dataclass(frozen=True)
class LabelFiles(FilesCorpus):
    """The user's own labelled text: for each split one file (its two sides), of texts or of tagged words."""

    name: str = "labelled"
    of_words: bool = False
    separable: bool = True
    """Whether SEPARATOR is a piece, so that texts may be pairs."""

    def paths(self) -> dict[str, Path]:
        """Returns the files by role, such as "train.target": the texts are beside their labels."""
        return {f"{split}.target": path for split, (_, path) in self.files.items()}

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        path = self.files[split][1]
        for text, label in islice((sentences_in if self.of_words else texts_in)(path), count):
            if not (self.of_words or self.separable) and f" {SEPARATOR} " in text:
                raise UserError(f"{path} has pairs of texts, which {SEPARATOR} separates: --data.symbols {SEPARATOR!r}")
            yield text, label
