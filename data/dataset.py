"""Prepared data: a corpus tokenised once, in a folder that says what it holds and is never half-written.

`prepare` makes `<data dir>/<corpus>-<vocabulary>-<hash>/`, and `open_prepared` reads it:

    vocab.model                     the sentencepiece model
    <split>.<side>.tokens.npy       uint16, all sentences one after the other, each ended by eos
    <split>.<side>.offsets.npy      int64, where each sentence starts, and the end
    dev.<side>.txt, test.<side>.txt the text itself, to score against
    manifest.json                   sources and their hashes, counts, what was dropped, hashes of the files
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.corpora import SPLITS, WMT14, Corpus, FilesCorpus, Log, Source, SplitName, find_corpus
from data.encoding import Counts, encode_pairs
from data.fetch import sha256_of
from data.folders import appears_whole, remove_abandoned
from data.text import Pair, is_blank, read_lines
from data.tokenizer import BYTES_FROM, Tokenizer, train_tokenizer
from data.tokens import Side, Split, Tokens, TokenWriter
from transformer.config import DataConfig, UserError, counted

FORMAT = 2  # raise it when the files or their meaning change: older folders are then prepared anew

_NAMED = 5  # characters without a piece, in a line of the log
_MANIFEST = "manifest.json"
SIDES: tuple[Side, Side] = ("source", "target")


@dataclass(frozen=True)
class PreparedData:
    """An opened folder of prepared data."""

    path: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    train: Split
    dev: Split
    test: Split

    @property
    def hash(self) -> str:
        """SHA-256 of what decided the content: sources and settings."""
        return str(self.manifest["hash"])

    def check(self, split: str = "") -> None:
        """UserError names a file that has not the content that it was written with. Reads all of them, or a split's."""
        for name, facts in self.manifest["files"].items():
            if name.startswith(split) and sha256_of(self.path / name) != facts["sha256"]:
                raise UserError(f"{self.path / name} is damaged: remove the folder and prepare again")

    def text(self, split: SplitName, side: Side) -> list[str]:
        """The raw lines of dev or test, pair by pair as in the tokens."""
        return list(read_lines(self.path / f"{split}.{side}.txt"))


def default_data_dir() -> Path:
    """$DATA_DIR, or ./prepared."""
    return Path(os.environ.get("DATA_DIR") or "prepared")


def prepare(
    config: DataConfig, data_dir: Path | None = None, log: Log = print, known: dict[str, Any] | None = None
) -> PreparedData:
    """Tokenise a corpus, or open what an earlier call with the same text and settings has made.

    Args:
        known: the "sources" of a manifest. A file of the user's own that is gone is taken to be the one of these.

    Raises:
        UserError: anything the user can put right: the corpus, its files, the vocabulary size, a full disk.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    corpus = find_corpus(config)
    if isinstance(corpus, FilesCorpus):
        corpus = replace(corpus, known={role: Source(**facts) for role, facts in (known or {}).items()})
    with explained(data_dir):
        sources = corpus.sources(data_dir / "downloads", log)
    path = _folder(config, corpus, sources, data_dir)
    if not path.exists():
        with explained(data_dir):
            data_dir.mkdir(parents=True, exist_ok=True)
            remove_abandoned(data_dir)
            with appears_whole(path) as folder:
                log(f"preparing {path}")
                _build(folder, config, corpus, sources, data_dir / "downloads", log)
    data = open_prepared(path)
    check_unknown(data.manifest["splits"], config.max_unknown)
    return data


def check_unknown(splits: dict[str, dict[str, Any]], most: float) -> None:
    """UserError where more of a side's tokens than this share are <unk>: the model could neither read nor write it."""
    for split, counts in splits.items():
        for side in SIDES:
            if (share := counts[f"{side}_unknown"] / counts[f"{side}_tokens"]) > most:
                raise UserError(
                    f"{split} {side}: {share:.1%} of the tokens are <unk>, more than data.max_unknown = {most:.1%} "
                    f"({_unread(counts, side)}): check the text, take a vocabulary of {BYTES_FROM:,} pieces or more, "
                    f"which spells them in bytes (--data.vocab-size), or raise --data.max-unknown"
                )


