"""Packing and batching (section 5.1): assigns sentences to rows and batches, depending only on (lengths, seed, epoch).

Several sentences are packed into a row, one after the other; the model keeps them apart (transformer/segments.py).
Nearly all token slots of a batch therefore hold tokens, whatever the lengths, and all batches have the same shape, so
the training step compiles once. The plan does not depend on hosts, devices or workers, so the step number alone
determines a run's position in its data.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.tokens import Split
from transformer.config import DataConfig, UserError

Int64 = npt.NDArray[np.int64]
Batch = dict[str, npt.NDArray[np.int32]]

_PREFETCH = 16  # batches prefetched: about 200 kB each at the paper's 25,000 tokens
_SENTENCES = 5  # of mean length per row: with fewer, gaps remain; more make attention wider than necessary
_FILL = 0.98  # packing starts with as many rows as would hold all sentences at this fill rate
_PASSES = 4  # over the sentences that did not fit, before more rows are added


class Shape(NamedTuple):
    """Shape of every batch: number of rows, and token slots per row on the source and target sides."""

    rows: int
    source: int
    target: int


class PlannedBatch(NamedTuple):
    """Sentence indices, int64 [n], and the row of each sentence, int64 [n], ascending."""

    indices: Int64
    rows: Int64


def make_shape(source: npt.NDArray[np.integer], target: npt.NDArray[np.integer], batch_tokens: int) -> Shape:
    """Chooses the batch shape for sentence pairs of these lengths (tokens, [n]).

    A row is wide enough for the longest sentence, and for about five sentences of mean length. The widths of the two
    sides are in proportion to their total token counts. The number of rows is the largest for which the larger side has
    at most `batch_tokens` slots; from 32 on it is rounded down to a multiple of 8, so that a batch can be split over
    devices. UserError if there are no sentences.
    """
    if len(source) == 0:
        raise UserError("there are no sentence pairs to make batches of")
    ratio = float(target.sum() / source.sum())
    narrowest = _multiple_of_8(max(int(source.max()), _SENTENCES * float(source.mean())))
    widths = [
        (s, max(round(s * ratio / 8) * 8, _multiple_of_8(target.max()))) for s in range(narrowest, 2 * narrowest, 8)
    ]
    widths = [(s, t) for s, t in widths if max(s, t) <= batch_tokens]
    widths = widths or [(_multiple_of_8(source.max()), _multiple_of_8(target.max()))]
    # Cost: the slots that one side wastes, plus attention, about 1/2000 of a step for each slot of a row.
    s, t = min(widths, key=lambda both: abs(math.log(both[1] / both[0] / ratio)) / 2 + both[0] / 2000)
    rows = batch_tokens // max(s, t)
    return Shape(rows // 8 * 8 if rows >= 32 else max(rows, 1), s, t)


def _multiple_of_8(tokens: float) -> int:
    """Rounds up to a multiple of 8, for efficient use of matrix units."""
    return -(-math.ceil(tokens) // 8) * 8


def pack(source: npt.NDArray[np.integer], target: npt.NDArray[np.integer], shape: Shape) -> Int64:
    """Packs sentence pairs into rows. Returns the row of each pair, int64 [n], numbered from 0.

    Sentences are distributed longest first in rounds: each round gives one to every row, the longest to the emptiest
    row. Among sentences of similar length, those with a longer source go to rows with more free source slots. Sentences
    that did not fit are distributed again, and finally go to new rows. ValueError if a pair does not fit into any row.
    """
    if misfits := np.flatnonzero((source > shape.source) | (target > shape.target)).tolist():
        n = misfits[0]
        raise ValueError(f"pair {n} with {source[n]} and {target[n]} tokens does not fit into a row of {shape}")
    row = np.zeros(len(source), np.int64)
    # In fractions of a row: the total size of a pair, and how much larger its source is than its target.
    size, lean = source / shape.source + target / shape.target, source / shape.source - target / shape.target
    rest, rows_before = np.argsort(-size, kind="stable"), 0
    while len(rest):
        needed = max(source[rest].sum() / shape.source, target[rest].sum() / shape.target)
        rows = math.ceil(needed / _FILL)
        used_source, used_target = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        for _ in range(_PASSES):
            left = [rest[:0]]
            for start in range(0, len(rest), rows):
                hand = rest[start : start + rows]
                place = np.argsort(used_source / shape.source + used_target / shape.target, kind="stable")[: len(hand)]
                # Eight groups, from the longest sentences and emptiest rows to the shortest and fullest.
                group = np.arange(len(hand)) * 8 // rows
                leaning = used_source[place] / shape.source - used_target[place] / shape.target
                place = place[np.lexsort((leaning, group))]
                hand = hand[np.lexsort((-lean[hand], group))]
                fits = (used_source[place] + source[hand] <= shape.source) & (
                    used_target[place] + target[hand] <= shape.target
                )
                hand, place, refused = hand[fits], place[fits], hand[~fits]
                used_source[place] += source[hand]
                used_target[place] += target[hand]
                row[hand] = rows_before + place
                left.append(refused)
            rest = np.concatenate(left)
            rest = rest[np.argsort(-size[rest], kind="stable")]
        rows_before += rows
    return np.unique(row, return_inverse=True)[1].astype(np.int64)  # drop the rows that stayed empty


class BatchPlan:
    """Packed batches of one shape that contain every sentence pair once per epoch. All epochs have the same length.

    The assignment of lengths to rows is computed once. With a seed, each epoch shuffles sentences of equal lengths
    among the slots of that length, and shuffles the rows. With seed None, all epochs have the same order.
    """

    def __init__(
        self,
        source: npt.NDArray[np.integer],
        target: npt.NDArray[np.integer],
        shape: Shape,
        seed: int | None,
    ) -> None:
        """Takes the lengths in tokens, [n]. ValueError if a pair does not fit into any row."""
        self.seed = seed
        row = pack(source, target, shape)
        self._by_row = np.argsort(row, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(row))])
        # The sentence slots of all rows, and below the sentences, are both sorted by their pair of lengths.
        lengths = source.astype(np.int64) * (int(target.max()) + 1) + target
        self._lengths = np.unique(lengths, return_inverse=True)[1].astype(np.int32)
        self._places = np.argsort(self._lengths[self._by_row], kind="stable")
        # Equal numbers of rows in all batches: 2,100 rows are 2 x 1,056, not 2 x 2,080.
        rows = len(self._starts) - 1
        even = -(-rows // -(-rows // shape.rows))
        self.shape = shape._replace(rows=min(shape.rows, -(-even // 8) * 8))
        self._tokens = int(source.sum()) + int(target.sum())

    def __len__(self) -> int:
        """Number of batches in an epoch. The last batch may have empty rows."""
        return -(-(len(self._starts) - 1) // self.shape.rows)

    def fill(self) -> float:
        """Fill rate: the fraction of the token slots of an epoch, on both sides, that hold tokens, not padding."""
        return self._tokens / (len(self) * self.shape.rows * (self.shape.source + self.shape.target))

    def epoch(self, number: int) -> "Epoch":
        """Returns the batches of an epoch, in order."""
        rows = len(self._starts) - 1
        cuts = np.minimum(np.arange(len(self) + 1) * self.shape.rows, rows)
        if self.seed is None:
            return Epoch(self._by_row, self._starts, np.arange(rows), cuts)
        # Sort raw random bits instead of calling Generator.permutation: NumPy guarantees that the bits are the same in
        # every version, but not the permutation, and a resumed run must see the same batches after an upgrade.
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, number]))
        shuffled = _shuffled(len(self._by_row), bits)
        sentences = np.empty_like(self._by_row)
        sentences[self._places] = shuffled[np.argsort(self._lengths[shuffled], kind="stable")]
        return Epoch(sentences, self._starts, _shuffled(rows, bits), cuts)


def _shuffled(n: int, bits: np.random.PCG64) -> Int64:
    return np.argsort(np.asarray(bits.random_raw(n)), kind="stable")


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch, as a sequence."""

    sentences: Int64
    """Sentence indices, row by row."""
    starts: Int64
    """Start of each row in `sentences`, followed by the end."""
    order: Int64
    """Rows in the order of the epoch."""
    cuts: Int64
    """Start of each batch in `order`, followed by the end."""
    split: Split | None = None
    """The sentences as they are encoded in this epoch (data/sampling.py). None: as in all others."""

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __getitem__(self, index: int) -> PlannedBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} is out of range for an epoch of {len(self)}")
        mine = self.order[self.cuts[index] : self.cuts[index + 1]]
        members = [self.sentences[self.starts[row] : self.starts[row + 1]] for row in mine]
        return PlannedBatch(np.concatenate(members), np.repeat(np.arange(len(mine)), [len(m) for m in members]))


