"""Subword tokenizer (section 5.1): sentencepiece, with fixed special ids.

In the paper both languages share one vocabulary. The two sides may also have a model each: `Tokenizer` is that of the
target, and its `source` that of the source.
"""

import hashlib
import io
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import sentencepiece

from data.labels.targets import MARKS, OF_WORDS, check_labels, read_as, spread, words_of
from data.text import SEPARATOR, Pair, is_blank_line
from data.treebanks.linear import MARK, XX, output_of, sequence_of
from transformer.config import BOS, EOS, PAD, UNK, UserError

# Byte fallback: 256 byte pieces encode characters without a piece of their own, so that no text is lost. In a
# vocabulary of this size or more they are at most 1 in 16 pieces (with 8,000 pieces on Multi30k, 0.4% more tokens). In
# a smaller vocabulary they would take too large a share, so there a character not seen in training becomes <unk>.
BYTES_FROM = 4096
# With byte fallback, characters rarer than 1 in 100,000 need no piece: crawled text has thousands of them.
_COVERAGE_WITH_BYTES = 0.99999

# sentencepiece silently ignores training lines that contain U+2585, its own symbol for unknown characters, and lines of
# more than 4,192 bytes. U+2585 is therefore replaced with a space, and long lines are split into at most 1,000
# characters, at a space if possible, which has no effect on the result because no piece spans a space.
_RESERVED = "▅"
_SHORT = re.compile(r".{1,1000}(?: |\Z)|.{1,1000}", re.DOTALL)
_SHORT_FROM = 4192 // 4  # characters of at most 4 bytes each

_MAX_LINES = 2_000_000  # more lines cost memory and hardly change the vocabulary

_SEED = threading.Lock()

_QUIET = 3  # sentencepiece's log level; errors are raised as exceptions

VOCABULARY, SOURCE_VOCABULARY = "vocab.model", "source.model"
"""Names of the files in a folder; the second exists only if the source has a model of its own."""

END_PIECE = "<end of vocabulary>"
"""A piece after which the vocabulary ends. A text may be split into the pieces behind it, but they are read as UNK.

Imported models have it: Marian splits a text with one list of pieces, and reads it with another one.
"""

# The language code of multilingual Marian models. It is one piece, and only at the beginning of a text.
_CODE = re.compile(r">>.*?<<")


