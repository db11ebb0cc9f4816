"""Prepared data: a corpus that is tokenized once into a folder with a manifest. The folder is created atomically.

`prepare` creates `<data dir>/<corpus>-<vocabulary>-<hash>/`, and `open_prepared` reads it:

    vocab.model                     the sentencepiece model
    source.model                    that of the source, only if the sides have separate vocabularies
    <split>.<side>.tokens.npy       uint16, all sentences concatenated, each ending with EOS
    <split>.<side>.offsets.npy      int64, start of each sentence, followed by the end
    dev.<side>.txt, test.<side>.txt raw text, as reference for scoring; of documents with a blank line between two
    manifest.json                   sources and their hashes, counts of kept and dropped pairs, hashes of the files
"""

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.corpora import find_corpus, is_own_text
from data.corpora.corpus import SPLITS, Built, Corpus, Log, Source, SplitName
from data.corpora.own import FilesCorpus
from data.documents import examples, kept, warn_of_one_document
from data.encoding import Counts, encode_pairs
from data.fetch import sha256_of
from data.folders import atomic_folder, created, remove_abandoned
from data.labels.targets import MARKS, check_labels, read_as, words_of
from data.text import SEPARATOR, Pair, is_blank, read_lines
from data.tokenizer import BYTES_FROM, SOURCE_VOCABULARY, VOCABULARY, Tokenizer, train_tokenizer
from data.tokens import Side, Split, Tokens, TokenWriter
from data.treebanks.linear import MARK, TAGS, sequence_of
from transformer.config import DataConfig, UserError, counted

FORMAT = 2  # increase when the files or their meaning change: older folders are then prepared again

_NAMED = 5  # characters without a subword piece that a message lists
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
        """SHA-256 of everything that determines the content: sources and settings."""
        return str(self.manifest["hash"])

    def check(self, split: str = "") -> None:
        """Verifies the checksums of all files, or of those of a split. UserError names a damaged file."""
        for name, facts in self.manifest["files"].items():
            if name.startswith(split) and sha256_of(self.path / name) != facts["sha256"]:
                raise UserError(f"{self.path / name} is damaged: remove the folder and prepare again")

    def text(self, split: SplitName, side: Side) -> list[str]:
        """Raw lines of one side of dev or test, in the same order as the tokens; "" between two documents."""
        return list(read_lines(self.path / f"{split}.{side}.txt"))

    def texts(self, split: SplitName) -> tuple[list[str], list[str]]:
        """Raw lines of both sides of dev or test."""
        return self.text(split, "source"), self.text(split, "target")


def default_data_dir() -> Path:
    """$DATA_DIR, or ./prepared."""
    return Path(os.environ.get("DATA_DIR") or "prepared")


