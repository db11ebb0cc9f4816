"""Tokenised sentences on disk: one flat uint16 file of tokens, and where each sentence starts in it."""

from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from transformer.config import UserError

Side = Literal["source", "target"]
Int32 = npt.NDArray[np.int32]

_DTYPE = np.dtype("<u2")


def token_files(split: str, side: Side) -> tuple[str, str]:
    """The names of the tokens file and the offsets file."""
    return f"{split}.{side}.tokens.npy", f"{split}.{side}.offsets.npy"


class TokenWriter:
    """Appends sentences to a .npy file without holding them in memory. A context manager."""

    def __init__(self, folder: Path, split: str, side: Side) -> None:
        tokens, offsets = token_files(split, side)
        self._file = (folder / tokens).open("wb")
        self._offsets_path = folder / offsets
        self._lengths: list[npt.NDArray[np.int64]] = []
        self.tokens = 0
        self._header()

    def _header(self) -> None:
        # numpy pads the header to one size for every number of tokens (up to 21 digits): once the number is
        # known, the header can be written again over the first one.
        header = {"descr": _DTYPE.str, "fortran_order": False, "shape": (self.tokens,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, flat: npt.NDArray[np.uint16], lengths: npt.NDArray[np.int64]) -> None:
        """Add sentences: their tokens one after the other, and the number of tokens of each."""
        self._file.write(flat.astype(_DTYPE, copy=False).tobytes())
        self._lengths.append(lengths)
        self.tokens += len(flat)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is not None:
                return
            self._file.seek(0)
            self._header()
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        np.save(self._offsets_path, np.cumsum(lengths), allow_pickle=False)


class Tokens:
    """The sentences of one side: int arrays of token ids, each with its eos."""

    def __init__(self, flat: npt.NDArray[np.uint16], offsets: npt.NDArray[np.int64], vocab_size: int = 2**16) -> None:
        """`flat` [tokens]; sentence i is flat[offsets[i]:offsets[i + 1]], so `offsets` is [n + 1]."""
        self._vocab_size = vocab_size
        self._flat = np.asarray(flat)  # a memory map stays one, without the cost of the subclass
        self._offsets = offsets
        self.lengths: npt.NDArray[np.int64] = np.diff(offsets)

    @classmethod
    def open(cls, folder: Path, split: str, side: Side, vocab_size: int) -> Self:
        """Memory-mapped tokens. UserError names the file that is missing or damaged."""
        names = token_files(split, side)
        flat = _load(folder / names[0], _DTYPE)
        offsets = np.array(_load(folder / names[1], np.dtype(np.int64)))
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(flat) or (np.diff(offsets) < 0).any():
            raise UserError(f"{folder / names[1]} does not fit {names[0]}: remove the folder and prepare again")
        return cls(flat, offsets, vocab_size)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Int32:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sentence {index} of {len(self)}")
        return self._flat[self._offsets[index] : self._offsets[index + 1]].astype(np.int32)

    def packed(self, indices: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], count: int, width: int) -> Int32:
        """Sentences as a matrix, int32 [count, width]: each in its row, behind those before it; then 0.

        `rows` [n] is the row of each sentence of `indices` [n], ascending. ValueError when a row holds more tokens than
        `width`, UserError when an id is not of the vocabulary.
        """
        lengths = self.lengths[indices]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        column = starts - starts[np.searchsorted(rows, rows)]  # the tokens before it in its row
        if len(indices) and (column + lengths).max() > width:
            raise ValueError(f"a row has {(column + lengths).max()} tokens, more than {width}")
        token = np.arange(lengths.sum())
        result = np.zeros(count * width, np.int32)
        result[token + np.repeat(rows * width + column - starts, lengths)] = self._flat[
            token + np.repeat(self._offsets[indices] - starts, lengths)
        ]
        if result.size and result.max() >= self._vocab_size:  # embedding it would silently give another token's vector
            raise UserError(
                "the prepared tokens are damaged (an id past the vocabulary): remove them, and prepare again"
            )
        return result.reshape(count, width)


def _load(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for a damaged header
        raise UserError(f"{path} cannot be read ({error}): remove the folder and prepare again") from error
    if array.ndim != 1 or array.dtype != dtype:
        raise UserError(f"{path} holds {array.dtype} {array.shape}, not one row of {dtype}")
    return array


class Split:
    """The sentence pairs of one split, tokenised."""

    def __init__(self, source: Tokens, target: Tokens) -> None:
        """ValueError when the sides have different numbers of sentences."""
        if len(source) != len(target):
            raise ValueError(f"{len(source)} source sentences but {len(target)} target sentences")
        self.source = source
        self.target = target

    def __len__(self) -> int:
        """Pairs."""
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Int32, Int32]:
        """The token ids of pair `index`."""
        return self.source[index], self.target[index]

    def lengths(self, side: Side) -> npt.NDArray[np.int64]:
        """Tokens of each sentence of a side, eos included, [n]."""
        return self.source.lengths if side == "source" else self.target.lengths

    def batch(
        self, indices: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], count: int, source: int, target: int
    ) -> tuple[Int32, Int32]:
        """Pairs as matrices, int32 [count, source] and [count, target]; see Tokens.packed."""
        return self.source.packed(indices, rows, count, source), self.target.packed(indices, rows, count, target)
