"""Tokenized sentences on disk: a flat uint16 file of tokens, and the offset of each sentence."""

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
    """Names of the tokens file and the offsets file."""
    return f"{split}.{side}.tokens.npy", f"{split}.{side}.offsets.npy"


class TokenWriter:
    """Context manager that appends sentences to a .npy file without keeping them in memory."""

    def __init__(self, folder: Path, split: str, side: Side) -> None:
        tokens, offsets = token_files(split, side)
        self._file = (folder / tokens).open("wb")
        self._offsets_path = folder / offsets
        self._lengths: list[npt.NDArray[np.int64]] = []
        self.tokens = 0
        self._header()

    def _header(self) -> None:
        # NumPy pads the header to the same size for any number of tokens (up to 21 digits), so that it can be
        # overwritten once the number is known.
        header = {"descr": _DTYPE.str, "fortran_order": False, "shape": (self.tokens,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, flat: npt.NDArray[np.uint16], lengths: npt.NDArray[np.int64]) -> None:
        """Appends sentences, given as concatenated tokens and the number of tokens of each sentence."""
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
    """The sentences of one side, as int32 arrays of token ids ending with EOS."""

    def __init__(self, flat: npt.NDArray[np.uint16], offsets: npt.NDArray[np.int64], vocab_size: int = 2**16) -> None:
        """Sentence i is flat[offsets[i]:offsets[i + 1]]: `flat` is [tokens], `offsets` [n + 1]."""
        self._vocab_size = vocab_size
        self._flat = np.asarray(flat)  # still memory-mapped, without the overhead of the subclass np.memmap
        self._offsets = offsets
        self.lengths: npt.NDArray[np.int64] = np.diff(offsets)

    @classmethod
    def open(cls, folder: Path, split: str, side: Side, vocab_size: int) -> Self:
        """Opens memory-mapped tokens. UserError names a file that is missing or damaged."""
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
            raise IndexError(f"sentence {index} is out of range for {len(self)} sentences")
        return self._flat[self._offsets[index] : self._offsets[index + 1]].astype(np.int32)

    def packed(self, indices: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], count: int, width: int) -> Int32:
        """Packs sentences into a matrix, int32 [count, width], padded with 0.

        Args:
            indices: sentences, [n].
            rows: row of each sentence, [n], ascending. Sentences of the same row follow one another.

        Raises:
            ValueError: a row has more than `width` tokens.
            UserError: an id is outside the vocabulary.
        """
        lengths = self.lengths[indices]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        column = starts - starts[np.searchsorted(rows, rows)]  # the number of tokens before the sentence in its row
        if len(indices) and (column + lengths).max() > width:
            raise ValueError(f"a row has {(column + lengths).max()} tokens, more than {width}")
        token = np.arange(lengths.sum())
        result = np.zeros(count * width, np.int32)
        result[token + np.repeat(rows * width + column - starts, lengths)] = self._flat[
            token + np.repeat(self._offsets[indices] - starts, lengths)
        ]
        if result.size and result.max() >= self._vocab_size:  # the lookup would silently return another embedding
            raise UserError(
                "the prepared tokens are damaged (an id outside the vocabulary): remove the folder and prepare again"
            )
        return result.reshape(count, width)


def _load(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises many types of error for a damaged header
        raise UserError(f"{path} cannot be read ({error}): remove the folder and prepare again") from error
    if array.ndim != 1 or array.dtype != dtype:
        raise UserError(f"{path} holds {array.dtype} {array.shape}, not a vector of {dtype}")
    return array


class Split:
    """The tokenized sentence pairs of one split."""

    def __init__(self, source: Tokens, target: Tokens) -> None:
        """ValueError if the sides have different numbers of sentences."""
        if len(source) != len(target):
            raise ValueError(f"{len(source)} source sentences but {len(target)} target sentences")
        self.source = source
        self.target = target

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Int32, Int32]:
        """Returns the source and target ids of pair `index`."""
        return self.source[index], self.target[index]

    def lengths(self, side: Side) -> npt.NDArray[np.int64]:
        """Length of each sentence of a side in tokens, EOS included, [n]."""
        return self.source.lengths if side == "source" else self.target.lengths

    def batch(
        self, indices: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], count: int, source: int, target: int
    ) -> tuple[Int32, Int32]:
        """Packs pairs into matrices, int32 [count, source] and [count, target]; see `Tokens.packed`."""
        return self.source.packed(indices, rows, count, source), self.target.packed(indices, rows, count, target)
