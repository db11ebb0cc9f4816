"""Which sentences stand in which row of which batch (section 5.1): a function of (lengths, seed, epoch) alone.

Several sentences share a row, one after the other; the model keeps them apart (transformer/segments.py). So nearly all
slots of a batch hold tokens, whatever the lengths, and all batches have one shape: one compilation. The plan knows
nothing of hosts, devices or workers, so the position of a run in its data is one number: the step.
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

_PREFETCH = 16  # batches ready ahead of the step: about 200 kB each at the paper's 25,000 tokens
_SENTENCES = 5  # a row has room for so many of mean length: fewer leave gaps, more make attention wider than it need be
_FILL = 0.98  # of the slots; the rows that packing begins with would hold all sentences at this rate
_PASSES = 4


class Shape(NamedTuple):
    """The shape of all batches: rows of `source` and `target` token slots."""

    rows: int
    source: int
    target: int


class PlannedBatch(NamedTuple):
    """Sentence indices, int64 [n], and the row that each stands in, [n], ascending."""

    indices: Int64
    rows: Int64


def make_shape(source: npt.NDArray[np.integer], target: npt.NDArray[np.integer], batch_tokens: int) -> Shape:
    """The shape for pairs of these lengths (tokens, [n]).

    Rows hold the longest sentence, and about five of mean length; the two sides have the proportion of all the text.
    There are as many rows as `batch_tokens` slots allow on the larger side, of 32 or more a multiple of 8, so that a
    batch splits over devices. UserError without sentences.
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
    # What one side has too much of, and what attention costs more: 1 in 2000 of a step for each slot of a row.
    s, t = min(widths, key=lambda both: abs(math.log(both[1] / both[0] / ratio)) / 2 + both[0] / 2000)
    rows = batch_tokens // max(s, t)
    return Shape(rows // 8 * 8 if rows >= 32 else max(rows, 1), s, t)


def _multiple_of_8(tokens: float) -> int:
    """Rounded up: widths that suit matrix units."""
    return -(-math.ceil(tokens) // 8) * 8


def pack(source: npt.NDArray[np.integer], target: npt.NDArray[np.integer], shape: Shape) -> Int64:
    """The row of each pair, int64 [n]: rows are numbered from 0, and no row holds more tokens than `shape` has slots.

    Sentences are dealt like cards, the longest first: one to each row, the fullest row last, until all are dealt. Of
    sentences about as long, those with a longer source go to rows that have more room there. What did not fit is dealt
    again, and in the end to new rows. ValueError when a pair fits no row.
    """
    if misfits := np.flatnonzero((source > shape.source) | (target > shape.target)).tolist():
        n = misfits[0]
        raise ValueError(f"pair {n} with {source[n]} and {target[n]} tokens fits no row of {shape}")
    row = np.zeros(len(source), np.int64)
    # Parts of a row: together, and how much more of its source than of its target.
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
                # Eight groups, from the emptiest rows and longest sentences to the fullest and shortest.
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
    return np.unique(row, return_inverse=True)[1].astype(np.int64)  # without the rows that stayed empty


class BatchPlan:
    """Every sentence pair once an epoch, in batches of one shape; as many batches in each epoch.

    Which lengths share a row is settled once. With a seed, each epoch deals the sentences of equal lengths anew to the
    places of that length, and shuffles the rows. Without (None) the order is the same always.
    """

    def __init__(
        self,
        source: npt.NDArray[np.integer],
        target: npt.NDArray[np.integer],
        shape: Shape,
        seed: int | None,
    ) -> None:
        """Lengths in tokens, [n]. ValueError when a pair fits no row."""
        self.seed = seed
        row = pack(source, target, shape)
        self._by_row = np.argsort(row, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(row))])
        # The places of all rows, one after the other, and the sentences: both in order of their pair of lengths.
        lengths = source.astype(np.int64) * (int(target.max()) + 1) + target
        self._lengths = np.unique(lengths, return_inverse=True)[1].astype(np.int32)
        self._places = np.argsort(self._lengths[self._by_row], kind="stable")
        # As many rows in each batch: 2,100 rows are 2 x 1,056, not 2 x 2,080.
        rows = len(self._starts) - 1
        even = -(-rows // -(-rows // shape.rows))
        self.shape = shape._replace(rows=min(shape.rows, -(-even // 8) * 8))
        self._tokens = int(source.sum()) + int(target.sum())

    def __len__(self) -> int:
        """Batches in an epoch; the last may have empty rows."""
        return -(-(len(self._starts) - 1) // self.shape.rows)

    def fill(self) -> float:
        """The part of all token slots of an epoch, on both sides, that holds tokens and not padding."""
        return self._tokens / (len(self) * self.shape.rows * (self.shape.source + self.shape.target))

    def epoch(self, number: int) -> "Epoch":
        """The batches of an epoch, in order."""
        if self.seed is None:
            return Epoch(self._by_row, self._starts, np.arange(len(self._starts) - 1), self.shape.rows)
        # Sorting raw random bits, not Generator.permutation: numpy keeps the bits the same in every version,
        # but not the permutation, and a resumed run must meet the same batches after an upgrade.
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, number]))
        shuffled = _shuffled(len(self._by_row), bits)
        sentences = np.empty_like(self._by_row)
        sentences[self._places] = shuffled[np.argsort(self._lengths[shuffled], kind="stable")]
        return Epoch(sentences, self._starts, _shuffled(len(self._starts) - 1, bits), self.shape.rows)


def _shuffled(n: int, bits: np.random.PCG64) -> Int64:
    return np.argsort(np.asarray(bits.random_raw(n)), kind="stable")


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch, as a sequence."""

    sentences: Int64
    """Sentence indices, row after row."""
    starts: Int64
    """Where each row begins in `sentences`, and the end."""
    order: Int64
    """The rows, in the order in which they come."""
    rows: int
    """Rows of a batch."""

    def __len__(self) -> int:
        return -(-len(self.order) // self.rows)

    def __getitem__(self, index: int) -> PlannedBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no batch {index} of {len(self)}")
        mine = self.order[index * self.rows : (index + 1) * self.rows]
        members = [self.sentences[self.starts[row] : self.starts[row + 1]] for row in mine]
        return PlannedBatch(np.concatenate(members), np.repeat(np.arange(len(mine)), [len(m) for m in members]))


def batch_plan(split: Split, config: DataConfig, seed: int | None) -> BatchPlan:
    """The batches of a split, and their order in each epoch; without a seed it is the same always."""
    source, target = split.lengths("source"), split.lengths("target")
    return BatchPlan(source, target, make_shape(source, target, config.batch_tokens), seed)


@dataclass(frozen=True)
class Batches:
    """The batches of a split by global step: item s is batch s % len(plan) of epoch s // len(plan)."""

    split: Split
    plan: BatchPlan
    rows: Sequence[int] | None = None
    """The rows that are read, ascending, of those of a batch and any number of empty ones behind them. None: all."""

    def __post_init__(self) -> None:
        # Two epochs: a reader at the seam between them meets both.
        object.__setattr__(self, "_epoch", lru_cache(maxsize=2)(self.plan.epoch))

    def __getitem__(self, step: int) -> Batch:
        """dict(source=int32 [B, S], target=int32 [B, T]): sentences one after the other, each ended by eos, then 0."""
        planned = self._planned(step)
        indices, rows, count = planned.indices, planned.rows, self.plan.shape.rows
        if self.rows is not None:
            mine = np.isin(rows, self.rows)
            indices, rows, count = indices[mine], np.searchsorted(self.rows, rows[mine]), len(self.rows)
        source, target = self.split.batch(indices, rows, count, self.plan.shape.source, self.plan.shape.target)
        return {"source": source, "target": target}

    def target_tokens(self, step: int) -> int:
        """Target tokens of a batch, all of its rows counted."""
        return int(self.split.lengths("target")[self._planned(step).indices].sum())

    def _planned(self, step: int) -> PlannedBatch:
        if step < 0:
            raise IndexError(f"there is no step {step}")
        number, index = divmod(int(step), len(self.plan))
        planned: PlannedBatch = self._epoch(number)[index]  # type: ignore[attr-defined]
        return planned


@dataclass(frozen=True)
class _Steps:
    """Steps start, start + 1, ... of `batches` as a sequence of known length, which is what Grain wants."""

    batches: Batches
    start: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        return self.batches[self.start + int(index)]


def stream(batches: Batches, start: int, steps: int) -> Iterator[Batch]:
    """The batches of `steps` steps from step `start` on, prefetched by Grain in a thread."""
    import grain  # here, so that preparing and planning work without it

    source = grain.MapDataset.source(_Steps(batches, start, steps))
    # One thread: several fight for the interpreter lock; 16, Grain's default, were measured 7 times slower.
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)))
