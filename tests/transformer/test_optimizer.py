import jax.numpy as jnp
import numpy as np
import pytest

from transformer.config import Experiment, ModelConfig, OptimizerConfig
from transformer.optimizer import learning_rate


def test_the_papers_schedule():
    steps = np.arange(1, 20_000)
    rates = np.array(learning_rate(jnp.array(steps), Experiment("base")))
    np.testing.assert_allclose(rates, 512**-0.5 * np.minimum(steps**-0.5, steps * 4000**-1.5), rtol=1e-5)
    assert steps[rates.argmax()] == 4000


@pytest.mark.parametrize(("d_model", "peak"), [(512, 6.99e-4), (1024, 4.94e-4)])
def test_peaks_of_base_and_big(d_model, peak):
    np.testing.assert_allclose(learning_rate(4000, Experiment("any", ModelConfig(d_model=d_model))), peak, rtol=1e-3)


def test_scale_multiplies():
    twice = Experiment("twice", optimizer=OptimizerConfig(scale=2.0))
    np.testing.assert_allclose(learning_rate(100, twice), 2 * learning_rate(100, Experiment("base")))