def _unread(counts: dict[str, Any], side: Side) -> str:
    """What of a side's text has no piece of the vocabulary, in words; nothing where all has one."""
    if not (uncovered := counts[f"{side}_uncovered"]):
        return ""
    most = list(uncovered.items())[:_NAMED]
    named = ", ".join(f"{character!r} {counted(count, 'time')}" for character, count in most)
    more = " and others" if len(uncovered) > _NAMED else ""
    unknown, tokens = counts[f"{side}_unknown"], counts[f"{side}_tokens"]
    are = "is" if unknown == 1 else "are"
    return f"characters without a piece: {named}{more}; {unknown:,} of {counted(tokens, 'token')} {are} <unk>"


def _folder(config: DataConfig, corpus: Corpus, sources: dict[str, Source], data_dir: Path) -> Path:
    return data_dir / f"{corpus.name}-{config.vocab_type}{config.vocab_size}-{_digest(config, sources)[:8]}"


def find_prepared(config: DataConfig, data_dir: Path | None = None) -> Path | None:
    """The folder that an earlier `prepare` made of this corpus and these settings; WMT14 is not built for it."""
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    corpus = find_corpus(config)
    if isinstance(corpus, WMT14):  # what its text hashes to is known where it was built, which may be elsewhere
        for path in sorted(data_dir.glob(f"{corpus.name}-{config.vocab_type}{config.vocab_size}-*")):
            manifest = _manifest_if_readable(path)
            if manifest and all(manifest[name] == value for name, value in _settings(config).items()):
                return path
        return None
    if isinstance(corpus, FilesCorpus) and not all(path.is_file() for pair in corpus.files.values() for path in pair):
        return None
    path = _folder(config, corpus, corpus.sources(data_dir / "downloads", print), data_dir)
    return path if _manifest_if_readable(path) else None


def prepared_of_hash(digest: str, data_dir: Path) -> Path | None:
    """The folder of prepared data that has this hash (PreparedData.hash), wherever its text may be now."""
    for path in sorted(data_dir.glob(f"*-{digest[:8]}")):
        manifest = _manifest_if_readable(path)
        if manifest and manifest["hash"] == digest:
            return path
    return None


def _manifest_if_readable(path: Path) -> dict[str, Any] | None:
    try:
        return _read_manifest(path / _MANIFEST)
    except UserError:
        return None


def adopt(config: DataConfig, given: Path, data_dir: Path | None = None, log: Log = print) -> None:
    """Make a named corpus from a folder of the user's, so that `prepare` needs no network. UserError if it cannot."""
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    corpus = find_corpus(config)
    if not isinstance(corpus, WMT14):
        raise UserError(f"{corpus.name} is not made from a folder: WMT14 is; other text has --data.train-src and so on")
    with explained(data_dir):
        corpus.adopt(given, data_dir / "downloads", log)


