"""Generated corpora, of any size, which need no download."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import grammar
from data.corpora.corpus import SPLITS, Contrast, Log, Source, SplitName
from data.grammar import documents
from data.labels import generated as classes
from data.text import Pair
from data.treebanks import generated


@dataclass(frozen=True)
class GrammarCorpus:
    """The generated corpus of data/grammar, of unlimited size, which needs no download."""

    name: str = "grammar"
    licence: str = "that of this code"
    languages: str = "en-de"
    seed: int = 0

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return {
            split: Source(f"data.grammar, seed {self.seed}", _hash_of(grammar.pairs(split, 100, seed=self.seed)))
            for split in SPLITS
        }

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        default = 100_000 if split == "train" else 1000
        return grammar.pairs(split, default if count is None else count, seed=self.seed)


@dataclass(frozen=True)
class GrammarDocuments:
    """The generated corpus of data/grammar/documents.py, with a contrastive test of its pronouns."""

    name: str = "grammar-documents"
    licence: str = "that of this code"
    languages: str = "en-de"
    seed: int = 0
    has_documents: bool = True

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return {
            split: Source(f"data.grammar.documents, seed {self.seed}", _hash_of(documents.pairs(split, 100, self.seed)))
            for split in SPLITS
        }

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        default = 100_000 if split == "train" else 1000
        return documents.pairs(split, default if count is None else count, self.seed)

    def contrasts(self, split: SplitName, downloads: Path, log: Log) -> tuple[list[Contrast], dict[str, Source]]:
        """Returns those of a split's 1,000 pairs."""
        found = [Contrast(*one) for one in documents.contrasts(split, 1000, self.seed)]
        return found, {f"{split}.contrasts": self.sources(downloads, log)[split]}


@dataclass(frozen=True)
class GeneratedTreebank:
    """The generated treebank of data/treebanks/generated.py."""

    name: str = "generated-trees"
    licence: str = "that of this code"
    languages: str | None = None
    seed: int = 0

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return {
            f"{split}.target": Source(
                f"data.treebanks.generated, seed {self.seed}", _hash_of(generated.pairs(split, 100, seed=self.seed))
            )
            for split in SPLITS
        }

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        default = 10_000 if split == "train" else 500
        return generated.pairs(split, default if count is None else count, seed=self.seed)


@dataclass(frozen=True)
class GeneratedClasses:
    """The generated texts with labels of data/labels/generated.py."""

    name: str = "generated-classes"
    licence: str = "that of this code"
    languages: str | None = None
    seed: int = 0

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return {
            f"{split}.target": Source(
                f"data.labels.generated, seed {self.seed}", _hash_of(classes.pairs(split, 100, seed=self.seed))
            )
            for split in SPLITS
        }

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        default = 10_000 if split == "train" else 500
        return classes.pairs(split, default if count is None else count, seed=self.seed)


def _hash_of(pairs: Iterator[Pair]) -> str:
    """SHA-256 of a sample. Of the text itself rather than a version number, which one could forget to increase."""
    return hashlib.sha256("\n".join(f"{a}\t{b}" for a, b in pairs).encode()).hexdigest()
