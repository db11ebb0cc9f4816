"""Tests the batch plan: every sentence once per epoch, full rows of one shape, deterministic, resumable anywhere."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batching import Batches, BatchPlan, Shape, make_shape, stream
from data.tokens import Split, Tokens
from transformer.config import UserError


def _lengths(count: int, seed: int = 0, longest: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Lengths as in news text: lognormal, about 28 tokens, with a difference of about 15% between the sides."""
    rng = np.random.default_rng(seed)
    source = np.exp(rng.normal(np.log(24), 0.55, count))
    target = source * np.exp(rng.normal(0, 0.15, count))
    return tuple(np.clip(np.rint(x), 2, longest).astype(np.int64) for x in (source, target))


def _split(source: np.ndarray, target: np.ndarray, seed: int = 0) -> Split:
    """Random sentences of these lengths."""
    rng = np.random.default_rng(seed)
    sides = []
    for lengths in (source, target):
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        sides.append(Tokens(rng.integers(2, 1000, offsets[-1]).astype(np.uint16), offsets))
    return Split(*sides)


pairs = st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=120)


@given(pairs, st.integers(70, 600), st.sampled_from([None, 0, 7]), st.integers(0, 3))
def test_each_sentence_is_once_in_an_epoch_and_fits(lengths, budget, seed, epoch) -> None:
    source, target = np.array(lengths).T
    plan = BatchPlan(source, target, make_shape(source, target, budget), seed)
    rows, s, t = plan.shape
    assert rows * max(s, t) <= max(budget, 72)  # at least one row, as long as the longest sentence
    assert rows < 32 or rows % 8 == 0
    batches = list(plan.epoch(epoch))
    assert len(batches) == len(plan) > 0
    assert sorted(np.concatenate([b.indices for b in batches])) == list(range(len(lengths)))
    for batch in batches:
        assert (np.diff(batch.rows) >= 0).all() and batch.rows[-1] < rows
        assert np.bincount(batch.rows, source[batch.indices]).max() <= s
        assert np.bincount(batch.rows, target[batch.indices]).max() <= t
    assert plan.fill() == pytest.approx((source.sum() + target.sum()) / (len(plan) * rows * (s + t)))


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
def test_at_least_95_of_100_slots_hold_a_token(ratio: float) -> None:
    source, target = _lengths(200_000)
    target = np.clip(np.rint(target * ratio), 2, 128).astype(np.int64)
    assert BatchPlan(source, target, make_shape(source, target, 25_000), 0).fill() >= 0.95


def test_the_shape() -> None:
    lengths = np.full(1000, 12)
    assert make_shape(lengths, lengths, 25_000) == Shape(384, 64, 64)  # five sentences of 12
    assert make_shape(np.append(lengths, 150), np.append(lengths, 100), 25_000) == Shape(160, 152, 152)
    assert make_shape(lengths, 2 * lengths, 25_000) == Shape(192, 64, 128)  # the ratio of the corpus


def test_a_sentence_longer_than_the_budget_has_a_batch_of_its_own() -> None:
    assert make_shape(np.array([900, 900]), np.array([3, 3]), 100) == Shape(1, 904, 8)


def test_batches_have_no_more_rows_than_they_need() -> None:
    lengths = np.full(2 * 9600, 12)  # 3,840 rows of 5
    plan = BatchPlan(lengths, lengths, Shape(3600, 64, 64), None)
    assert (plan.shape.rows, len(plan)) == (1920, 2)


def test_epochs_differ_and_seeds_differ_and_both_repeat() -> None:
    source, target = _lengths(3000)
    shape = make_shape(source, target, 2000)

    def order(seed: int | None, epoch: int) -> list[list[int]]:
        return [b.indices.tolist() for b in BatchPlan(source, target, shape, seed).epoch(epoch)]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert order(1, 1) == orders[3]
    assert {len(o) for o in orders} == {len(orders[0])}
    assert order(None, 0) == order(None, 5)


def test_who_shares_a_row_changes_from_epoch_to_epoch() -> None:
    source, target = _lengths(20_000)
    plan = BatchPlan(source, target, make_shape(source, target, 2000), 0)

    def neighbours(epoch: int) -> set[tuple[int, int]]:
        return {
            (int(a), int(b))
            for batch in plan.epoch(epoch)
            for a, b in zip(batch.indices, batch.indices[1:], strict=False)
        }

    assert len(neighbours(0) & neighbours(1)) < 0.05 * len(source)


