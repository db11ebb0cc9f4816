"""WMT14 English-German and English-French, as the builder of tensorflow-datasets extracts it, in six text files."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data.corpora.corpus import Log, Source, SplitName
from data.corpora.text_folder import TextFolder, created_text
from data.corpora.wmt14_builder import PAIRS_AT_A_TIME, SPLITS, build_text, line_of
from data.fetch import RemoteFile, check_disk_space, fetch
from data.text import Pair, read_pairs
from transformer.config import UserError

Archives = tuple[RemoteFile, ...]


# URLs and hashes as registered by tensorflow-datasets.
_BOTH = (
    ("http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
     "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7"),
    ("http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
     "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5"),
    ("http://www.statmt.org/wmt14/training-parallel-nc-v9.tgz",
     "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485"),
    ("http://data.statmt.org/wmt19/translation-task/dev.tgz",
     "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7"),
)  # fmt: skip
_FRENCH = (
    ("http://www.statmt.org/wmt13/training-parallel-un.tgz",
     "29141b5c1eba149a94f7a59d3b1a834b2e47fe0f8758d68dcd77a3d3f497ee47"),
    ("http://www.statmt.org/wmt10/training-giga-fren.tar",
     "3ff8319f6919393520559bfbc7ad6a747ec81b3abc7be9993b338d4b017b4d9a"),
)  # fmt: skip


@dataclass(frozen=True)
class WMT14:
    """WMT14 from English, as built by tensorflow-datasets."""

    language: str
    archives: tuple[RemoteFile, ...]
    licence: str = "free for research; statmt.org/wmt14"

    @property
    def name(self) -> str:
        return f"wmt14-{self.languages}"

    @property
    def languages(self) -> str:
        return f"en-{self.language}"

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        return text_folder(self.language, self.archives, downloads, log).sources(("en", self.language))

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        folder = text_folder(self.language, self.archives, downloads, log).path
        return islice(read_pairs(folder / f"{split}.en", folder / f"{split}.{self.language}"), count)

    def adopt(self, given: Path, downloads: Path, log: Log) -> None:
        """Imports the text from a local folder instead of downloading it."""
        adopt(self.language, self.archives, given, downloads, log)


def wmt14(language: str) -> WMT14:
    """The pairs of English and another language: "de" or "fr"."""
    archives = _BOTH + (_FRENCH if language == "fr" else ())
    return WMT14(language, tuple(RemoteFile("wmt14", address, sha256) for address, sha256 in archives))


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
                        english.write(line_of(row["en"].encode()))
                        other.write(line_of(row[language].encode()))
            except (pyarrow.ArrowException, KeyError, OSError) as error:
                raise UserError(f"{path} cannot be read as parquet of en and {language}: {error}") from error
