"""The validation loss: one program over all batches gives the mean over the tokens of each of them."""

from dataclasses import replace

import jax
import pytest

from data.batching import Batches, batch_plan
from data.dataset import prepare
from experiments.evaluation.validation import Validation
from transformer.parallel import make_mesh
from transformer.train import init_params, make_eval_step


@pytest.mark.parametrize("on_mesh", [True, False])
def test_the_loss_is_the_mean_over_the_tokens_of_all_batches(micro, on_mesh):
    small = replace(micro, data=replace(micro.data, batch_tokens=64))
    dev = prepare(small.data, log=lambda line: None).dev
    plan, params = batch_plan(dev, small.data, None), init_params(small.model, 0)
    batches, eval_step = Batches(dev, plan), jax.jit(make_eval_step(small))
    sums = [eval_step(params, batches[i]) for i in range(len(plan))]
    assert len({float(loss / count) for loss, count in sums}) > 1, "several batches, and not of one loss"
    validate = Validation(small, dev, plan, make_mesh(small.mesh, small.model) if on_mesh else None)
    expected = sum(float(loss) for loss, _ in sums) / sum(float(count) for _, count in sums)
    assert validate(params) == pytest.approx(expected, rel=1e-6)