def prepare(
    config: DataConfig, data_dir: Path | None = None, log: Log = print, known: dict[str, Any] | None = None
) -> PreparedData:
    """Tokenizes a corpus, or opens the data that an earlier call with the same text and settings prepared.

    Args:
        known: the "sources" of the manifest that a run was trained on, as in `find_prepared`.

    Raises:
        UserError: an error that the user can fix: in the corpus, its files or the vocabulary size, or a full disk.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    if config.task in (TAGS | MARKS) and (config.vocabularies == "shared" or config.subword_sampling):
        symbols, tied = ("the symbols of trees", "none") if config.task in TAGS else ("labels", "target")
        raise UserError(
            f"data.task {config.task} needs separate vocabularies, of words and of {symbols}, without "
            f"sampling: --data.vocabularies separate --model.tied {tied}, and no --data.subword-sampling"
        )
    if config.task in TAGS and config.context > 1:
        raise UserError(f"data.task {config.task} is about single sentences: leave out --data.context")
    corpus = find_corpus(config)
    with os_errors_explained(data_dir):
        if isinstance(corpus, FilesCorpus) and (gone := _gone(corpus)):
            if (found := find_prepared(config, data_dir, log, known)) is None:
                raise UserError(
                    f"{corpus.paths()[gone[0]]}: no such file, and {data_dir} ($DATA_DIR) has no data prepared from "
                    f"it: give the file with {_flag(gone[0])}, or set DATA_DIR to the folder with its prepared data"
                )
            path = found
        else:
            path = _prepared(config, corpus, data_dir, log)
    data = open_prepared(path)
    check_unknown(data.manifest["splits"], config)
    return data


def _prepared(config: DataConfig, corpus: Corpus, data_dir: Path, log: Log) -> Path:
    """Returns the folder of a corpus whose text is available, after creating it if it does not exist."""
    with created(data_dir):
        sources = corpus.sources(data_dir / "downloads", log)
        path = _folder(config, corpus, sources, data_dir)
        if not path.exists():
            remove_abandoned(data_dir)
            with atomic_folder(path) as folder:
                log(f"preparing {path}")
                _build(folder, config, corpus, sources, data_dir / "downloads", log)
    return path


def _gone(corpus: FilesCorpus) -> list[str]:
    """Returns the roles of the files that do not exist."""
    return [role for role, path in corpus.paths().items() if not path.exists()]


def _flag(role: str) -> str:
    """Returns the flag that gives the file of a role: --data.train-src of "train.source"."""
    split, side = role.split(".")
    return f"--data.{split}-{'src' if side == 'source' else 'tgt'}"


def check_unknown(splits: dict[str, dict[str, Any]], config: DataConfig) -> None:
    """UserError if too many of a side's tokens (data.max_unknown) are <unk>: the model could not read or write them."""
    most = config.max_unknown
    labels = config.task in MARKS
    for split, counts in splits.items():
        for side in SIDES:
            own = side == "source" and config.vocabularies == "separate"
            flag = "--data.source-vocab-size" if own else "--data.vocab-size"
            if (share := counts[f"{side}_unknown"] / counts[f"{side}_tokens"]) > most:
                if labels and side == "target":
                    raise UserError(
                        f"{split}: {share:.1%} of the labels are not in the training text, more than "
                        f"data.max_unknown = {most:.1%} ({_unread(counts, side, labels)}): add texts with them, or "
                        f"raise --data.max-unknown (a text with such a label is always scored as wrong)"
                    )
                raise UserError(
                    f"{split} {side}: {share:.1%} of the tokens are <unk>, more than data.max_unknown = {most:.1%} "
                    f"({_unread(counts, side)}): check the text, use a vocabulary of {BYTES_FROM:,} or more pieces, "
                    f"which encodes such characters as bytes ({flag}), or raise --data.max-unknown"
                )


def _unread(counts: dict[str, Any], side: Side, labels: bool = False) -> str:
    """Describes the characters of a side, or labels, that have no piece in the vocabulary. Empty if there are none."""
    if not (uncovered := counts[f"{side}_uncovered"]):
        return ""
    most = list(uncovered.items())[:_NAMED]
    named = ", ".join(f"{character!r} {counted(count, 'time')}" for character, count in most)
    more = " and others" if len(uncovered) > _NAMED else ""
    unknown, tokens = counts[f"{side}_unknown"], counts[f"{side}_tokens"]
    are = "is" if unknown == 1 else "are"
    if labels and side == "target":
        return f"labels that are not in the training text: {named}{more}"
    return f"characters without a piece: {named}{more}; {unknown:,} of {counted(tokens, 'token')} {are} <unk>"


def _folder(config: DataConfig, corpus: Corpus, sources: dict[str, Source], data_dir: Path) -> Path:
    return data_dir / f"{corpus.name}-{config.vocab_type}{config.vocab_size}-{_digest(config, sources)[:8]}"