def test_the_order_is_pinned() -> None:
    """A resumed run must see the same batches as an uninterrupted one, so these numbers must never change."""
    plan = BatchPlan(np.full(6, 3), np.full(6, 3), Shape(2, 4, 4), seed=1)
    assert [b.indices.tolist() for b in plan.epoch(2)] == [[5, 1], [0, 2], [3, 4]]
    source, target = np.array([3, 5, 2, 4, 3]), np.array([4, 4, 3, 2, 4])
    packed = [(b.indices.tolist(), b.rows.tolist()) for b in BatchPlan(source, target, Shape(1, 8, 8), 0).epoch(0)]
    assert packed == [([0, 3], [0, 0]), ([2, 4], [0, 0]), ([1], [0])]


def test_no_sentences_and_misfits_are_refused() -> None:
    with pytest.raises(UserError, match="no sentence pairs"):
        make_shape(np.zeros(0, np.int64), np.zeros(0, np.int64), 100)
    with pytest.raises(ValueError, match="pair 1 with 9 and 2 tokens does not fit into a row"):
        BatchPlan(np.array([3, 9]), np.array([2, 2]), Shape(8, 8, 8), 0)


# From plan to arrays


def _batches(seed: int | None = 3, count: int = 300) -> Batches:
    source, target = _lengths(count)
    return Batches(_split(source, target), BatchPlan(source, target, make_shape(source, target, 1500), seed))


def test_a_batch_holds_the_sentences_of_the_plan() -> None:
    batches = _batches()
    planned = batches.plan.epoch(1)[4]
    batch = batches[len(batches.plan) + 4]
    rows, *widths = batches.plan.shape
    for side, width in zip(("source", "target"), widths, strict=True):
        assert batch[side].dtype == np.int32
        assert batch[side].shape == (rows, width)
        for row in range(rows):
            sentences = [getattr(batches.split, side)[i] for i in planned.indices[planned.rows == row]]
            tokens = [int(token) for sentence in sentences for token in sentence]
            assert list(batch[side][row]) == tokens + [0] * (width - len(tokens))


def test_two_epochs_hold_every_token_twice() -> None:
    batches = _batches()
    real = sum(int((b[side] != 0).sum()) for b in (batches[s] for s in range(2 * len(batches.plan))) for side in b)
    assert real == 2 * int(batches.split.lengths("source").sum() + batches.split.lengths("target").sum())


def test_target_tokens_are_those_of_the_batch() -> None:
    batches = _batches()
    for step in (0, 3, len(batches.plan) + 2):
        assert batches.target_tokens(step) == (batches[step]["target"] != 0).sum()


@pytest.mark.parametrize("own", [(0, 1, 2), (1, 4, 5), (3, 90, 91)])
def test_a_process_reads_its_rows_of_the_same_batch(own: tuple[int, ...]) -> None:
    whole = _batches()
    part = Batches(whole.split, whole.plan, own)
    for step in (0, 5):
        assert part.target_tokens(step) == whole.target_tokens(step)
        for side, rows in whole[step].items():
            empty = np.zeros((100, rows.shape[1]), np.int32)
            np.testing.assert_array_equal(part[step][side], np.concatenate([rows, empty])[list(own)])


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


def test_a_row_is_packed_up_to_its_last_slot_and_no_further():
    tokens = Tokens(np.arange(2, 9, dtype=np.uint16), np.array([0, 3, 7]))
    both, one_row = np.arange(2), np.zeros(2, np.int64)
    np.testing.assert_array_equal(tokens.packed(both, one_row, count=1, width=7), [[2, 3, 4, 5, 6, 7, 8]])
    with pytest.raises(ValueError, match="a row has 7 tokens, more than 6"):
        tokens.packed(both, one_row, count=1, width=6)


def test_the_first_id_past_the_vocabulary_is_refused():
    flat, offsets, one = np.array([2, 9, 3], np.uint16), np.array([0, 3]), np.zeros(1, np.int64)
    assert Tokens(flat, offsets, vocab_size=10).packed(one, one, count=1, width=3).tolist() == [[2, 9, 3]]
    with pytest.raises(UserError, match="vocabulary"):
        Tokens(flat, offsets, vocab_size=9).packed(one, one, count=1, width=3)
