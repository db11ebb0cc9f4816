"""The Wall Street Journal part of the Penn Treebank, LDC99T42 (section 6.3 of the paper).

It is licensed by the Linguistic Data Consortium and cannot be downloaded. `prepare wsj --from-dir FOLDER` reads it from
the user's own copy, wherever in the folder the files wsj_0001.mrg to wsj_2454.mrg are; they may be compressed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from data.corpora.corpus import Log, Source, SplitName
from data.corpora.text_folder import TextFolder, created_text
from data.text import Pair
from data.treebanks.files import pairs_in, trees_in
from data.treebanks.trees import bracketed, standard
from transformer.config import UserError

SECTIONS = {"train": range(2, 22), "dev": range(22, 23), "test": range(23, 24)}
"""The standard division since Collins (1997)."""

TREES = {"train": 39_832, "dev": 1_700, "test": 2_416}
"""Number of trees in these sections."""

SILVER = "silver"
"""Folder of automatically parsed sentences, in the user's folder."""


@dataclass(frozen=True)
class WSJ:
    """The Wall Street Journal part of the Penn Treebank, from the user's own copy.

    Args:
        silver: whether the training text also has automatically parsed sentences, those of the user's choice.
    """

    name: str
    silver: bool
    licence: str = "Linguistic Data Consortium, LDC99T42"
    languages: str | None = None

    def _folder(self, downloads: Path) -> TextFolder:
        return TextFolder(downloads / self.name)

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        folder = self._folder(downloads)
        if not folder.path.exists():
            raise UserError(
                f"{self.name} is licensed by the Linguistic Data Consortium (LDC99T42) and cannot be downloaded: "
                f"prepare {self.name} --from-dir FOLDER, with your copy of it"
            )
        return folder.sources(("trees", "trees"))

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        return islice(pairs_in(self._folder(downloads).path / f"{split}.trees"), count)

    def adopt(self, given: Path, downloads: Path, log: Log) -> None:
        """Reads the sections from a local folder."""
        adopt(given, self._folder(downloads), self.silver)


def adopt(given: Path, folder: TextFolder, silver: bool) -> None:
    """Writes the trees of the three splits from the user's copy into `folder`, one per line.

    Args:
        silver: whether the training text also has the trees of the files in the subfolder `silver`.

    Raises:
        UserError: the sections do not have the number of trees that they are known to have, or there is no `silver`.
    """
    if folder.path.exists():
        raise UserError(f"{folder.path} already exists: remove it to create it from {given}")
    if not given.is_dir():
        raise UserError(f"{given} is not a folder")
    if silver and not (given / SILVER).is_dir():
        raise UserError(f"{given} has no folder {SILVER!r} with automatically parsed sentences, one tree per line")
    with created_text(folder, [f"{split}.trees" for split in SECTIONS], f"sections in {given.name}") as new:
        for split, sections in SECTIONS.items():
            count = 0
            with (new / f"{split}.trees").open("w", encoding="utf-8") as file:
                for tree in trees_in(given, lambda name, wanted=sections: section_of(name) in wanted):  # type: ignore[misc]
                    count += 1
                    if bare := standard(tree):
                        file.write(bracketed(bare) + "\n")
                if count != TREES[split]:
                    names = f"{sections[0]:02} to {sections[-1]:02}" if len(sections) > 1 else f"{sections[0]:02}"
                    raise UserError(
                        f"{given} has {count:,} trees in the sections {names} of wsj, not {TREES[split]:,}: it is not "
                        f"the whole of LDC99T42, or has some files twice"
                    )
                if silver and split == "train":
                    for _, line in pairs_in(given / SILVER):
                        file.write(line + "\n")


def section_of(name: str) -> int | None:
    """Returns the section of a file by its name: 23 of parsed/mrg/wsj/23/wsj_2300.mrg. None for any other file."""
    found = re.fullmatch(r"wsj_(\d\d)\d\d\.mrg(?:\.gz|\.xz)?", PurePath(name).name, re.IGNORECASE)
    return int(found[1]) if found else None