class Tokenizer:
    """Converts text to token ids and back. Ids 0 to 3 are PAD, BOS, EOS and UNK.

    A text of several sentences has a line break between them; it needs a vocabulary with a `separator`.
    """

    def __init__(self, model: bytes, source: "Tokenizer | None" = None) -> None:
        """UserError unless `model` is a sentencepiece model with these special ids.

        Args:
            source: the tokenizer of the source, if it is another one.
        """
        self._model = model
        self._source = source if source and source._model != model else None
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            if not model or not self._processor.LoadFromSerializedProto(model):
                raise RuntimeError("empty")
        except RuntimeError as error:
            raise UserError("this is not a sentencepiece model") from error
        p = self._processor
        ids = (p.pad_id(), p.bos_id(), p.eos_id(), p.unk_id())
        if ids != (PAD, BOS, EOS, UNK):
            raise UserError(f"the vocabulary has pad, bos, eos, unk at {ids}, not at {(PAD, BOS, EOS, UNK)}")
        end = int(p.piece_to_id(END_PIECE))
        self._size = int(p.get_piece_size()) if end == UNK else end
        found = int(p.piece_to_id(SEPARATOR))
        self.separator: int | None = found if p.is_control(found) else None
        """Id of the piece between sentences; None if the vocabulary is of single sentences."""
        self._codes = any(map(_CODE.fullmatch, self._pieces))
        self._unused = any(p.is_unused(list(range(self._size))))
        self.of_trees = p.piece_to_id(MARK) != UNK
        """Whether the text is trees, and the pieces are the symbols of their sequences."""
        # Not "without XX": OntoNotes has a tag of this name.
        self.tags = self.of_trees and not {s for s in self.symbols if s[:1] not in ("", "(", ")")} <= {XX}
        """Whether the sequences have tags: there are words other than XX."""
        self.labels_of = next((mark for mark in {*MARKS.values()} if p.piece_to_id(mark) != UNK), None)
        """The mark of a vocabulary of labels (data/labels/targets.py): "<label>" of texts, "<labels>" of words."""
        self._lengths: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._model, self._source)

    @property
    def source(self) -> "Tokenizer":
        """The tokenizer of the source: this one, unless the source has one of its own."""
        return self._source or self

    @property
    def one_vocabulary(self) -> bool:
        """Whether ids stand for the same pieces in source and target, so that they can share an embedding matrix."""
        return self._source is None or self._pieces == self._source._pieces

    @property
    def _pieces(self) -> list[str]:
        pieces: list[str] = self._processor.id_to_piece(list(range(self._size)))
        return pieces

    @property
    def symbols(self) -> list[str]:
        """The symbol of trees, or the label, that each piece is; "" for a piece that is none."""
        # sentencepiece makes a word of the mark too. Nothing contains it.
        marks = {f"▁{mark}" for mark in (MARK, *MARKS.values())}
        return [piece[1:] if piece.startswith("▁") and piece not in marks else "" for piece in self._pieces]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Loads a sentencepiece model, or those of a folder: of a run, or of prepared data.

        UserError names the file if it is missing or not such a model.
        """
        if path.is_dir():
            target, source = cls.load(path / VOCABULARY), path / SOURCE_VOCABULARY
            return cls(target._model, cls.load(source)) if source.exists() else target
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Writes the sentencepiece model, without that of the source."""
        path.write_bytes(self._model)

    def files(self) -> dict[str, bytes]:
        """Returns what `load` reads from a folder: the content of each file, by name."""
        return {VOCABULARY: self._model} | ({SOURCE_VOCABULARY: self._source._model} if self._source else {})

    def to_bytes(self) -> bytes:
        """Returns the serialized sentencepiece model, without that of the source."""
        return self._model

    @property
    def size(self) -> int:
        """Number of pieces, special ones included."""
        return self._size

    @property
    def sha256(self) -> str:
        """Hash of the sentencepiece model; of both models, if the source has its own."""
        digest = hashlib.sha256(self._model).hexdigest()
        return hashlib.sha256(f"{digest} {self._source.sha256}".encode()).hexdigest() if self._source else digest

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Encodes each line to ids ending with EOS, without BOS. UserError for text that is not valid Unicode."""
        return self._encode(lines)

    def sample(self, lines: Sequence[str], rate: float, seed: int) -> list[list[int]]:
        """Encodes like `encode`, but with pieces drawn at random: subword regularization.

        Equal seeds give equal ids in one process. sentencepiece 0.2.2 and later draw others in another process.

        Args:
            rate: of a BPE vocabulary, the probability of leaving out each merge (BPE-dropout, Provilkov et al., 2020);
                of a unigram vocabulary, the exponent alpha of the probability of a segmentation (Kudo, 2018).
            seed: below 2^32.
        """
        # sentencepiece has one seed for all of a process, with which the generator of each new thread begins.
        with _SEED, ThreadPoolExecutor(1) as thread:
            sentencepiece.set_random_generator_seed(seed)
            drawn = thread.submit(self._encode, lines, enable_sampling=True, alpha=rate, nbest_size=-1)
        return drawn.result()

    def encode_pairs(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
        """Encodes the sources and the targets of pairs. Labels of words are in the places of their words.

        UserError for a pair with another number of labels than of words, or more than one of a text.
        """
        if not self.labels_of:
            return self.source.encode([source for source, _ in pairs]), self.encode([target for _, target in pairs])
        texts = [read_as(source, self.labels_of) for source, _ in pairs]
        each = zip(texts, [target for _, target in pairs], strict=True)
        return self.source.encode(texts), [self.places_of(source, target) for source, target in each]

    def places_of(self, source: str, labels: str) -> list[int]:
        """Returns the ids of labels in the places where a model predicts them for a source, as read by `read_as`.

        UserError for another number of labels.
        """
        assert self.labels_of
        check_labels(source, labels, self.labels_of)
        # One by one: sentencepiece merges unknown words that follow each other.
        ids = [label for label, _ in self.encode(words_of(labels))]
        return list(spread(ids, self.source.lengths(source))) if self.labels_of == OF_WORDS else [*ids, EOS]

    def lengths(self, text: str) -> list[int]:
        """Returns the number of pieces of each word of a text, which is what spaces separate.

        UserError if the pieces of the words are not those of the text: not of a vocabulary that was learned here.
        """
        words = words_of(text)
        if new := [word for word in dict.fromkeys(words) if word not in self._lengths]:
            self._lengths |= {word: len(ids) - 1 for word, ids in zip(new, self.encode(new), strict=True)}
        found = [self._lengths[word] for word in words]
        if sum(found) + 1 != len(self.encode([text])[0]):
            raise UserError(f"the vocabulary does not split words one by one: {text[:60]!r}")
        return found

    def _encode(self, lines: Sequence[str], **options: Any) -> list[list[int]]:
        if self.separator is not None and any("\n" in line for line in lines):
            parts = [line.split("\n") for line in lines]
            each = iter(self._encode([sentence for part in parts for sentence in part], **options))
            return [joined([next(each) for _ in part], self.separator) for part in parts]
        codes, texts = self._split(lines)
        try:
            # More threads were measured to be no faster; a large corpus is encoded by several processes instead.
            ids: list[list[int]] = self._processor.encode(texts, out_type=int, add_eos=True, num_threads=1, **options)
        except (UnicodeEncodeError, TypeError) as error:  # depending on the version of sentencepiece
            raise UserError(f"not valid text: {error}") from error
        if self._unused:
            ids = [self._looked_up(text, line) if UNK in line else line for text, line in zip(texts, ids, strict=True)]
        if self._size < self._processor.get_piece_size():
            ids = [[i if i < self._size else UNK for i in line] for line in ids]
        if self._codes:
            ids = [[*map(self._processor.piece_to_id, code), *line] for code, line in zip(codes, ids, strict=True)]
        return ids

    def _looked_up(self, text: str, ids: list[int]) -> list[int]:
        """Reads unknown text as the piece that it spells, if there is one: Marian looks up pieces of the other side."""
        pieces = [*self._processor.encode(text, out_type=str), "</s>"]
        found = [self._processor.piece_to_id(piece) for piece in pieces]
        return [known if i == UNK and known > UNK else i for i, known in zip(ids, found, strict=True)]

    def _split(self, lines: Sequence[str]) -> tuple[list[list[str]], list[str]]:
        """Splits a language code from each line, if the vocabulary has such pieces. Of trees: their sequences."""
        if self.of_trees:
            return [], [sequence_of(line, self.tags) for line in lines]
        if not self._codes:
            return [], list(lines)
        codes = [[found[0]] if (found := _CODE.match(line)) else [] for line in lines]
        return codes, [line[len("".join(code)) :] for code, line in zip(codes, lines, strict=True)]

    @cached_property
    def characters(self) -> frozenset[str]:
        """Characters that have a piece of their own, and the space: encoding and decoding preserves them.

        Other characters become UNK, or bytes if the vocabulary has byte fallback; "▁" becomes a space.
        """
        between = {"\n"} if self.separator is not None else set()
        return frozenset(piece for piece in self._pieces if len(piece) == 1) - {"▁"} | {" "} | between

    def decode(self, batch: Iterable[Iterable[int]]) -> list[str]:
        """Decodes each sequence up to its first EOS. PAD and BOS are dropped; ids outside the vocabulary become UNK."""
        sequences = [self._clean(ids) for ids in batch]
        if self.separator is not None and any(self.separator in ids for ids in sequences):
            parts = [sentences_in(ids, self.separator) for ids in sequences]
            each = iter(self.decode([ids for part in parts for ids in part]))
            return ["\n".join([next(each) for _ in part]) for part in parts]
        # sentencepiece would interpret [] as one empty sequence, and return a string
        lines: list[str] = self._processor.decode(sequences) if sequences else []
        return lines

    def output(self, source: str, text: str) -> str:
        """Returns the line that a decoded text stands for, given its source: the text itself, or the tree."""
        return output_of(source, text) if self.of_trees else text

    def _clean(self, ids: Iterable[int]) -> list[int]:
        kept = takewhile(lambda i: i != EOS, (int(i) for i in ids))
        return [i if 0 <= i < self.size else UNK for i in kept if i not in (PAD, BOS)]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Returns the subword piece of each id, special ones included, for display."""
        return [str(self._processor.id_to_piece(int(i) if 0 <= i < self.size else UNK)) for i in ids]

    def ids(self, pieces: Iterable[str]) -> list[int]:
        """Inverse of `pieces`. UserError for a string that is not a piece of this vocabulary."""
        named = list(pieces)
        ids = [int(self._processor.piece_to_id(piece)) for piece in named]
        for piece, back in zip(named, self.pieces(ids), strict=True):
            if piece != back:
                raise UserError(f"{piece!r} is not a piece of the vocabulary")
        return ids

    def has_piece(self, piece: str) -> bool:
        """Whether this is a piece of the vocabulary."""
        return piece in self._pieces

    def surfaces(self, line: str) -> list[str]:
        """Splits a line into its pieces, without EOS; for UNK, the characters that it stands for."""
        codes, texts = self._split([line])
        surfaces: list[str] = self._processor.encode(texts[0], out_type=str)
        return [*codes[0], *surfaces] if codes else surfaces

    def join(self, pieces: Sequence[str]) -> str:
        """Decodes pieces like `decode` does their ids. A string that is not a piece stands for itself."""
        text: str = self._processor.decode([piece for piece in pieces if piece not in ("<pad>", "<s>", "</s>")])
        return text

    def unknown(self, line: str) -> list[str]:
        """Characters of a line that become UNK, without duplicates. Empty if the vocabulary has byte fallback.

        A piece that is not in the vocabulary although its characters are is returned as a whole.
        """
        (ids,) = self.encode([line])
        if UNK not in ids:
            return []
        if self.of_trees:
            return [symbol for symbol in dict.fromkeys(self.surfaces(line)) if not self.has_piece(symbol)]
        if characters := [c for c in dict.fromkeys(line) if c not in self.characters | {"▁"}]:
            return characters
        return list(dict.fromkeys(one for one, i in zip(self.surfaces(line), ids, strict=False) if i == UNK))


