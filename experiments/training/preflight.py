"""Before a run: parts of the user's own are tried at a small size, so that what cannot work is said at once."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.inspection.invariants import measure_invariants
from experiments.registry import custom_parts, told
from transformer.config import Experiment, ModelConfig, UserError
from transformer.decode import greedy_search
from transformer.model import Transformer
from transformer.optimizer import learning_rate, make_optimizer
from transformer.train import graph_of, init_params, init_state, make_train_step

TOLERANCE = 1e-3
"""Of the laws, in float32."""


def preflight(experiment: Experiment, log: Callable[[str], None] = print) -> None:
    """Nothing where all parts are of this code. UserError names the parts that cannot be used, and why."""
    own = custom_parts(experiment)
    own.pop("data.corpus", None)  # preparing the text tries that
    if not own:
        return
    log(f"preflight checks of {', '.join(own)}: some seconds")
    small = replace(experiment.model, num_layers=1, vocab_size=64, dtype="float32")
    text = replace(experiment.data, vocab_size=small.vocab_size)
    tried = replace(experiment, model=small, data=text, train=replace(experiment.train, accumulate=1))
    try:
        if "optimizer.schedule" in own:
            try_rates(experiment)
        if any(setting.startswith("model.") for setting in own):
            try_model(small, graph_of(small))
        if "optimizer.name" in own:
            try_optimizer(tried)
        try_step(tried)
    except Exception as error:
        names = " and ".join(f"{setting} = {part['name']!r}" for setting, part in own.items())
        files = [part.get("file", "") for part in own.values()]
        why = str(error) if isinstance(error, UserError) else told(error, files)
        raise UserError(f"{names} cannot be used: {why}") from error


def try_rates(experiment: Experiment) -> None:
    """The schedule, of a number that is not known yet, and at three steps."""
    rate: Any = jax.eval_shape(lambda step: learning_rate(step, experiment), jax.ShapeDtypeStruct((), jnp.int32))
    if getattr(rate, "shape", None) != ():
        raise UserError("a learning rate is one number")
    for step in (1, experiment.optimizer.warmup_steps, experiment.train.steps):
        value = float(learning_rate(step, experiment))
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"the learning rate of step {step:,} is {value:.3g}")


@cache
def try_model(config: ModelConfig, graph: nnx.GraphDef[Transformer]) -> None:
    """The laws. In a notebook a name may get another meaning: `graph` is what it means now."""
    beside = nnx.to_flat_state(nnx.state(Transformer(config, rngs=nnx.Rngs(0)), nnx.Not(nnx.Param)))
    if paths := [".".join(map(str, path)) for path, _ in beside]:
        raise UserError(f"the model keeps {paths[0]}, which is no nnx.Param: a checkpoint would not have it")
    found = measure_invariants(config)
    said = {
        "a later token of the target changes what the model says before it": found.causal,
        "padding behind a source changes what the model says": found.padding,
        "decoding with a cache gives other logits than training": found.cached,
    }
    for what, error in said.items():
        if not error < TOLERANCE:
            raise UserError(f"{what} (by {error:.2g}): the laws in experiments/inspection/invariants.py")


def try_optimizer(experiment: Experiment) -> None:
    """Its direction for gradients that are all positive, and what it keeps."""
    optimizer = make_optimizer(experiment)

    def direction(params: Any) -> Any:
        grads = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    kept = jax.eval_shape(lambda: optimizer.init(init_params(experiment.model, 0)))
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(kept)):
        raise UserError("its state has a random key, which no checkpoint holds: keep jax.random.key_data of it")
    uphill = jax.jit(lambda: sum(jnp.sum(d) for d in jax.tree.leaves(direction(init_params(experiment.model, 0)))))
    if not float(uphill()) > 0:
        raise UserError("it goes uphill: its update is subtracted, times the rate: no minus sign, no rate in it")


def try_step(experiment: Experiment) -> None:
    """A step of training and a greedy search, as the compiler will see them."""
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    state = jax.eval_shape(lambda: init_state(experiment))
    jax.eval_shape(make_train_step(experiment), state, {"source": ids, "target": ids}, jax.random.key(0))
    graph, decode = graph_of(experiment.model), experiment.decode

    def search(params: Any, source: Any) -> Any:
        return greedy_search(nnx.merge(graph, params), source, alpha=decode.alpha, extra_length=decode.extra_length)

    jax.eval_shape(search, state.params, ids)