def batch_plan(split: Split, config: DataConfig, seed: int | None) -> BatchPlan:
    """Plans the batches of a split. Without a seed, all epochs have the same order."""
    source, target = split.lengths("source"), split.lengths("target")
    return BatchPlan(source, target, make_shape(source, target, config.batch_tokens), seed)


@dataclass(frozen=True)
class Batches:
    """The batches of a split, indexed by global step: item s is batch s % len(plan) of epoch s // len(plan)."""

    split: Split
    plan: BatchPlan
    rows: Sequence[int] | None = None
    """Rows to read, ascending; None means all. Rows at or beyond the end of the batch are empty."""

    def __post_init__(self) -> None:
        # Cache two epochs: around the boundary between epochs, both are in use.
        object.__setattr__(self, "_epoch", lru_cache(maxsize=2)(self.plan.epoch))

    def __getitem__(self, step: int) -> Batch:
        """Returns dict(source=int32 [B, S], target=int32 [B, T]): packed sentences, each ending with EOS, then 0."""
        split, planned = self._planned(step)
        indices, rows, count = planned.indices, planned.rows, self.plan.shape.rows
        if self.rows is not None:
            mine = np.isin(rows, self.rows)
            indices, rows, count = indices[mine], np.searchsorted(self.rows, rows[mine]), len(self.rows)
        source, target = split.batch(indices, rows, count, self.plan.shape.source, self.plan.shape.target)
        return {"source": source, "target": target}

    def target_tokens(self, step: int) -> int:
        """Number of target tokens in all rows of a batch."""
        split, planned = self._planned(step)
        return int(split.lengths("target")[planned.indices].sum())

    def _planned(self, step: int) -> tuple[Split, PlannedBatch]:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        number, index = divmod(int(step), len(self.plan))
        epoch: Epoch = self._epoch(number)  # type: ignore[attr-defined]
        return epoch.split or self.split, epoch[index]


@dataclass(frozen=True)
class _Steps:
    """Steps start, start + 1, ... of `batches` as a sequence of known length, which Grain requires."""

    batches: Batches
    start: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        return self.batches[self.start + int(index)]


def stream(batches: Batches, start: int, steps: int) -> Iterator[Batch]:
    """Data loader: yields the batches of `steps` steps from step `start`, prefetched by Grain in a thread."""
    import grain  # imported here, so that preparing and planning work without Grain

    source = grain.MapDataset.source(_Steps(batches, start, steps))
    # One thread: several contend for the GIL. Grain's default of 16 was measured to be 7 times slower.
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)))
