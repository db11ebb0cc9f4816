"""What a corpus is: sentence pairs in three splits, with the sources that identify the text."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

from data.text import Pair

SplitName = Literal["train", "dev", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
Log = Callable[[str], object]


class Source(NamedTuple):
    """One source of a corpus: a human-readable name, and the SHA-256 of its content."""

    name: str
    sha256: str


class Corpus(Protocol):
    """Parallel corpus: sentence pairs in three splits. In built-in corpora the source language is English.

    `languages` are the codes of source and target language, as in "en-de", or None if unknown (user-defined files
    without data.languages).
    """

    @property
    def name(self) -> str: ...

    @property
    def licence(self) -> str: ...

    @property
    def languages(self) -> str | None: ...

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        """Returns the sources that determine the text, by role such as "train.source"."""

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        """Yields the sentence pairs of a split, or the first `count` of them; blank pairs are included."""


@runtime_checkable
class Built(Corpus, Protocol):
    """A corpus whose text is built into a folder first, from a download or from the user's own copy.

    The hashes of its sources are known only where the text was built, so `sources` may take hours or raise UserError.
    """

    def adopt(self, given: Path, downloads: Path, log: Log) -> None:
        """Builds the text from a local folder. UserError if the folder does not have what is needed."""


@runtime_checkable
class OfDocuments(Corpus, Protocol):
    """A corpus of documents: a blank pair separates two of them, in every split. Others have no data.context."""

    @property
    def has_documents(self) -> bool: ...


class Contrast(NamedTuple):
    """A sentence with its translation, and with wrong ones that differ from it in a word, such as a pronoun.

    Which one is right may depend on the sentences before it (Müller et al., 2018).
    """

    context: list[Pair]
    """The sentences before it in its document, with their translations, the nearest last."""
    source: str
    target: str
    contrastive: list[str]
    """Wrong translations."""
    group: str
    """What is counted separately: the right pronoun."""


@runtime_checkable
class WithContrasts(Corpus, Protocol):
    """A corpus with a contrastive test of its own."""

    def contrasts(self, split: SplitName, downloads: Path, log: Log) -> tuple[list[Contrast], dict[str, Source]]:
        """Returns the contrasts of a split, and their sources by role."""


@runtime_checkable
class WithTestSets(Corpus, Protocol):
    """A corpus with further test sets, which `evaluate --test-set` finds by their names."""

    @property
    def test_sets(self) -> Collection[str]: ...

    def test_set(self, name: str, downloads: Path, log: Log) -> tuple[list[Pair], dict[str, Source]]:
        """Returns the sentence pairs of a further test set, and its sources by side."""
