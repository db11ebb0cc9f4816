"""The user's own text: parallel files, or treebanks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

from data.corpora.corpus import SPLITS, Log, Source, SplitName
from data.fetch import sha256_of
from data.text import BOUNDARY, Pair, check_file, read_pairs
from data.treebanks.files import digest_of, pairs_in
from data.treebanks.linear import TAGS
from transformer.config import DataConfig, Documents, UserError


@dataclass(frozen=True)
class FilesCorpus:
    """A user-defined corpus: two parallel files per split."""

    files: dict[SplitName, tuple[Path, Path]]
    name: str = "files"
    licence: str = "the user's own text"
    languages: str | None = None
    documents: Documents = "blank"
    """How the files separate documents: data.documents."""
    has_documents: bool = True

    def paths(self) -> dict[str, Path]:
        """Returns the files by role, such as "train.source"."""
        return {
            f"{split}.{side}": path
            for split, files in self.files.items()
            for side, path in zip(("source", "target"), files, strict=True)
        }

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return {role: self.source(role) for role in self.paths()}

    def source(self, role: str) -> Source:
        """Returns the absolute path and the SHA-256 of a file. UserError if it cannot be read."""
        path = self.paths()[role]
        check_file(path)
        return Source(str(path.absolute()), sha256_of(path))

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        return islice(read_text(*self.files[split], self.documents), count)


def read_text(source: Path, target: Path, documents: Documents) -> Iterator[Pair]:
    """Yields the pairs of two parallel files, blank ones included, as data.documents says.

    UserError for a line without the name of its document, or if the two sides name different ones.
    """
    if documents == "blank":
        yield from read_pairs(source, target)
        return
    names, pairs = tee(read_named(source, target))
    yield from by_document((name for name, _ in names), (pair for _, pair in pairs))


def read_named(source: Path, target: Path) -> Iterator[tuple[str, Pair]]:
    """Yields the name of the document of each line of two files (data.documents = column), and the pair."""
    for number, pair in enumerate(read_pairs(source, target), start=1):
        (name, tab, a), (other, other_tab, b) = (line.partition("\t") for line in pair)
        for path, found, given in ((source, tab, name), (target, other_tab, other)):
            if not (found and given.strip()):
                raise UserError(f"{path}, line {number}: no name of a document and tab (data.documents = column)")
        if name != other:
            raise UserError(
                f"line {number} is of document {name!r} in {source} but of {other!r} in {target}: the boundaries must "
                f"be at the same lines"
            )
        yield name, (a, b)


def by_document(names: Iterable[str], pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Yields pairs, with BOUNDARY where the name of the document changes."""
    last = None
    for name, pair in zip(names, pairs, strict=True):
        if last not in (None, name):
            yield BOUNDARY
        last = name
        yield pair


@dataclass(frozen=True)
class TreebankFiles(FilesCorpus):
    """A user-defined treebank: for each split a file, a folder or an archive of bracketed trees (its two sides)."""

    name: str = "treebank"

    def paths(self) -> dict[str, Path]:
        """Returns the treebanks by role, such as "train.target": the sentences are those of the trees."""
        return {f"{split}.target": path for split, (_, path) in self.files.items()}

    def source(self, role: str) -> Source:
        path = self.paths()[role]
        return Source(str(path.absolute()), digest_of(path))

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        return islice(pairs_in(self.files[split][1]), count)


def own_trees(config: DataConfig) -> dict[SplitName, tuple[Path, Path]]:
    """Treebanks, or files of labelled text, by split, with dev as the default for test. Empty if none are given.

    UserError if one is missing, or for sentences beside them: they would have to be those of the trees.
    """
    given = {split: value for split in SPLITS if (value := getattr(config, f"{split}_tgt")) is not None}
    for split in SPLITS:
        if getattr(config, f"{split}_src") is not None:
            raise UserError(
                f"--data.{split}-src: the sentences of a treebank are those of its trees, and labelled text has labels "
                f"and text in one file; give --data.{split}-tgt only"
            )
    if not given and config.corpus != "files":
        return {}
    for split in ("train", "dev"):
        if split not in given:
            kind = "treebank" if config.task in TAGS else "labelled text"
            raise UserError(f"--data.{split}-tgt is missing: your own {kind} needs train and dev")
    given.setdefault("test", given["dev"])
    return {split: (Path(given[split]), Path(given[split])) for split in SPLITS}


def own_files(config: DataConfig) -> dict[SplitName, tuple[Path, Path]]:
    """User-defined files by split, with dev as the default for test. Empty if none are given."""
    names = [f"{split}_{side}" for split in SPLITS for side in ("src", "tgt")]
    given = {name: Path(value) for name in names if (value := getattr(config, name)) is not None}
    if not given and config.corpus != "files":
        return {}
    if "test_src" not in given and "test_tgt" not in given and "dev_src" in given and "dev_tgt" in given:
        given |= {"test_src": given["dev_src"], "test_tgt": given["dev_tgt"]}
    for name in names:
        if name not in given:
            option = name.replace("_", "-")
            raise UserError(f"--data.{option} is missing: your own text needs both sides of train and dev")
    return {split: (given[f"{split}_src"], given[f"{split}_tgt"]) for split in SPLITS}
