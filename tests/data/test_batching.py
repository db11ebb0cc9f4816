"""The batch plan: every sentence once an epoch, in few shapes, the same everywhere, from any step on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batching import EMPTY, Batches, BatchPlan, Shape, make_shapes, stream
from data.tokens import Split, Tokens
from transformer.config import UserError


def _lengths(count: int, seed: int = 0, longest: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Lengths as in news text: lognormal, about 28 tokens, the sides within some 15 % of each other."""
    rng = np.random.default_rng(seed)
    source = np.exp(rng.normal(np.log(24), 0.55, count))
    target = source * np.exp(rng.normal(0, 0.15, count))
    return tuple(np.clip(np.rint(x), 2, longest).astype(np.int64) for x in (source, target))


def _split(source: np.ndarray, target: np.ndarray, seed: int = 0) -> Split:
    """Random tokens of these lengths."""
    rng = np.random.default_rng(seed)
    sides = []
    for lengths in (source, target):
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        sides.append(Tokens(rng.integers(2, 1000, offsets[-1]).astype(np.uint16), offsets))
    return Split(*sides)


pairs = st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=120)


@settings(deadline=None)
@given(pairs, st.integers(1, 6), st.integers(70, 600), st.sampled_from([None, 0, 7]), st.integers(0, 3))
def test_each_sentence_is_once_in_an_epoch_and_fits(lengths, num_shapes, budget, seed, epoch) -> None:
    source, target = np.array(lengths).T
    shapes = make_shapes(source, target, budget, num_shapes, max_length=70)
    assert 1 <= len(shapes) <= num_shapes
    for rows, s, t in shapes:
        assert rows * max(s, t) <= budget
        assert rows < 8 or rows % 8 == 0
        assert max(s, t) <= 72
    plan = BatchPlan(source, target, shapes, seed)
    batches = plan.epoch(epoch)
    assert len(batches) == len(plan)
    assert np.bincount([b.shape for b in batches], minlength=len(shapes)).tolist() == plan.batches_per_shape()
    seen = np.concatenate([b.indices for b in batches])
    assert sorted(seen[seen != EMPTY]) == list(range(len(lengths)))
    for batch in batches:
        shape = shapes[batch.shape]
        real = batch.indices[batch.indices != EMPTY]
        assert len(batch.indices) == shape.rows
        assert len(real) > 0
        assert source[real].max() <= shape.source
        assert target[real].max() <= shape.target
    slots = sum(shapes[b.shape].rows * (shapes[b.shape].source + shapes[b.shape].target) for b in batches)
    assert plan.fill() == pytest.approx((source.sum() + target.sum()) / slots)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=120))
