"""Text that is built once from what was downloaded or given, and then read like any other text."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.corpora.corpus import SPLITS, Source
from data.fetch import sha256_of
from data.folders import atomic_folder, created
from transformer.config import UserError


@dataclass(frozen=True)
class TextFolder:
    """Folder with the text files of a corpus, and sources.json with their origin and hashes."""

    path: Path

    def origin(self) -> tuple[str, dict[str, str]]:
        """Returns the origin of the text, and the SHA-256 of each file, computed when the files were created."""
        try:
            facts = json.loads((self.path / "sources.json").read_text(encoding="utf-8"))
            return str(facts["origin"]), dict(facts["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / 'sources.json'} is damaged: remove {self.path} and prepare again") from error

    def sources(self, endings: tuple[str, str]) -> dict[str, Source]:
        """Returns the sources of a corpus by role. `endings` are those of the files of its two sides."""
        origin, hashes = self.origin()
        return {
            f"{split}.{side}": Source(f"{split}.{ending}, {origin}", hashes[f"{split}.{ending}"])
            for split in SPLITS
            for side, ending in zip(("source", "target"), endings, strict=True)
        }


@contextmanager
def created_text(folder: TextFolder, names: list[str], origin: str) -> Iterator[Path]:
    """Yields a temporary folder for the text, then adds sources.json and renames it to `folder`."""
    with created(folder.path.parent), atomic_folder(folder.path) as new:
        yield new
        for path in new.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        facts = {"origin": origin, "sha256": {name: sha256_of(new / name) for name in names}}
        (new / "sources.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
