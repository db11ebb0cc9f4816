"""Generated corpora, of any size, which need no download."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from data import grammar
from data.corpora.corpus import SPLITS, Contrast, Log, Source, SplitName
from data.grammar import documents
from data.labels import generated as classes
from data.text import Pair
from data.treebanks import generated


@dataclass(frozen=True)
class Generated:
    """A corpus of unlimited size that a module of this code generates, without a download."""

    name: str
    licence: str = "that of this code"
    languages: str | None = None
    seed: int = 0

    text: ClassVar[ModuleType]
    """Its function `pairs(split, count, seed=...)` yields the text."""
    side: ClassVar[str] = ""
    """Ends the names of the sources: ".target" where the sentences are those of the targets."""
    sizes: ClassVar[tuple[int, int]]
    """Number of pairs of train, and of each other split."""

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        name = f"{self.text.__name__}, seed {self.seed}"
        return {
            f"{split}{self.side}": Source(name, _hash_of(self.text.pairs(split, 100, seed=self.seed)))
            for split in SPLITS
        }

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        default = self.sizes[0 if split == "train" else 1]
        found: Iterator[Pair] = self.text.pairs(split, default if count is None else count, seed=self.seed)
        return found


@dataclass(frozen=True)
class GrammarCorpus(Generated):
    """The generated corpus of data/grammar."""

    name: str = "grammar"
    languages: str | None = "en-de"

    text: ClassVar[ModuleType] = grammar
    sizes: ClassVar[tuple[int, int]] = 100_000, 1000


@dataclass(frozen=True)
class GrammarDocuments(Generated):
    """The generated corpus of data/grammar/documents.py, with a contrastive test of its pronouns."""

    name: str = "grammar-documents"
    languages: str | None = "en-de"
    has_documents: bool = True

    text: ClassVar[ModuleType] = documents
    sizes: ClassVar[tuple[int, int]] = 100_000, 1000

    def contrasts(self, split: SplitName, downloads: Path, log: Log) -> tuple[list[Contrast], dict[str, Source]]:
        """Returns those of a split's 1,000 pairs."""
        found = [Contrast(*one) for one in documents.contrasts(split, 1000, self.seed)]
        return found, {f"{split}.contrasts": self.sources(downloads, log)[split]}


@dataclass(frozen=True)
class GeneratedTreebank(Generated):
    """The generated treebank of data/treebanks/generated.py."""

    name: str = "generated-trees"

    text: ClassVar[ModuleType] = generated
    side: ClassVar[str] = ".target"
    sizes: ClassVar[tuple[int, int]] = 10_000, 500


@dataclass(frozen=True)
class GeneratedClasses(Generated):
    """The generated texts with labels of data/labels/generated.py."""

    name: str = "generated-classes"

    text: ClassVar[ModuleType] = classes
    side: ClassVar[str] = ".target"
    sizes: ClassVar[tuple[int, int]] = 10_000, 500


def _hash_of(pairs: Iterator[Pair]) -> str:
    """SHA-256 of a sample. Of the text itself rather than a version number, which one could forget to increase."""
    return hashlib.sha256("\n".join(f"{a}\t{b}" for a, b in pairs).encode()).hexdigest()
