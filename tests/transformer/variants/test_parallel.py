"""Tests of training what came after the paper on many devices: eight that XLA emulates on one CPU."""

import pytest

from tests.transformer.steps_on_devices import VARIANTS, assert_same_training, computed


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_many_devices_train_what_one_trains(tmp_path, variant):
    found = computed(tmp_path, f"{variant}-one", f"{variant}-2x2x2")
    assert_same_training(*found.values())