def find_prepared(
    config: DataConfig, data_dir: Path | None = None, log: Log = print, known: dict[str, Any] | None = None
) -> Path | None:
    """Returns the folder that an earlier `prepare` created for this configuration, or None. Does not build WMT14.

    A user-defined file that no longer exists is assumed to be the one in `known`, the "sources" of the manifest that a
    run was trained on, or else the one that data was prepared from under the same absolute path. The log says so.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    corpus = find_corpus(config)
    if isinstance(corpus, Built):  # the hash of its text is known only where the text was built
        return next(_prepared_before(config, corpus, data_dir, lambda role, source: True), None)
    if not (isinstance(corpus, FilesCorpus) and (gone := _gone(corpus))):
        path = _folder(config, corpus, corpus.sources(data_dir / "downloads", log), data_dir)
        return path if _manifest_if_readable(path) else None
    paths = corpus.paths()
    hashes = {role: corpus.source(role).sha256 for role in paths if role not in gone}
    hashes |= {role: known[role]["sha256"] for role in gone if known and role in known}

    def same(role: str, source: dict[str, str]) -> bool:
        return source["sha256"] == hashes[role] if role in hashes else source["name"] == str(paths[role].absolute())

    if found := next(_prepared_before(config, corpus, data_dir, same), None):
        others = len({paths[role] for role in gone}) - 1
        more = f" (nor {counted(others, 'other text file')})" if others else ""
        log(f"warning: {paths[gone[0]]} does not exist{more}: using the data prepared earlier in {found}")
    return found


def _prepared_before(
    config: DataConfig, corpus: Corpus, data_dir: Path, same: Callable[[str, dict[str, str]], bool]
) -> Iterator[Path]:
    """Yields the folders prepared with these settings from sources, by role, that are the `same`; the newest first."""
    always, optional = _settings_by_need(config)
    folders = data_dir.glob(f"{corpus.name}-{config.vocab_type}{config.vocab_size}-*")
    for path in sorted(folders, key=lambda path: (path.stat().st_mtime, path.name), reverse=True):
        manifest = _manifest_if_readable(path)
        if (
            manifest
            and all(manifest[name] == value for name, value in always.items())
            and all(manifest.get(name) == value for name, value in optional.items())
            and all(same(role, source) for role, source in manifest["sources"].items())
        ):
            yield path


def prepared_of_hash(digest: str, data_dir: Path) -> Path | None:
    """Returns the folder of prepared data with this hash (PreparedData.hash), or None. The raw text need not exist."""
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
    """Imports a named corpus from a local folder, so that `prepare` needs no network. UserError if it cannot."""
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    corpus = find_corpus(config)
    if not isinstance(corpus, Built):
        raise UserError(
            f"{corpus.name} is not made from a folder, as WMT14 and WSJ are: use --data.train-src etc. for other text"
        )
    with os_errors_explained(data_dir):
        corpus.adopt(given, data_dir / "downloads", log)


def _digest(config: DataConfig, sources: dict[str, Source]) -> str:
    """SHA-256 of everything that determines the content of the folder, and nothing else (paths do not)."""
    recipe = {
        "format": FORMAT,
        "sources": {role: source.sha256 for role, source in sources.items()},
        **_settings(config),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _settings(config: DataConfig) -> dict[str, Any]:
    """Settings that determine the content of the folder."""
    always, optional = _settings_by_need(config)
    return always | {name: value for name, value in optional.items() if value is not None}


def _settings_by_need(config: DataConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that every manifest has, and those that it has only if they are not None: it may be older than they are."""
    names = ("vocab_type", "vocab_size", "max_length", "train_pairs")
    return {name: getattr(config, name) for name in names}, {
        "vocabulary": given_vocabulary(config).sha256 if config.vocabulary else None,
        "source_vocab_size": config.source_pieces if config.vocabularies == "separate" else None,
        "symbols": config.symbol_list or None,
        "task": config.task if config.task in (TAGS | MARKS) else None,
        "context": config.context if config.context > 1 else None,
        "documents": config.documents if config.documents != "blank" and is_own_text(config) else None,
    }


def given_vocabulary(config: DataConfig) -> Tokenizer:
    """Returns the vocabulary of data.vocabulary, or both. UserError if it cannot be used, or has another size."""
    path = Path(config.vocabulary or "")
    tokenizer = Tokenizer.load(path)
    if config.task in MARKS:  # the labels are those of the training text
        return _of_source(tokenizer.source, path, config)
    for side in (tokenizer.source, tokenizer):
        if missing := [symbol for symbol in config.symbol_list if not side.has_piece(symbol)]:
            raise UserError(f"{path} has no piece {missing[0]}: data.symbols are those of a vocabulary that is learned")
        if config.context > 1 and side.separator is None:
            raise UserError(
                f"{path} is a vocabulary of single sentences, without {SEPARATOR}: for data.context = {config.context} "
                f"learn one, or give that of a run on documents"
            )
    if (tokenizer.tags if tokenizer.of_trees else None) != TAGS.get(config.task):
        kind = "text" if not tokenizer.of_trees else "trees with tags" if tokenizer.tags else "trees without tags"
        raise UserError(f"{path} is a vocabulary of {kind}, which data.task {config.task} cannot use")
    found = "shared" if tokenizer.one_vocabulary else "separate"
    if found != config.vocabularies:
        count = "one vocabulary" if found == "shared" else "two vocabularies"
        raise UserError(f"{path} has {count}: set --data.vocabularies {found}")
    if tokenizer.size != config.vocab_size:
        raise UserError(
            f"{path} has {counted(tokenizer.size, 'piece')}: set --data.vocab-size {tokenizer.size} (and "
            f"--model.vocab-size, the rows of the embedding, to at least that)"
        )
    if tokenizer.source.size != config.source_pieces:
        raise UserError(
            f"{path} has {counted(tokenizer.source.size, 'piece')} for the source: set --data.source-vocab-size "
            f"{tokenizer.source.size} (and --model.source-vocab-size to at least that)"
        )
    return tokenizer


