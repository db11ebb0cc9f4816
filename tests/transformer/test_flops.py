"""The number of operations agrees with that of the paper and that of the compiler."""

from dataclasses import replace

import jax
import pytest
from flax import nnx

from experiments.presets.paper import BASE, BIG
from transformer.config import Experiment, ModelConfig, OptimizerConfig, TrainConfig
from transformer.flops import forward_flops, train_flops
from transformer.model import Transformer
from transformer.optimizer import make_optimizer
from transformer.train import abstract_model, step_flops


def test_the_paper_s_models_at_a_mean_length_of_28():
    per_token = [train_flops(replace(model, vocab_size=37_000), 28, 28) / 28 for model in (BASE, BIG)]
    assert [round(flops / 1e6) for flops in per_token] == [381, 1290]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"d_k": 16},
        {"d_v": 64, "num_heads": 2},
        {"d_ff": 512, "num_layers": 3},
        {"decoder_layers": 4, "shared_layers": 2, "tied": "none", "biases": False},
        {"feed_forward": "gated", "decoder_layers": 1},
    ],
)
def test_the_compiler_counts_the_same_products(changes):
    config = ModelConfig(vocab_size=500, num_layers=2, d_model=128, d_ff=256, num_heads=4, d_k=32, d_v=32)
    config = replace(config, **changes)
    graph, params = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    source, target = (jax.ShapeDtypeStruct((4, length), "int32") for length in (24, 40))
    compiled = jax.jit(lambda p, s, t: nnx.merge(graph, p)(s, t)).lower(params, source, target).compile()
    # The compiler also counts norms, softmax and residuals: a few percent in such a small model.
    assert 4 * forward_flops(config, 24, 40) == pytest.approx(compiled.cost_analysis()["flops"], rel=0.06)


def test_a_step_has_the_flops_of_all_its_rows_and_passes():
    experiment = Experiment("base", model=BASE)
    once = step_flops(experiment, 4, 30, 20)
    assert once == 4 * train_flops(BASE, 30, 20)
    assert step_flops(replace(experiment, train=TrainConfig(loss="r_drop")), 4, 30, 20) == 2 * once


def test_the_products_of_an_update_with_muon_are_counted_as_the_compiler_does():
    model = ModelConfig(num_layers=1, d_model=128, d_ff=256, num_heads=4, d_k=32, d_v=64)
    experiment = Experiment("small", model=model)
    orthogonal = replace(experiment, optimizer=OptimizerConfig(name="muon"))
    counted = step_flops(orthogonal, 4, 30, 20) - step_flops(experiment, 4, 30, 20)
    optimizer = make_optimizer(orthogonal)
    params = nnx.to_pure_dict(nnx.state(abstract_model(orthogonal.model), nnx.Param))
    update = jax.jit(optimizer.update).lower(params, jax.eval_shape(optimizer.init, params), params)
    assert counted == pytest.approx(update.compile().cost_analysis()["flops"], rel=0.06)