def joined(sentences: Sequence[Sequence[int]], separator: int) -> list[int]:
    """Joins the ids of sentences: the separator takes the place of EOS in all but the last one."""
    return [i for ids in sentences[:-1] for i in (*ids[:-1], separator)] + list(sentences[-1])


def sentences_in(ids: Sequence[int], separator: int) -> list[list[int]]:
    """Splits ids at the separators. Of what `joined` returns, only the last sentence has an EOS."""
    ends = [place for place, i in enumerate(ids) if i == separator]
    starts = [0, *(end + 1 for end in ends)]
    return [list(ids[start:end]) for start, end in zip(starts, [*ends, len(ids)], strict=True)]


def described(tokenizer: Tokenizer) -> str:
    """Returns the size of the vocabulary, or of both."""
    if tokenizer.one_vocabulary:
        return f"vocabulary of {tokenizer.size:,}"
    return f"vocabularies of {tokenizer.source.size:,} and {tokenizer.size:,}"


def train_tokenizer(
    lines: Iterable[str],
    path: Path,
    vocab_type: Literal["bpe", "unigram", "word"],
    vocab_size: int,
    flag: str = "--data.vocab-size",
    symbols: Sequence[str] = (),
    separator: bool = False,
) -> Tokenizer:
    """Learns a vocabulary of `vocab_size` pieces and writes it to `path`. Equal lines give an identical file.

    The pieces of the type "word" are whatever spaces separate. There may be fewer of them than `vocab_size`.

    UserError if the text does not yield that many pieces, or has more distinct characters; it gives a possible size,
    and the `flag` that sets it.

    Args:
        symbols: texts that are pieces of their own and never split, such as "<2de>".
        separator: whether there is a piece between the sentences of a document.
    """
    # No text is split into a control symbol: "<sep>" in a sentence is five characters like others.
    controls = (SEPARATOR,) if separator else ()
    byte_fallback = vocab_size >= BYTES_FROM and vocab_type != "word"
    model = _train(_sample(lines, _MAX_LINES), vocab_type, vocab_size, byte_fallback, flag, symbols, controls)
    tokenizer = Tokenizer(model)
    tokenizer.save(path)
    return tokenizer


