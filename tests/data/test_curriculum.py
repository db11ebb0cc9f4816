"""A length curriculum: which sentences its epochs have, and that nothing else changes."""

import numpy as np
import pytest

from data.batching import Batches, BatchPlan, make_shape
from data.curriculum import CurriculumPlan
from data.tokens import Split, Tokens
from transformer.config import DataConfig, UserError

DRAW = np.random.default_rng(3)
SOURCE, TARGET = DRAW.integers(2, 30, 600), DRAW.integers(2, 30, 600)
SHAPE = make_shape(SOURCE, TARGET, 512)


@pytest.fixture
def plans():
    return CurriculumPlan(SOURCE, TARGET, SHAPE, 7, 3), BatchPlan(SOURCE, TARGET, SHAPE, 7)


def sentences_of(plan, number):
    epoch = plan.epoch(number)
    return np.concatenate([epoch[i].indices for i in range(len(epoch))])


def test_the_first_epochs_have_the_shortest_sentences_all_of_them_and_no_others(plans):
    lengths = SOURCE + TARGET
    for number in range(3):
        longest = np.quantile(lengths, (number + 1) / 4)
        seen = sentences_of(plans[0], number)
        assert set(seen) == set(np.flatnonzero(lengths <= longest))
        assert len(plans[0].epoch(number)) == len(plans[0]) == len(plans[1])


def test_the_epochs_after_them_are_those_without_a_curriculum(plans):
    for number in (3, 4):
        np.testing.assert_array_equal(sentences_of(plans[0], number), sentences_of(plans[1], number))


def test_the_order_depends_on_seed_and_epoch_alone(plans):
    again, other = (CurriculumPlan(SOURCE, TARGET, SHAPE, seed, 3) for seed in (7, 8))
    np.testing.assert_array_equal(sentences_of(plans[0], 1), sentences_of(again, 1))
    assert not np.array_equal(sentences_of(other, 1)[:50], sentences_of(again, 1)[:50])


def test_batches_have_the_planned_shape(plans):
    def tokens(lengths):
        return Tokens(np.full(lengths.sum(), 9, np.uint16), np.concatenate([[0], np.cumsum(lengths)]), 10)

    batches = Batches(Split(tokens(SOURCE), tokens(TARGET)), plans[0])
    for step in range(4 * len(plans[0])):
        batch = batches[step]
        assert batch["source"].shape == (plans[0].shape.rows, plans[0].shape.source)
        assert batches.target_tokens(step) == np.count_nonzero(batch["target"]) > 0


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match=r"data\.curriculum must be 0 or more"):
        DataConfig(curriculum=-1)
    with pytest.raises(UserError, match=r"leave out --data\.subword-sampling"):
        DataConfig(curriculum=1, subword_sampling=0.1)
