"""Which sentences form which batch (section 5.1): a plan that is a function of (lengths, seed, epoch) alone.

Sentences of about the same length go together, in a few fixed (rows, source, target) shapes, because each
shape is one compilation. The plan knows nothing of hosts, devices or workers, so the position of a run in its
data is one number: the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.tokens import Split
from transformer.config import UserError

Int64 = npt.NDArray[np.int64]
Batch = dict[str, npt.NDArray[np.int32]]

EMPTY = -1  # the sentence index of a row that holds no sentence

_PREFETCH = 16  # batches ready ahead of the step: about 200 kB each at the paper's 25,000 tokens


class Shape(NamedTuple):
    """One batch shape: rows of `source` and `target` token slots."""

    rows: int
    source: int
    target: int


class PlannedBatch(NamedTuple):
    """Shape index, and int64 [rows] sentence indices, EMPTY where a row holds none."""

    shape: int
    indices: Int64


def _round_up(lengths: npt.NDArray[np.integer]) -> Int64:
    """Widths: multiples of 8, which suit matrix units, but of 4 up to 32, where 8 would pad too much."""
    step = np.where(lengths <= 32, 4, 8)
    return (-(-lengths // step) * step).astype(np.int64)


def make_shapes(
    lengths_source: npt.NDArray[np.integer],
    lengths_target: npt.NDArray[np.integer],
    batch_tokens: int,
    num_shapes: int,
    max_length: int | None = None,
) -> list[Shape]:
    """At most `num_shapes` shapes that hold all pairs of these lengths (tokens, [n]) with little padding.

    No shape is wider than `max_length` unless a sentence is. Rows fill at most `batch_tokens` slots on the
    larger side, in multiples of 8 where 8 fit, so that a batch splits over devices; there are fewer where
    that spares the last batch of a shape empty rows. UserError without sentences.
    """
    if len(lengths_source) == 0:
        raise UserError("there are no sentence pairs to make batches of")
    cells, counts = _histogram(lengths_source, lengths_target)
    widths = _split_by_length(cells, counts, num_shapes, batch_tokens)
    if max_length is not None:
        longest = [int(lengths_source.max()), int(lengths_target.max())]
        widths = np.minimum(widths, np.maximum(longest, max_length))
    rows = _most_rows(batch_tokens, widths.max(axis=1))
    shapes = [Shape(*shape) for shape in np.column_stack([rows, widths]).tolist()]
    sizes = np.bincount(_smallest_shape(lengths_source, lengths_target, shapes), minlength=len(shapes))
    return [_evened(shape, n) for shape, n in zip(shapes, sizes.tolist(), strict=True) if n]


def _most_rows(batch_tokens: int, widths: Int64) -> Int64:
    """The rows that `batch_tokens` slots allow: a multiple of 8 when 8 fit, and at least one."""
    rows = batch_tokens // widths
    return np.where(rows >= 8, rows // 8 * 8, np.maximum(rows, 1))


def _evened(shape: Shape, pairs: int) -> Shape:
    """As many batches, of no more rows than they need: 2,100 pairs are 2 x 1,056, not 2 x 2,080."""
    even = -(-pairs // -(-pairs // shape.rows))
    return shape._replace(rows=min(shape.rows, -(-even // 8) * 8))


def _histogram(source: npt.NDArray[np.integer], target: npt.NDArray[np.integer]) -> tuple[Int64, Int64]:
    """The distinct rounded (source, target) widths, [cells, 2], and how many pairs have each, [cells]."""
    s, t = _round_up(source), _round_up(target)
    base = int(t.max()) + 1
    keys, counts = np.unique(s * base + t, return_counts=True)
    return np.stack([keys // base, keys % base], axis=1), counts.astype(np.int64)


def _split_by_length(cells: Int64, counts: Int64, num_shapes: int, batch_tokens: int) -> Int64:
    """The best cut of the pairs, ordered by their longer side, into runs: widths [runs, 2].

    best[k][j] is the fewest slots, in whole batches, of the first j lengths in k runs; a run is as wide as
    its widest pair. Annealing over all sets of 8 shapes, square or not, was measured to fill 0.02 % more.
    """
    levels, level = np.unique(cells.max(axis=1), return_inverse=True)
    n = len(levels)
    widest = np.zeros((n, 2), np.int64)
    np.maximum.at(widest, level, cells)
    pairs = np.bincount(level, weights=counts, minlength=n)
    # cost[i, j] and width[i, j] of the run of lengths i..j
    cost = np.full((n, n), np.inf)
    width = np.zeros((n, n, 2), np.int64)
    for i in range(n):
        width[i, i:] = np.maximum.accumulate(widest[i:])
        rows = _most_rows(batch_tokens, width[i, i:].max(axis=1))
        cost[i, i:] = -(-np.cumsum(pairs[i:]) // rows) * rows * width[i, i:].sum(axis=1)
    best = [np.append(0.0, np.full(n, np.inf))]
    starts = []
    for _ in range(min(num_shapes, n)):
        totals = best[-1][:n, None] + cost
        starts.append(totals.argmin(axis=0))
        best.append(np.append(np.inf, totals.min(axis=0)))
    runs = int(np.argmin([b[n] for b in best[1:]])) + 1
    chosen = []
    end = n - 1
    for k in reversed(range(runs)):
        start = int(starts[k][end])
        chosen.append(width[start, end])
        end = start - 1
    return np.array(chosen[::-1])


class BatchPlan:
    """Every sentence pair once an epoch, in batches of the given shapes; as many batches in each epoch.

    With a seed the order is shuffled anew each epoch. Without (None) it is the same always: by shape, then by
    sentence index.
    """

    def __init__(
        self,
        lengths_source: npt.NDArray[np.integer],
        lengths_target: npt.NDArray[np.integer],
        shapes: list[Shape],
        seed: int | None,
    ) -> None:
        """Lengths in tokens, [n]. ValueError when a pair fits no shape."""
        self.shapes = shapes
        self.seed = seed
        self._shape_of = _smallest_shape(lengths_source, lengths_target, shapes)
        self._sizes = np.bincount(self._shape_of, minlength=len(shapes))
        self._tokens = int(lengths_source.sum()) + int(lengths_target.sum())

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(self.batches_per_shape())

    def batches_per_shape(self) -> list[int]:
        """How many batches of each shape an epoch has; the last of each may have empty rows."""
        return [-(-int(n) // shape.rows) for n, shape in zip(self._sizes, self.shapes, strict=True)]

    def fill(self) -> float:
        """The part of all token slots of an epoch, on both sides, that holds tokens and not padding."""
        batches = zip(self.batches_per_shape(), self.shapes, strict=True)
        return self._tokens / sum(n * s.rows * (s.source + s.target) for n, s in batches)

    def epoch(self, number: int) -> list[PlannedBatch]:
        """The batches of an epoch, in order."""
        # Sorting raw random bits, not Generator.permutation: numpy keeps the bits the same in every version,
        # but not the permutation, and a resumed run must meet the same batches after an upgrade.
        bits = None if self.seed is None else np.random.PCG64(np.random.SeedSequence([self.seed, number]))
        order = self._shuffled(len(self._shape_of), bits)
        by_shape = order[np.argsort(self._shape_of[order], kind="stable")]
        batches: list[PlannedBatch] = []
        start = 0
        for index, (shape, size, count) in enumerate(
            zip(self.shapes, self._sizes.tolist(), self.batches_per_shape(), strict=True)
        ):
            rows = np.full(count * shape.rows, EMPTY, np.int64)
            rows[:size] = by_shape[start : start + size]
            start += size
            batches += [PlannedBatch(index, part) for part in rows.reshape(count, shape.rows)]
        return [batches[i] for i in self._shuffled(len(batches), bits)]

    @staticmethod
    def _shuffled(n: int, bits: np.random.PCG64 | None) -> Int64:
        if bits is None:
            return np.arange(n)
        return np.argsort(np.asarray(bits.random_raw(n)), kind="stable")


def _smallest_shape(
    source: npt.NDArray[np.integer], target: npt.NDArray[np.integer], shapes: list[Shape]
) -> npt.NDArray[np.int16]:
    """The index of the shape with the fewest slots that holds each pair, [n]; of equal ones the first."""
    result = np.full(len(source), -1, np.int16)
    for index in sorted(range(len(shapes)), key=lambda i: (-shapes[i].source - shapes[i].target, -i)):
        result[(source <= shapes[index].source) & (target <= shapes[index].target)] = index
    if (result < 0).any():
        misfit = int(np.argmax(result < 0))
        raise ValueError(f"pair {misfit} with {source[misfit]} and {target[misfit]} tokens fits no shape")
    return result


@dataclass(frozen=True)
class Batches:
    """The batches of a split by global step: item s is batch s % len(plan) of epoch s // len(plan)."""

    split: Split
    plan: BatchPlan

    def __post_init__(self) -> None:
        # Two epochs: a reader at the seam between them meets both.
        object.__setattr__(self, "_epoch", lru_cache(maxsize=2)(self.plan.epoch))

    def __getitem__(self, step: int) -> Batch:
        """dict(source=int32 [B, S], target=int32 [B, T]), padded with 0; each sentence ends in eos."""
        if step < 0:
            raise IndexError(f"there is no step {step}")
        number, index = divmod(int(step), len(self.plan))
        planned = self._epoch(number)[index]  # type: ignore[attr-defined]
        shape = self.plan.shapes[planned.shape]
        source, target = self.split.batch(planned.indices, shape.source, shape.target)
        return {"source": source, "target": target}


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
