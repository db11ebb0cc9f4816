from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer.config import UserError
from transformer.positions import POSITIONS, LearnedPositions, SinusoidalPositions


def test_sinusoids_are_interleaved_as_in_the_paper(config):
    table = SinusoidalPositions(config, rngs=nnx.Rngs(0))(jnp.arange(50))
    for position in (0, 1, 7, 49):
        for i in range(config.d_model // 2):
            angle = position / 10_000 ** (2 * i / config.d_model)
            np.testing.assert_allclose(table[position, 2 * i], np.sin(angle), atol=1e-5)
            np.testing.assert_allclose(table[position, 2 * i + 1], np.cos(angle), atol=1e-5)


def test_a_shift_is_a_rotation(config):
    # Section 3.5: PE(pos + k) is a linear function of PE(pos), the same for every pos.
    positions = SinusoidalPositions(config, rngs=nnx.Rngs(0))
    k = 5
    frequency = 10_000 ** (-np.arange(0, config.d_model, 2) / config.d_model)
    sin, cos = np.sin(k * frequency), np.cos(k * frequency)
    here, there = np.array(positions(jnp.arange(20))), np.array(positions(jnp.arange(20) + k))
    np.testing.assert_allclose(there[:, 0::2], here[:, 0::2] * cos + here[:, 1::2] * sin, atol=1e-5)
    np.testing.assert_allclose(there[:, 1::2], here[:, 1::2] * cos - here[:, 0::2] * sin, atol=1e-5)


def test_odd_width(config):
    table = SinusoidalPositions(replace(config, d_model=5), rngs=nnx.Rngs(0))(jnp.arange(3))
    assert table.shape == (3, 5)


def test_learned_positions_are_parameters_and_hold_past_their_end(config):
    positions = LearnedPositions(config, rngs=nnx.Rngs(0))
    assert positions.table[...].shape == (config.max_positions, config.d_model)
    table = positions(jnp.arange(config.max_positions + 3))
    assert jnp.all(jnp.isfinite(table))
    np.testing.assert_array_equal(table[-1], table[config.max_positions - 1])


def test_an_encoding_of_this_code_is_not_replaced():
    with pytest.raises(UserError, match="'sinusoidal' is built in"):
        POSITIONS["sinusoidal"] = LearnedPositions
