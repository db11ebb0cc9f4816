"""WMT14 English-German and English-French as plain text, made by tensorflow-datasets' own builder.

TensorFlow unpacks the archives. It is imported in one place, the process `python -m data.wmt14` that `build_text`
starts: preparing needs it once, training never. What comes out is six text files, and everything after that is the
same as for any other text. The builder shuffles each split by the hash of its keys, always in the same way.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.fetch import RemoteFile, check_room, fetch, sha256_of
from data.folders import appears_whole
from data.text import read_pairs
from transformer.config import UserError

Log = Callable[[str], object]
Archives = tuple[RemoteFile, ...]

SPLITS = {"train": "train", "validation": "dev", "test": "test"}  # the builder's name: ours
PAIRS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class TextFolder:
    """The six text files of a pair, and sources.json: where they come from, and their hashes."""

    path: Path

    def origin(self) -> tuple[str, dict[str, str]]:
        """Where the text comes from, and SHA-256 by file name. The files were hashed when they were made."""
        try:
            facts = json.loads((self.path / "sources.json").read_text(encoding="utf-8"))
            return str(facts["origin"]), dict(facts["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path / 'sources.json'} is damaged: remove {self.path}, and prepare again"
            ) from error


def text_folder(language: str, archives: Archives, downloads: Path, log: Log) -> TextFolder:
    """The text of a pair; if it is not there yet, the archives are fetched and the builder is run."""
    folder = TextFolder(downloads / f"wmt14-en-{language}")
    if not folder.path.exists():
        paths = {file.address: fetch(file, downloads, log) for file in archives}
        _build_from(paths, language, folder, log)
    return folder


def adopt(language: str, archives: Archives, given: Path, downloads: Path, log: Log) -> None:
    """Makes the text of a pair from a folder of the user's.

    It may hold {train,dev,test}.{en,LANGUAGE} as plain text; or {train,validation,test}-*.parquet, each row with a
    "translation" of both languages; or the archives themselves. UserError if it holds none of these, or not all files.
    """
    folder = TextFolder(downloads / f"wmt14-en-{language}")
    if folder.path.exists():
        raise UserError(f"{folder.path} is there already: remove it to make it from {given}")
    names = [f"{split}.{side}" for split in SPLITS.values() for side in ("en", language)]
    if not given.is_dir():
        raise UserError(f"{given} is not a folder")
    if all((given / name).is_file() for name in names):
        _check_parallel(given, language)
        with _made(folder, names, f"plain text in {given.name}") as new:
            for name in names:
                shutil.copyfile(given / name, new / name)
    elif list(given.glob("*.parquet")):
        with _made(folder, names, f"parquet files in {given.name}") as new:
            for split, ours in SPLITS.items():
                _from_parquet(sorted(given.glob(f"{split}-*.parquet")), language, new, ours, given)
    elif any(list(given.rglob(file.name)) for file in archives):
        paths = {file.address: fetch(file, downloads, log, mirror=str(given)) for file in archives}
        _build_from(paths, language, folder, log)
    else:
        wanted = ", ".join(file.name for file in archives)
        raise UserError(f"{given} holds neither {', '.join(names)} nor parquet files nor the archives ({wanted})")


def _build_from(paths: dict[str, Path], language: str, folder: TextFolder, log: Log) -> None:
    names = [f"{split}.{side}" for split in SPLITS.values() for side in ("en", language)]
    packed = sum(path.stat().st_size for path in paths.values())
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    check_room(folder.path.parent, 8 * packed, "what the archives unpack to")  # text, its records, the text again
    log(f"building wmt14_translate/{language}-en with tensorflow-datasets")
    with _made(folder, names, f"tensorflow-datasets wmt14_translate/{language}-en") as new:
        build_text(language, paths, new)


@contextmanager
def _made(folder: TextFolder, names: list[str], origin: str) -> Iterator[Path]:
    """A folder to make the text in; it becomes `folder` with these files of it, and their hashes."""
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with appears_whole(folder.path) as new:
        yield new
        for path in new.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        facts = {"origin": origin, "sha256": {name: sha256_of(new / name) for name in names}}
        (new / "sources.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _check_parallel(given: Path, language: str) -> None:
    for split in SPLITS.values():
        for _ in read_pairs(given / f"{split}.en", given / f"{split}.{language}"):
            pass


def _from_parquet(files: list[Path], language: str, new: Path, split: str, given: Path) -> None:
    if not files:
        raise UserError(f"{given} has no parquet file of {split}")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{error}: install the extra, pip install -e '.[wmt14]'") from error
    with (new / f"{split}.en").open("wb") as english, (new / f"{split}.{language}").open("wb") as other:
        for path in files:
            try:
                for batch in parquet.ParquetFile(path).iter_batches(PAIRS_AT_A_TIME, columns=["translation"]):
                    for row in batch.column("translation").to_pylist():
                        english.write(_line(row["en"].encode()))
                        other.write(_line(row[language].encode()))
            except (pyarrow.ArrowException, KeyError, OSError) as error:
                raise UserError(f"{path} cannot be read as parquet of en and {language}: {error}") from error


def build_text(language: str, archives: dict[str, Path], folder: Path) -> None:
    """Writes {train,dev,test}.{en,LANGUAGE} into a folder.

    Args:
        archives: the path of each archive that the builder would download, by its address.

    Raises:
        UserError: with the last line of what the builder said.
    """
    request = json.dumps({address: str(path.absolute()) for address, path in archives.items()})
    command = [sys.executable, "-m", "data.wmt14", language, str(folder.absolute())]
    result = subprocess.run(
        command, cwd=Path(__file__).parents[1], input=request, capture_output=True, encoding="utf-8", errors="replace"
    )
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise UserError(f"tensorflow-datasets could not build wmt14_translate/{language}-en: {said[-1]}")


def _main(language: str, folder: Path, archives: dict[str, str]) -> None:
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import checksums, resource
        from tensorflow_datasets.translate import wmt14
    except ImportError as error:
        sys.exit(f"{error}: install the extra, pip install -e '.[wmt14]'")

    # Where the builder looks before it downloads: a file under the name that it would give it.
    downloads = folder / "downloads" / "wmt14_translate"
    downloads.mkdir(parents=True)
    registered = checksums.get_all_url_infos()
    for address, path in archives.items():
        info = registered[address]
        place = downloads / resource.get_dl_fname(address, info.checksum)
        place.symlink_to(path)
        resource.write_info_file(
            url=address, path=place, dataset_name="wmt14_translate", original_fname=Path(path).name, url_info=info
        )
    builder = wmt14.Wmt14Translate(config=f"{language}-en", data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare(
        download_dir=str(folder / "downloads"),
        download_config=tfds.download.DownloadConfig(manual_dir=str(folder), extract_dir=str(folder / "extracted")),
    )
    for split, ours in SPLITS.items():
        rows = builder.as_data_source(split)
        with (folder / f"{ours}.en").open("wb") as english, (folder / f"{ours}.{language}").open("wb") as other:
            for start in range(0, len(rows), PAIRS_AT_A_TIME):
                for row in rows.__getitems__(range(start, min(start + PAIRS_AT_A_TIME, len(rows)))):
                    english.write(_line(row["en"]))
                    other.write(_line(row[language]))


def _line(text: Any) -> bytes:
    """A sentence as one line: the few that hold a line break lose it."""
    return b" ".join(bytes(text).split(b"\n")).replace(b"\r", b" ") + b"\n"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _main(sys.argv[1], Path(sys.argv[2]), json.load(sys.stdin))
