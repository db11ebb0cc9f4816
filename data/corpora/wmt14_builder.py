"""Extracts WMT14 as plain text by the builder of tensorflow-datasets.

TensorFlow is imported only in the process `python -m data.corpora.wmt14_builder`, which `build_text` starts: it is
needed once to prepare the data, and never for training. The builder shuffles each split deterministically, by the hash
of its keys.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformer.config import UserError

SPLITS = {"train": "train", "validation": "dev", "test": "test"}  # tensorflow-datasets' name: ours
PAIRS_AT_A_TIME = 10_000


def build_text(language: str, archives: dict[str, Path], folder: Path) -> None:
    """Writes {train,dev,test}.{en,LANGUAGE} into a folder.

    Args:
        archives: local path of each archive that the builder would download, by its URL.

    Raises:
        UserError: the builder failed; the message contains the last line of its output.
    """
    request = json.dumps({address: str(path.absolute()) for address, path in archives.items()})
    command = [sys.executable, "-m", "data.corpora.wmt14_builder", language, str(folder.absolute())]
    result = subprocess.run(
        command, cwd=Path(__file__).parents[2], input=request, capture_output=True, encoding="utf-8", errors="replace"
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
                    english.write(line_of(row["en"]))
                    other.write(line_of(row[language]))


def line_of(text: Any) -> bytes:
    """Encodes a sentence as one line. The few line breaks inside sentences are replaced by spaces."""
    return b" ".join(bytes(text).split(b"\n")).replace(b"\r", b" ") + b"\n"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _main(sys.argv[1], Path(sys.argv[2]), json.load(sys.stdin))