def _sample(lines: Iterable[str], most: int) -> list[str]:
    """Samples at most `most` lines evenly, every 2^k-th. sentencepiece's own sampling is not reproducible."""
    kept: list[str] = []
    stride = 1
    for number, line in enumerate(lines):
        if number % stride:
            continue
        if len(kept) == most:
            kept = kept[::2]
            stride *= 2
            if number % stride:
                continue
        kept.append(line)
    return kept


def _shown(lines: list[str]) -> Iterator[str]:
    """Yields the text as lines that sentencepiece does not ignore."""
    for line in lines:
        whole = line.replace(_RESERVED, " ")
        if len(whole) <= _SHORT_FROM:
            yield whole
        else:
            yield from _SHORT.findall(whole)


def _train(
    lines: list[str],
    vocab_type: str,
    vocab_size: int,
    byte_fallback: bool,
    flag: str,
    symbols: Sequence[str],
    controls: Sequence[str],
) -> bytes:
    if all(map(is_blank_line, _shown(lines))):
        raise UserError("there is no text to learn a vocabulary from")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_shown(lines),
            model_writer=model,
            model_type=vocab_type,
            vocab_size=vocab_size,
            hard_vocab_limit=vocab_type != "word",
            byte_fallback=byte_fallback,
            character_coverage=_COVERAGE_WITH_BYTES if byte_fallback else 1.0,
            # Outputs are scored against raw text; with NFKC the model could not produce characters such as "…" and "½".
            normalization_rule_name="identity",
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            user_defined_symbols=list(symbols),
            control_symbols=list(controls),
            num_threads=1,  # the result of unigram depends on the number of threads
            minloglevel=_QUIET,
        )
    except RuntimeError as error:
        _explain(error, lines, vocab_type, vocab_size, byte_fallback, flag, symbols, controls)
    return model.getvalue()


def _explain(
    error: RuntimeError,
    lines: list[str],
    vocab_type: str,
    vocab_size: int,
    byte_fallback: bool,
    flag: str,
    symbols: Sequence[str],
    controls: Sequence[str],
) -> NoReturn:
    """Converts sentencepiece's error about a vocabulary size to a UserError that gives a possible size."""
    if most := re.search(r"Vocabulary size too high .* <= (\d+)", str(error)):
        possible = int(most[1])
        if byte_fallback and possible < BYTES_FROM:
            # This number includes the 256 byte pieces, which a vocabulary that small would not have.
            _train(lines, vocab_type, vocab_size, False, flag, symbols, controls)
        raise UserError(
            f"a vocabulary of {vocab_size} pieces is too large for this text: at most {possible} ({flag})"
        ) from error
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
        raise UserError(
            f"a vocabulary of {vocab_size} pieces is too small for this text: its characters alone take "
            f"{least[1]} pieces ({flag})"
        ) from error
    raise UserError(f"sentencepiece cannot learn a vocabulary of {vocab_size} from this text: {error}") from error