def _digest(config: DataConfig, sources: dict[str, Source]) -> str:
    """SHA-256 of all that decides the content of the folder, and of nothing else (paths, for one, do not)."""
    recipe = {
        "format": FORMAT,
        "sources": {role: source.sha256 for role, source in sources.items()},
        **_settings(config),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _settings(config: DataConfig) -> dict[str, Any]:
    """The settings that decide the content of the folder."""
    names = ("vocab_type", "vocab_size", "max_length", "train_pairs")
    return {name: getattr(config, name) for name in names}


@contextmanager
def explained(data_dir: Path) -> Iterator[None]:
    """An error of the file system as a UserError that names the place."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
        raise UserError(f"cannot prepare data in {error.filename or data_dir}: {reason}") from error


def _build(
    folder: Path, config: DataConfig, corpus: Corpus, sources: dict[str, Source], downloads: Path, log: Log
) -> None:
    """Write all files of the format into `folder`, the manifest last."""

    def pairs(split: SplitName) -> Iterator[Pair]:
        found = corpus.pairs(split, config.train_pairs if split == "train" else None, downloads, log)
        return checked_pairs(found, split)

    log(f"learning {config.vocab_size} {config.vocab_type} pieces")
    # All of one side, then all of the other: the tokenizer takes each n-th line of a large corpus.
    lines = (pair[side] for side in (0, 1) for pair in pairs("train") if not is_blank(pair))
    tokenizer = train_tokenizer(lines, folder / "vocab.model", config.vocab_type, config.vocab_size)
    counts = {}
    for split in SPLITS:
        counts[split] = _write_split(folder, split, pairs(split), tokenizer, config.max_length)
        log(f"{split}: {counts[split]}")
        for side in SIDES:
            if told := _unread(counts[split].facts(), side):
                log(f"warning: {split} {side}: {told}")
    files = sorted(folder.iterdir())
    manifest = {
        "format": FORMAT,
        "hash": _digest(config, sources),
        "corpus": corpus.name,
        "licence": corpus.licence,
        "sources": {role: source._asdict() for role, source in sources.items()},
        **_settings(config),
        "vocab_sha256": tokenizer.sha256,
        "splits": {split: counts[split].facts() for split in SPLITS},
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / _MANIFEST).write_text(text, encoding="utf-8")


def _write_split(
    folder: Path, split: SplitName, pairs: Iterator[Pair], tokenizer: Tokenizer, max_length: int
) -> Counts:
    """Tokens of one split, and text of dev and test. Only training pairs are dropped for their length."""
    counts = Counts()
    training = split == "train"
    with ExitStack() as stack:
        writers = [stack.enter_context(TokenWriter(folder, split, side)) for side in SIDES]
        names = [] if training else [f"{split}.{side}.txt" for side in SIDES]
        texts = [stack.enter_context((folder / name).open("wb")) for name in names]

        def kept() -> Iterator[Pair]:
            for pair in pairs:
                counts.read += 1
                if is_blank(pair):
                    counts.blank += 1
                    continue
                for file, line in zip(texts, pair, strict=False):  # texts is empty for train
                    file.write(line.encode() + b"\n")
                yield pair

        for chunk in encode_pairs(kept(), tokenizer, max_length if training else None):
            counts.add(chunk)
            for writer, side in zip(writers, chunk.sides, strict=True):
                writer.write(*side)
    if counts.kept == 0:
        why = f"{counts.read} read, {counts.blank} blank, {counts.too_long} longer than {max_length} tokens"
        raise UserError(f"no sentence pair is left in {split}: {why}")
    return counts


def checked_pairs(pairs: Iterable[Pair], split: SplitName) -> Iterator[Pair]:
    """The same. UserError for what is not two texts of one line each: the files would not be parallel."""
    for number, pair in enumerate(pairs, start=1):
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(line, str) for line in pair)):
            raise UserError(f"pair {number} of {split} is {pair!r}: a corpus gives pairs of texts")
        if "\n" in pair[0] or "\n" in pair[1]:
            raise UserError(f"pair {number} of {split} has a line break in it: a sentence is one line")
        yield pair


def open_prepared(path: Path) -> PreparedData:
    """Open a folder that `prepare` has made; tokens are memory-mapped.

    UserError names the file that is missing, damaged, or of another version of the format.
    """
    manifest = _read_manifest(path / _MANIFEST)
    for name, facts in manifest["files"].items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {counted(size, 'byte')}, not {facts['bytes']}"
            raise UserError(f"{file} {found}: remove the folder and prepare again")
    tokenizer = Tokenizer.load(path / "vocab.model")
    if tokenizer.sha256 != manifest["vocab_sha256"]:
        raise UserError(f"{path / 'vocab.model'} is not the vocabulary of {_MANIFEST}: prepare again")
    size = tokenizer.size
    train, dev, test = (Split(*(Tokens.open(path, split, side, size) for side in SIDES)) for split in SPLITS)
    return PreparedData(path, manifest, tokenizer, train, dev, test)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, so this is not prepared data")
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        missing = {"format", "hash", "corpus", "sources", "splits", "files", "vocab_sha256"} - set(manifest)
        if missing:
            raise ValueError(f"without {min(missing)!r}")
        for name, facts in manifest["files"].items():
            if not {"bytes", "sha256"} <= set(facts):
                raise ValueError(f"not what a file is told by: {name!r}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove the folder and prepare again") from error
    if manifest["format"] != FORMAT:
        raise UserError(f"{path} has format {manifest['format']}, not {FORMAT}: remove the folder and prepare again")
    return manifest
