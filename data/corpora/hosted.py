"""Corpora in public files: parallel text, and treebanks."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import NamedTuple

from data.corpora.corpus import Log, Source, SplitName
from data.fetch import RemoteFile, fetch
from data.text import Pair, read_pairs
from data.treebanks.files import pairs_in


@dataclass(frozen=True)
class HostedCorpus:
    """Two parallel text files per split at public URLs, and optional additional test sets by name."""

    name: str
    licence: str
    languages: str
    files: dict[SplitName, tuple[RemoteFile, RemoteFile]]
    test_sets: dict[str, tuple[RemoteFile, RemoteFile]] = field(default_factory=dict)

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return {
            f"{split}.{side}": Source(file.address, file.sha256)
            for split, files in self.files.items()
            for side, file in zip(("source", "target"), files, strict=True)
        }

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        source, target = (fetch(file, downloads, log) for file in self.files[split])
        return islice(read_pairs(source, target), count)

    def test_set(self, name: str, downloads: Path, log: Log) -> tuple[list[Pair], dict[str, Source]]:
        files = self.test_sets[name]
        sources = {
            side: Source(file.address, file.sha256) for side, file in zip(("source", "target"), files, strict=True)
        }
        return list(read_pairs(*(fetch(file, downloads, log) for file in files))), sources


class Part(NamedTuple):
    """Trees of a treebank: those of some files, or of some members of an archive."""

    files: tuple[RemoteFile, ...]
    members: tuple[str, ...] = ()
    """Paths in the archive. Empty for all files with trees."""

    def pairs(self, downloads: Path, log: Log) -> Iterator[Pair]:
        """Yields the sentences and the bracketed trees."""
        members = set(self.members)
        for file in self.files:
            yield from pairs_in(fetch(file, downloads, log), lambda name: not members or name in members)

    def source(self) -> Source:
        """Returns what identifies the text: the hash covers the hashes of all files, and the names of all members."""
        first = self.files[0].address
        where = f"{first.rpartition('/')[0]}, {len(self.files)} files" if len(self.files) > 1 else first
        if self.members:
            where += f", {self.members[0]} to {PurePath(self.members[-1]).name}"
        parts = (*(f"{file.sha256}  {file.name}" for file in self.files), *self.members)
        return Source(where, hashlib.sha256("\n".join(parts).encode()).hexdigest())


@dataclass(frozen=True)
class HostedTreebank:
    """Treebanks at public URLs: the trees of a split are those of all its parts."""

    name: str
    licence: str
    parts: dict[SplitName, tuple[Part, ...]]
    test_sets: dict[str, Part] = field(default_factory=dict)
    languages: str | None = None

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return {
            f"{split}.target" + (f".{number}" if number else ""): part.source()
            for split, parts in self.parts.items()
            for number, part in enumerate(parts)
        }

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        return islice(chain.from_iterable(part.pairs(downloads, log) for part in self.parts[split]), count)

    def test_set(self, name: str, downloads: Path, log: Log) -> tuple[list[Pair], dict[str, Source]]:
        part = self.test_sets[name]
        return list(part.pairs(downloads, log)), {"target": part.source()}