def _of_source(tokenizer: Tokenizer, path: Path, config: DataConfig) -> Tokenizer:
    """Returns the vocabulary of texts to label. UserError if it has another size."""
    if tokenizer.size != config.source_pieces:
        raise UserError(
            f"{path} has {counted(tokenizer.size, 'piece')} for texts: set --data.source-vocab-size {tokenizer.size} "
            f"(and --model.source-vocab-size to at least that)"
        )
    return tokenizer


@contextmanager
def os_errors_explained(folder: Path, what: str = "prepare data in") -> Iterator[None]:
    """Converts an OSError to a UserError that names the file, or the folder: that it cannot do `what`."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
        raise UserError(f"cannot {what} {error.filename or folder}: {reason}") from error


def _build(
    folder: Path, config: DataConfig, corpus: Corpus, sources: dict[str, Source], downloads: Path, log: Log
) -> None:
    """Writes all files of the format into `folder`, the manifest last."""

    def pairs(split: SplitName) -> Iterator[Pair]:
        found = corpus.pairs(split, config.train_pairs if split == "train" else None, downloads, log)
        checked = checked_pairs(found, split)
        if mark := MARKS.get(config.task):
            return ((read_as(text, mark), labels) for text, labels in checked)
        return checked

    tokenizer = _vocabulary(folder, config, lambda: pairs("train"), log)
    counts = {}
    for split in SPLITS:
        counts[split] = _write_split(folder, split, pairs(split), tokenizer, config)
        log(f"{split}: {counts[split]}")
        warn_of_one_document(split, counts[split], log)
        for side in SIDES:
            if unread := _unread(counts[split].facts(), side, config.task in MARKS):
                log(f"warning: {split} {side}: {unread}")
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


def _vocabulary(folder: Path, config: DataConfig, pairs: Callable[[], Iterator[Pair]], log: Log) -> Tokenizer:
    """Writes the vocabulary that is given or learned from training pairs, or that of each side, into `folder`."""

    def learn(sides: tuple[int, ...], size: int, name: str, flag: str, of: str = "") -> Tokenizer:
        log(f"learning a vocabulary of {size} {config.vocab_type} pieces{of}")
        # All lines of one side, then all of the other: the tokenizer samples every n-th line of a large corpus, which
        # would always be the same side if the sides alternated.
        lines = (pair[side] for side in sides for pair in pairs() if not is_blank(pair))
        separator = config.context > 1
        return train_tokenizer(lines, folder / name, config.vocab_type, size, flag, config.symbol_list, separator)

    if config.vocabulary:
        tokenizer = given_vocabulary(config)
        log(f"using the vocabulary of {counted(tokenizer.size, 'piece')} in {config.vocabulary}")
        if config.task in MARKS:
            tokenizer.save(folder / SOURCE_VOCABULARY)
            return Tokenizer(_labels(folder, config, pairs(), log).to_bytes(), tokenizer)
        for name, content in tokenizer.files().items():
            (folder / name).write_bytes(content)
        return tokenizer
    if config.vocabularies == "shared":
        return learn((0, 1), config.vocab_size, VOCABULARY, "--data.vocab-size")
    if config.task in MARKS:  # first: whether there are labels is known in no time
        labels = _labels(folder, config, pairs(), log)
    size = config.source_pieces
    source = learn((0,), size, SOURCE_VOCABULARY, "--data.source-vocab-size", " of the source")
    if config.task in MARKS:
        target = labels
    elif config.task in TAGS:
        log("taking a vocabulary of the symbols of trees")
        sequences = (sequence_of(tree, TAGS[config.task]) for _, tree in pairs() if tree)
        target = train_tokenizer(sequences, folder / VOCABULARY, "word", config.vocab_size, "--data.vocab-size", [MARK])
    else:
        target = learn((1,), config.vocab_size, VOCABULARY, "--data.vocab-size", " of the target")
    return Tokenizer(target.to_bytes(), source)


def _labels(folder: Path, config: DataConfig, pairs: Iterable[Pair], log: Log) -> Tokenizer:
    """Writes the vocabulary of the labels of these pairs. UserError if there is one only, or no room for them all."""
    counts: Counter[str] = Counter()
    for pair in pairs:
        if not is_blank(pair):
            check_labels(*pair, MARKS[config.task])
            counts.update(words_of(pair[1]))
    if len(counts) < 2:
        raise UserError(f"the training text has {counted(len(counts), 'label')}: there is nothing to learn")
    mark = MARKS[config.task]
    lines = [f"{label} " * count for label, count in counts.most_common()]
    target = train_tokenizer(lines, folder / VOCABULARY, "word", config.vocab_size, "--data.vocab-size", [mark])
    if lacking := sorted(set(counts) - set(target.symbols)):
        raise UserError(
            f"the training text has {counted(len(counts), 'label')}, for which a vocabulary of {config.vocab_size} "
            f"has no room: raise --data.vocab-size and --model.vocab-size (the first without a place: {lacking[0]!r})"
        )
    log(f"the training text has {counted(len(counts), 'label')}")
    return target


def _write_split(
    folder: Path, split: SplitName, pairs: Iterator[Pair], tokenizer: Tokenizer, config: DataConfig
) -> Counts:
    """Writes the tokens of a split, and the text of dev and test. Only training pairs are dropped for their length."""
    counts = Counts()
    training = split == "train"
    with ExitStack() as stack:
        writers = [stack.enter_context(TokenWriter(folder, split, side)) for side in SIDES]
        names = [] if training else [f"{split}.{side}.txt" for side in SIDES]
        texts = [stack.enter_context((folder / name).open("wb")) for name in names]

        def written() -> Iterator[Pair]:
            for pair in kept(pairs, split, counts, config.context):
                for file, line in zip(texts, pair, strict=False):  # texts is empty for train
                    file.write(line.encode() + b"\n")
                yield pair

        several = examples(written(), config.context)
        for chunk in encode_pairs(several, tokenizer, config.max_length, drop=training):
            counts.add(chunk)
            for writer, side in zip(writers, chunk.sides, strict=True):
                writer.write(*side)
    if counts.kept == 0:
        longer = f"{counts.too_long} longer than {config.max_length} tokens"
        why = f"{counts.read} read, {counts.blank} blank, {longer}"
        raise UserError(f"no sentence pair is left in {split}: {why}")
    return counts


def checked_pairs(pairs: Iterable[Pair], split: SplitName) -> Iterator[Pair]:
    """Passes pairs through. UserError if one is not a pair of single lines: the files would not be parallel."""
    for number, pair in enumerate(pairs, start=1):
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(line, str) for line in pair)):
            raise UserError(f"pair {number} of {split} is {pair!r}: a corpus must yield pairs of strings")
        if "\n" in pair[0] or "\n" in pair[1]:
            raise UserError(f"pair {number} of {split} contains a line break: a sentence must be one line")
        yield pair


def open_prepared(path: Path) -> PreparedData:
    """Opens a folder that `prepare` created; tokens are memory-mapped.

    UserError names a file that is missing, damaged, or of a different format version.
    """
    manifest = _read_manifest(path / _MANIFEST)
    for name, facts in manifest["files"].items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {counted(size, 'byte')}, not {facts['bytes']:,}"
            raise UserError(f"{file} {found}: remove the folder and prepare again")
    tokenizer = Tokenizer.load(path)
    if tokenizer.sha256 != manifest["vocab_sha256"]:
        raise UserError(f"{path / VOCABULARY} is not the vocabulary of {_MANIFEST}: prepare again")
    sizes = {"source": tokenizer.source.size, "target": tokenizer.size}
    train, dev, test = (Split(*(Tokens.open(path, split, side, sizes[side]) for side in SIDES)) for split in SPLITS)
    return PreparedData(path, manifest, tokenizer, train, dev, test)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, so this is not prepared data")
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        missing = {"format", "hash", "corpus", "sources", "splits", "files", "vocab_sha256"} - set(manifest)
        if missing:
            raise ValueError(f"it lacks {min(missing)!r}")
        for name, facts in manifest["files"].items():
            if not {"bytes", "sha256"} <= set(facts):
                raise ValueError(f"it lacks the size or the SHA-256 of {name!r}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove the folder and prepare again") from error
    if manifest["format"] != FORMAT:
        raise UserError(f"{path} has format {manifest['format']}, not {FORMAT}: remove the folder and prepare again")
    return manifest
