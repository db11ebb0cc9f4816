"""Corpora by name: the sources of each text, its licence, and the hashes that identify it.

A corpus is any object with the members of the protocol `Corpus`. To add one (for example, a tensorflow-datasets
builder), write a class and register an instance: CORPORA["mine"] = MyCorpus().
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

from data import grammar
from data.fetch import RemoteFile, fetch, sha256_of
from data.languages import Languages
from data.text import Pair, check_file, read_pairs
from data.text_folder import TextFolder
from data.treebanks import wsj
from data.treebanks.files import digest_of, pairs_in
from data.treebanks.linear import TAGS
from data.wmt14 import adopt, text_folder
from transformer.config import DataConfig, UserError
from transformer.registry import Registry

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


@dataclass(frozen=True)
class GrammarCorpus:
    """The generated corpus of data/grammar, of unlimited size, which needs no download."""

    name: str = "grammar"
    licence: str = "that of this code"
    languages: str = "en-de"
    seed: int = 0

    def sources(self, downloads: Path, log: Log) -> dict[str, Source]:
        # Hash the text itself rather than a version number, which one could forget to increase.
        return {split: Source(f"data.grammar, seed {self.seed}", self._sample_hash(split)) for split in SPLITS}

    def _sample_hash(self, split: SplitName) -> str:
        sample = "\n".join(f"{a}\t{b}" for a, b in grammar.pairs(split, 100, seed=self.seed))
        return hashlib.sha256(sample.encode()).hexdigest()

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        default = 100_000 if split == "train" else 1000
        return grammar.pairs(split, default if count is None else count, seed=self.seed)


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


@dataclass(frozen=True)
class FilesCorpus:
    """A user-defined corpus: two parallel files per split."""

    files: dict[SplitName, tuple[Path, Path]]
    name: str = "files"
    licence: str = "the user's own text"
    languages: str | None = None

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
        return islice(read_pairs(*self.files[split]), count)


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


def _built(folder: TextFolder, endings: tuple[str, str]) -> dict[str, Source]:
    """The sources of a corpus whose text was built into a folder: `endings` are those of the files of its sides."""
    origin, hashes = folder.origin()
    return {
        f"{split}.{side}": Source(f"{split}.{ending}, {origin}", hashes[f"{split}.{ending}"])
        for split in SPLITS
        for side, ending in zip(("source", "target"), endings, strict=True)
    }


@dataclass(frozen=True)
class WSJ:
    """The Wall Street Journal part of the Penn Treebank (data/treebanks/wsj.py), from the user's own copy.

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
        return _built(folder, ("trees", "trees"))

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        return islice(pairs_in(self._folder(downloads).path / f"{split}.trees"), count)

    def adopt(self, given: Path, downloads: Path, log: Log) -> None:
        """Reads the sections from a local folder."""
        wsj.adopt(given, self._folder(downloads), self.silver)


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
        return _built(text_folder(self.language, self.archives, downloads, log), ("en", self.language))

    def pairs(self, split: SplitName, count: int | None, downloads: Path, log: Log) -> Iterator[Pair]:
        folder = text_folder(self.language, self.archives, downloads, log).path
        return islice(read_pairs(folder / f"{split}.en", folder / f"{split}.{self.language}"), count)

    def adopt(self, given: Path, downloads: Path, log: Log) -> None:
        """Imports the text from a local folder instead of downloading it."""
        adopt(self.language, self.archives, given, downloads, log)


_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_MULTI30K_SHA256 = {
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    "test_2017_flickr.en": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_flickr.de": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.fr": "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496",
}
_MULTI30K_STEMS: dict[SplitName, str] = {"train": "train", "dev": "val", "test": "test_2016_flickr"}


def _multi30k(language: str) -> HostedCorpus:
    def file(stem: str, side: str) -> RemoteFile:
        name = f"{stem}.{side}"
        return RemoteFile("multi30k", f"{_MULTI30K}/{name}.gz", _MULTI30K_SHA256[name])

    def both(stem: str) -> tuple[RemoteFile, RemoteFile]:
        return file(stem, "en"), file(stem, language)

    return HostedCorpus(
        f"multi30k-en-{language}",
        "none stated by github.com/multi30k/dataset",
        f"en-{language}",
        {split: both(stem) for split, stem in _MULTI30K_STEMS.items()},
        {"test_2017_flickr": both("test_2017_flickr")},
    )


