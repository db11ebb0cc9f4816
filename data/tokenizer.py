"""The vocabulary shared by both languages (section 5.1): sentencepiece, with fixed special ids."""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Literal, NoReturn, Self

import sentencepiece

from data.text import is_blank_line
from transformer.config import BOS, EOS, PAD, UNK, UserError

# 256 pieces, one for each byte, spell characters that have no piece of their own, so that no text is lost. In
# a vocabulary of this size that is at most every 16th piece (8,000 pieces on Multi30k: 0.4 % more tokens); of
# a small one it would be most, and there a character that training has not seen becomes <unk>.
BYTES_FROM = 4096
# With bytes to spell them, characters rarer than 1 in 100,000 need no piece: crawled text has thousands.
_COVERAGE_WITH_BYTES = 0.99999

# sentencepiece learns nothing, and says nothing, of a line with U+2585, which it writes for unknown characters itself,
# and of a line of more than 4,192 bytes. So it is shown lines of at most 1,000 characters, ended at a space if there
# is one, which makes no difference (no piece spans a space), and a space for each U+2585.
_RESERVED = "▅"
_SHORT = re.compile(r".{1,1000}(?: |\Z)|.{1,1000}", re.DOTALL)
_SHORT_FROM = 4192 // 4  # characters of at most 4 bytes each

_MAX_LINES = 2_000_000  # more lines cost memory and hardly change the pieces

_QUIET = 3  # sentencepiece's log level: what goes wrong comes as an exception


class Tokenizer:
    """Text to ids and back. Ids 0 to 3 are pad, bos, eos and unk."""

    def __init__(self, model: bytes) -> None:
        """UserError unless `model` is a sentencepiece model with these special ids."""
        self._model = model
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

    @classmethod
    def from_bytes(cls, model: bytes) -> Self:
        """The inverse of `to_bytes`."""
        return cls(model)

    @classmethod
    def load(cls, path: Path) -> Self:
        """UserError, naming the file, when it is missing or not such a model."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        path.write_bytes(self._model)

    def to_bytes(self) -> bytes:
        """The sentencepiece model: a checkpoint carries it."""
        return self._model

    @property
    def size(self) -> int:
        """Pieces, special ones included."""
        return int(self._processor.get_piece_size())

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._model).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of each line, ended by eos; no bos. UserError for text that UTF-8 cannot hold."""
        try:
            # More threads were measured to be no faster: a large corpus takes several processes.
            ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, add_eos=True, num_threads=1)
        except (UnicodeEncodeError, TypeError) as error:  # which, depends on sentencepiece's version
            raise UserError(f"not valid text: {error}") from error
        return ids

    @cached_property
    def characters(self) -> frozenset[str]:
        """The characters that come back from the ids because they have a piece of their own, and the space.

        Another one reads as unk, or as its bytes where the vocabulary has those; and "▁" reads as a space.
        """
        pieces: list[str] = self._processor.id_to_piece(list(range(self.size)))
        return frozenset(piece for piece in pieces if len(piece) == 1) - {"▁"} | {" "}

    def decode(self, batch: Iterable[Iterable[int]]) -> list[str]:
        """Text of each sequence up to its first eos. pad and bos are dropped; unknown ids read as unk."""
        sequences = [self._clean(ids) for ids in batch]
        # sentencepiece takes [] for one empty sequence, and returns a string
        lines: list[str] = self._processor.decode(sequences) if sequences else []
        return lines

    def _clean(self, ids: Iterable[int]) -> list[int]:
        kept = takewhile(lambda i: i != EOS, (int(i) for i in ids))
        return [i if 0 <= i < self.size else UNK for i in kept if i not in (PAD, BOS)]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The piece of each id, special ones included, for people to look at."""
        return [str(self._processor.id_to_piece(int(i) if 0 <= i < self.size else UNK)) for i in ids]

    def ids(self, pieces: Iterable[str]) -> list[int]:
        """The inverse of `pieces`. UserError for what is no piece of this vocabulary."""
        named = list(pieces)
        ids = [int(self._processor.piece_to_id(piece)) for piece in named]
        for piece, back in zip(named, self.pieces(ids), strict=True):
            if piece != back:
                raise UserError(f"{piece!r} is no piece of the vocabulary")
        return ids

    def unknown(self, line: str) -> list[str]:
        """The characters of a line that no piece spells, each once: they read as unk. None, if bytes have pieces."""
        if UNK not in self.encode([line])[0]:
            return []
        return [c for c in dict.fromkeys(line) if c not in self.characters | {"▁"}]


def train_tokenizer(
    lines: Iterable[str], path: Path, vocab_type: Literal["bpe", "unigram"], vocab_size: int
) -> Tokenizer:
    """Learn a vocabulary of `vocab_size` pieces and write it to `path`: the same lines, the same bytes.

    UserError when the text has not that many pieces, or more characters than that, with the possible number.
    """
    model = _train(_sample(lines, _MAX_LINES), vocab_type, vocab_size, vocab_size >= BYTES_FROM)
    tokenizer = Tokenizer(model)
    tokenizer.save(path)
    return tokenizer


def _sample(lines: Iterable[str], most: int) -> list[str]:
    """At most `most` lines, evenly from all: each 2^k-th. sentencepiece's own choice is not reproducible."""
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
    """All of the text, as lines that sentencepiece learns from."""
    for line in lines:
        whole = line.replace(_RESERVED, " ")
        if len(whole) <= _SHORT_FROM:
            yield whole
        else:
            yield from _SHORT.findall(whole)


def _train(lines: list[str], vocab_type: str, vocab_size: int, byte_fallback: bool) -> bytes:
    if all(map(is_blank_line, _shown(lines))):
        raise UserError("there is no text to learn a vocabulary from")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_shown(lines),
            model_writer=model,
            model_type=vocab_type,
            vocab_size=vocab_size,
            byte_fallback=byte_fallback,
            character_coverage=_COVERAGE_WITH_BYTES if byte_fallback else 1.0,
            # Outputs are scored against raw text: NFKC would put characters such as "…" and "½" out of reach.
            normalization_rule_name="identity",
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            num_threads=1,  # the pieces of unigram depend on the number of threads
            minloglevel=_QUIET,
        )
    except RuntimeError as error:
        _explain(error, lines, vocab_type, vocab_size, byte_fallback)
    return model.getvalue()


def _explain(error: RuntimeError, lines: list[str], vocab_type: str, vocab_size: int, byte_fallback: bool) -> NoReturn:
    """sentencepiece's refusal of a size as a UserError with the size that would do."""
    if most := re.search(r"Vocabulary size too high .* <= (\d+)", str(error)):
        possible = int(most[1])
        if byte_fallback and possible < BYTES_FROM:
            # This number counts the 256 bytes, which a vocabulary that small would not have.
            _train(lines, vocab_type, vocab_size, byte_fallback=False)
        raise UserError(
            f"a vocabulary of {vocab_size} pieces is too large for this text: at most {possible} (--data.vocab-size)"
        ) from error
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
        raise UserError(
            f"a vocabulary of {vocab_size} pieces is too small for this text: its characters alone take "
            f"{least[1]} (--data.vocab-size)"
        ) from error
    raise UserError(f"sentencepiece cannot learn a vocabulary of {vocab_size} from this text: {error}") from error