def test_the_cut_into_shapes_is_optimal(lengths) -> None:
    """No cut into three runs of lengths takes fewer slots, in whole batches, than the one that was chosen."""
    widths = np.array([-(-n // 4) * 4 if n <= 32 else -(-n // 8) * 8 for n in lengths])
    levels = np.unique(widths)

    def slots(*cuts: int) -> int:
        total = 0
        for low, high in zip((0, *cuts), (*cuts, 1000), strict=True):
            run = widths[(widths > low) & (widths <= high)]
            if len(run):
                rows = 600 // run.max()
                rows = rows // 8 * 8 if rows >= 8 else rows
                total += 2 * -(-len(run) // rows) * rows * run.max()
        return int(total)

    best = min(slots(a, b) for a in levels for b in levels if a <= b)
    n = np.array(lengths)
    plan = BatchPlan(n, n, make_shapes(n, n, 600, 3), None)
    assert round(2 * n.sum() / plan.fill()) <= best  # fewer, where rows could be evened out


def test_batches_are_full() -> None:
    source, target = _lengths(200_000)
    for num_shapes, least in ((1, 0.2), (4, 0.69), (8, 0.8), (16, 0.86)):
        plan = BatchPlan(source, target, make_shapes(source, target, 25_000, num_shapes, 128), 0)
        assert plan.fill() > least


def test_shapes_are_no_wider_than_max_length_unless_a_sentence_is() -> None:
    source, target = _lengths(5000, longest=100)
    assert max(max(s.source, s.target) for s in make_shapes(source, target, 4000, 4, max_length=100)) == 100
    source[7] = 150
    widest = make_shapes(source, target, 4000, 4, max_length=100)[-1]
    assert (widest.source, widest.target) == (150, 100)


def test_a_sentence_longer_than_the_budget_has_a_batch_of_its_own() -> None:
    (shape,) = make_shapes(np.array([900, 900]), np.array([3, 3]), 100, 8)
    assert shape == Shape(1, 904, 4)


def test_rows_are_evened_out() -> None:
    lengths = np.full(2100, 12)
    assert make_shapes(lengths, lengths, 25_000, 8) == [Shape(1056, 12, 12)]


def test_epochs_differ_and_seeds_differ_and_both_repeat() -> None:
    source, target = _lengths(3000)
    shapes = make_shapes(source, target, 2000, 4)

    def order(seed: int | None, epoch: int) -> list[list[int]]:
        return [b.indices.tolist() for b in BatchPlan(source, target, shapes, seed).epoch(epoch)]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert order(1, 1) == orders[3]
    assert {len(o) for o in orders} == {len(orders[0])}
    assert order(None, 0) == order(None, 5)


def test_the_order_is_pinned() -> None:
    """A resumed run must meet the batches it would have met: these numbers may not change with a version."""
    plan = BatchPlan(np.full(6, 3), np.full(6, 3), [Shape(2, 4, 4)], seed=1)
    assert [b.indices.tolist() for b in plan.epoch(2)] == [[5, 3], [0, 4], [2, 1]]


def test_without_a_seed_the_order_is_by_shape_then_index() -> None:
    source, target = _lengths(500)
    shapes = make_shapes(source, target, 1000, 3)
    batches = BatchPlan(source, target, shapes, None).epoch(0)
    assert [b.shape for b in batches] == sorted(b.shape for b in batches)
    for shape in range(len(shapes)):
        indices = np.concatenate([b.indices for b in batches if b.shape == shape])
        assert (np.diff(indices[indices != EMPTY]) > 0).all()


def test_no_sentences_and_misfits_are_refused() -> None:
    with pytest.raises(UserError, match="no sentence pairs"):
        make_shapes(np.zeros(0, np.int64), np.zeros(0, np.int64), 100, 2)
    with pytest.raises(ValueError, match="pair 1 with 9 and 2 tokens fits no shape"):
        BatchPlan(np.array([3, 9]), np.array([2, 2]), [Shape(8, 8, 8)], 0)


# From plan to arrays


def _batches(seed: int | None = 3, count: int = 300) -> Batches:
    source, target = _lengths(count)
    shapes = make_shapes(source, target, 1500, 3)
    return Batches(_split(source, target), BatchPlan(source, target, shapes, seed))


def test_a_batch_holds_the_sentences_of_the_plan() -> None:
    batches = _batches()
    planned = batches.plan.epoch(1)[4]
    shape = batches.plan.shapes[planned.shape]
    batch = batches[len(batches.plan) + 4]
    for side, width in (("source", shape.source), ("target", shape.target)):
        assert batch[side].dtype == np.int32
        assert batch[side].shape == (shape.rows, width)
        for row, index in zip(batch[side], planned.indices, strict=True):
            tokens = [] if index == EMPTY else list(getattr(batches.split, side)[index])
            assert list(row) == tokens + [0] * (width - len(tokens))


def test_two_epochs_hold_every_token_twice() -> None:
    batches = _batches()
    real = sum(int((b[side] != 0).sum()) for b in (batches[s] for s in range(2 * len(batches.plan))) for side in b)
    assert real == 2 * int(batches.split.lengths("source").sum() + batches.split.lengths("target").sum())


def test_there_is_no_step_before_the_first() -> None:
    with pytest.raises(IndexError):
        _batches()[-1]


@pytest.mark.parametrize("start", [0, 5, 1000])
def test_a_stream_is_the_steps_from_any_start(start: int) -> None:
    batches = _batches()
    streamed = list(stream(batches, start, 20))
    assert len(streamed) == 20
    for offset, batch in enumerate(streamed):
        for side, array in batches[start + offset].items():
            np.testing.assert_array_equal(batch[side], array)


def test_a_failing_split_stops_the_stream(tmp_path: Path) -> None:
    class Broken(Split):
        def batch(self, *args):
            raise OSError("the disk went away")

    batches = _batches()
    broken = Batches(Broken(batches.split.source, batches.split.target), batches.plan)
    with pytest.raises(OSError, match="the disk went away"):
        list(stream(broken, 0, 5))