# URLs and hashes as registered by tensorflow-datasets.
_WMT14_BOTH = (
    ("http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
     "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7"),
    ("http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
     "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5"),
    ("http://www.statmt.org/wmt14/training-parallel-nc-v9.tgz",
     "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485"),
    ("http://data.statmt.org/wmt19/translation-task/dev.tgz",
     "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7"),
)  # fmt: skip
_WMT14_FRENCH = (
    ("http://www.statmt.org/wmt13/training-parallel-un.tgz",
     "29141b5c1eba149a94f7a59d3b1a834b2e47fe0f8758d68dcd77a3d3f497ee47"),
    ("http://www.statmt.org/wmt10/training-giga-fren.tar",
     "3ff8319f6919393520559bfbc7ad6a747ec81b3abc7be9993b338d4b017b4d9a"),
)  # fmt: skip


def _wmt14(language: str, archives: tuple[tuple[str, str], ...]) -> WMT14:
    return WMT14(language, tuple(RemoteFile("wmt14", address, sha256) for address, sha256 in archives))


CORPORA: Registry[Corpus] = Registry(
    "data.corpus",
    {
        corpus.name: corpus
        for corpus in (
            GrammarCorpus(),
            _multi30k("de"),
            _multi30k("fr"),
            _wmt14("de", _WMT14_BOTH),
            _wmt14("fr", _WMT14_BOTH + _WMT14_FRENCH),
            WSJ("wsj", silver=False),
            WSJ("wsj-semi", silver=True),
        )
    },
)
"""Corpora by name: instances of classes with the members of `Corpus`."""


def find_corpus(config: DataConfig) -> Corpus:
    """Returns the corpus of a configuration: user-defined files if any are given, else the corpus with that name.

    UserError for an unknown name, an incomplete set of files, a train_pairs below 1, or data.languages combined with a
    named corpus.
    """
    if config.train_pairs is not None and config.train_pairs < 1:
        raise UserError(f"data.train_pairs must be at least 1, not {config.train_pairs}")
    if config.task in TAGS and (own := _own_trees(config)):
        return TreebankFiles(own)
    if (own := _own_files(config)) or config.corpus == "files":
        languages_of(config)
        return FilesCorpus(own, languages=config.languages)
    corpus = CORPORA.find(config.corpus)
    check_corpus(config.corpus, corpus)
    if config.languages is not None:
        raise UserError(
            f"data.languages is for your own text only, {config.corpus} has its own languages: --data.languages None"
        )
    return corpus


def check_corpus(name: str, corpus: Corpus) -> None:
    """UserError if a user-defined corpus does not satisfy the protocol `Corpus`."""
    if isinstance(corpus, type):
        raise UserError(f"data.corpus {name!r} is a class: register an instance of it in CORPORA")
    for member in ("name", "licence", "languages", "sources", "pairs"):
        if not hasattr(corpus, member):
            raise UserError(f"data.corpus {name!r} has no `{member}`, which data.corpora.Corpus requires")
    if corpus.name != name or not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(
            f"data.corpus {name!r} has the name {corpus.name!r}: use the same single word as name and as key of CORPORA"
        )
    if corpus.languages is not None:
        Languages.parse(corpus.languages)


def is_own_text(config: DataConfig) -> bool:
    """Whether the corpus consists of user-defined files, which may no longer exist."""
    return config.corpus == "files" or config.train_src is not None or config.train_tgt is not None


def languages_of(config: DataConfig) -> Languages | None:
    """Returns the languages of the corpus, or None if unknown. User-defined files need not exist.

    UserError for invalid language codes, and, as in `find_corpus`, for an invalid corpus.
    """
    if is_own_text(config):
        said = config.languages
    else:
        corpus = CORPORA.find(config.corpus)
        check_corpus(config.corpus, corpus)
        said = corpus.languages
    return None if said is None else Languages.parse(said)


def _own_trees(config: DataConfig) -> dict[SplitName, tuple[Path, Path]]:
    """Treebanks by split, with dev as the default for test. Empty unless only targets are given: sentences are theirs.

    UserError if one is missing.
    """
    given = {split: value for split in SPLITS if (value := getattr(config, f"{split}_tgt")) is not None}
    if not given or any(getattr(config, f"{split}_src") is not None for split in SPLITS):
        return {}
    for split in ("train", "dev"):
        if split not in given:
            raise UserError(f"--data.{split}-tgt is missing: your own treebank needs train and dev")
    given.setdefault("test", given["dev"])
    return {split: (Path(given[split]), Path(given[split])) for split in SPLITS}


def _own_files(config: DataConfig) -> dict[SplitName, tuple[Path, Path]]:
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
