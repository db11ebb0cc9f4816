"""WMT14 English-German and English-French as plain text, extracted by the builder of tensorflow-datasets.

TensorFlow is imported only in the process `python -m data.wmt14`, which `build_text` starts: it is needed once to
prepare the data, and never for training. The result is six text files, which are processed like any other text. The
builder shuffles each split deterministically, by the hash of its keys.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.fetch import RemoteFile, check_disk_space, fetch
from data.text import read_pairs
from data.text_folder import TextFolder, created_text
from transformer.config import UserError

Log = Callable[[str], object]
Archives = tuple[RemoteFile, ...]

SPLITS = {"train": "train", "validation": "dev", "test": "test"}  # tensorflow-datasets' name: ours
PAIRS_AT_A_TIME = 10_000


def text_folder(language: str, archives: Archives, downloads: Path, log: Log) -> TextFolder:
    """Returns the text of a language pair. If it does not exist yet, fetches the archives and runs the builder."""
    folder = TextFolder(downloads / f"wmt14-en-{language}")
    if not folder.path.exists():
        paths = {file.address: fetch(file, downloads, log) for file in archives}
        _build_from(paths, language, folder, log)
    return folder


def adopt(language: str, archives: Archives, given: Path, downloads: Path, log: Log) -> None:
    """Imports the text of a language pair from the folder `given`.

    The folder may contain plain text files {train,dev,test}.{en,LANGUAGE}; or {train,validation,test}-*.parquet, whose
    rows have a "translation" with both languages; or the original archives. UserError if it contains none of these, or
    if files are missing.
    """
    folder = TextFolder(downloads / f"wmt14-en-{language}")
    if folder.path.exists():
        raise UserError(f"{folder.path} already exists: remove it to create it from {given}")
    names = [f"{split}.{side}" for split in SPLITS.values() for side in ("en", language)]
    if not given.is_dir():
        raise UserError(f"{given} is not a folder")
    if all((given / name).is_file() for name in names):
        _check_parallel(given, language)
        with created_text(folder, names, f"plain text in {given.name}") as new:
            for name in names:
                shutil.copyfile(given / name, new / name)
    elif list(given.glob("*.parquet")):
        with created_text(folder, names, f"parquet files in {given.name}") as new:
            for split, ours in SPLITS.items():
                _from_parquet(sorted(given.glob(f"{split}-*.parquet")), language, new, ours, given)
    elif any(list(given.rglob(file.name)) for file in archives):
        paths = {file.address: fetch(file, downloads, log, mirror=str(given)) for file in archives}
        _build_from(paths, language, folder, log)
    else:
        wanted = ", ".join(file.name for file in archives)
        raise UserError(f"{given} contains neither {', '.join(names)} nor parquet files nor the archives ({wanted})")


def _build_from(paths: dict[str, Path], language: str, folder: TextFolder, log: Log) -> None:
    names = [f"{split}.{side}" for split in SPLITS.values() for side in ("en", language)]
    packed = sum(path.stat().st_size for path in paths.values())
    with created_text(folder, names, f"tensorflow-datasets wmt14_translate/{language}-en") as new:
        # The unpacked text, the records made from it, and the text again.
        check_disk_space(new, 8 * packed, "the unpacked archives")
        log(f"building wmt14_translate/{language}-en with tensorflow-datasets")
        build_text(language, paths, new)


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
        archives: local path of each archive that the builder would download, by its URL.

    Raises:
        UserError: the builder failed; the message contains the last line of its output.
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

    # The builder does not download a file that already exists under the name that it would use.
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
    """Encodes a sentence as one line. The few line breaks inside sentences are replaced by spaces."""
    return b" ".join(bytes(text).split(b"\n")).replace(b"\r", b" ") + b"\n"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _main(sys.argv[1], Path(sys.argv[2]), json.load(sys.stdin))
