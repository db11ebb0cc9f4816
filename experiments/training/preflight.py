"""Preflight checks: before a run, custom components are tried at a small size, so that errors are reported at once."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.inspection.invariants import measure_invariants
from experiments.registry import custom_parts, describe_error
from experiments.task import TASKS, Task, task_of
from transformer.config import DataConfig, Experiment, ModelConfig, UserError
from transformer.decode import greedy_search
from transformer.model import Transformer, make_model
from transformer.optimizer import learning_rate, make_optimizer
from transformer.train import LOSSES, graph_of, init_params, init_state, make_train_step

TOLERANCE = 1e-3
"""The largest error allowed for an invariant, in float32."""


def preflight(experiment: Experiment, log: Callable[[str], None] = print) -> None:
    """Checks the custom components of an experiment. Does nothing if all its components are built in.

    UserError names the components that cannot be used, and the reason.
    """
    try_task(experiment.data)
    own = custom_parts(experiment)
    for setting in ("data.corpus", "data.task"):  # preparing the corpus checks the one, `try_task` the other
        own.pop(setting, None)
    if not own:
        return
    log(f"preflight checks of {', '.join(own)}: this takes some seconds")
    sizes: dict[str, Any] = {"vocab_size": 64, "source_vocab_size": None}
    decoder = None if experiment.model.decoder_depth else 0
    small = replace(experiment.model, num_layers=1, decoder_layers=decoder, shared_layers=1, dtype="float32", **sizes)
    text = replace(experiment.data, **sizes)
    tried = replace(experiment, model=small, data=text, train=replace(experiment.train, accumulate=1))
    try:
        if "optimizer.schedule" in own:
            try_rates(experiment)
        if any(setting.startswith("model.") for setting in own):
            try_model(small, graph_of(small))
        for setting, rate in (("model.attention", "attention_dropout"), ("model.feed_forward", "activation_dropout")):
            if setting in own and getattr(experiment.model, rate):
                try_dropout(small, rate)
        if "optimizer.name" in own:
            try_optimizer(tried)
        if "train.loss" in own:
            try_loss(tried)
        try_step(tried)
    except Exception as error:
        names = " and ".join(f"{setting} = {part['name']!r}" for setting, part in own.items())
        files = [part.get("file", "") for part in own.values()]
        why = str(error) if isinstance(error, UserError) else describe_error(error, files)
        raise UserError(f"{names} cannot be used: {why}") from error


def try_task(config: DataConfig) -> None:
    """Checks that the task is known, and has what the loop asks of it at its first validation."""
    task, what = task_of(config), f"data.task {config.task!r}"
    if isinstance(task, type):
        raise UserError(f"{what} is a class: register an instance of it in TASKS")
    if missing := [member for member in ("metric", *vars(Task)) if member[0] != "_" and not hasattr(task, member)]:
        raise UserError(f"{what} has no `{missing[0]}`: make it a subclass of experiments.task.Task")
    if config.task not in TASKS.built_in and task.metric not in (there := task.metrics(None) or {}):
        raise UserError(
            f"{what} has the score {task.metric!r}, which is not in its metrics ({', '.join(there) or None})"
        )


def try_rates(experiment: Experiment) -> None:
    """Checks the schedule: with a traced step number, and at three steps."""
    rate: Any = jax.eval_shape(lambda step: learning_rate(step, experiment), jax.ShapeDtypeStruct((), jnp.int32))
    if getattr(rate, "shape", None) != ():
        raise UserError("the schedule must return a single number")
    for step in (1, experiment.optimizer.warmup_steps, experiment.train.steps):
        value = float(learning_rate(step, experiment))
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"the learning rate of step {step:,} is {value:.3g}: it must be finite and not negative")


@cache
def try_model(config: ModelConfig, graph: nnx.GraphDef[Transformer]) -> None:
    """Checks that the model satisfies the invariants.

    Args:
        graph: only a key of the cache: in a notebook, the component that a name refers to may change.
    """
    state = nnx.to_flat_state(nnx.state(make_model(config, rngs=nnx.Rngs(0)), nnx.Not(nnx.Param)))
    if paths := [".".join(map(str, path)) for path, _ in state]:
        raise UserError(f"the model has state {paths[0]} that is not an nnx.Param: a checkpoint would not contain it")
    found = measure_invariants(config)
    violations = {
        "a later token of the target changes earlier logits": found.causal,
        "padding after a source changes the logits": found.padding,
        "decoding with a cache gives different logits than training": found.cached,
    }
    for what, error in violations.items():
        if not error < TOLERANCE:
            raise UserError(f"{what} (by {error:.2g}): see the invariants in experiments/inspection/invariants.py")


def try_dropout(config: ModelConfig, rate: str) -> None:
    """Checks that a custom component applies the dropout inside of it."""
    none: dict[str, Any] = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    model = make_model(replace(config, **(none | {rate: 0.5})), rngs=nnx.Rngs(0))
    ids, run = jnp.array([[5, 6, 7, 8, 2]]), jax.jit(model.outputs)
    if (run(ids, ids, jax.random.key(0)) == run(ids, ids, jax.random.key(1))).all():
        where = "context.dropout" if rate == "attention_dropout" else "the argument `key`"
        raise UserError(f"model.{rate} is {getattr(config, rate):g}, but it is not applied: {where} is ignored")


def try_optimizer(experiment: Experiment) -> None:
    """Checks the optimizer's state, and the direction of its update for gradients that are all positive."""
    optimizer = make_optimizer(experiment)

    def direction(params: Any) -> Any:
        grads = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    kept = jax.eval_shape(lambda: optimizer.init(init_params(experiment.model, 0)))
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(kept)):
        raise UserError(
            "its state contains a random key, which a checkpoint cannot hold: store jax.random.key_data of it instead"
        )
    uphill = jax.jit(lambda: sum(jnp.sum(d) for d in jax.tree.leaves(direction(init_params(experiment.model, 0)))))
    if not float(uphill()) > 0:
        raise UserError(
            "it goes uphill: the training step subtracts its update times the learning rate, so the update must "
            "contain neither a minus sign nor the rate"
        )


def try_loss(experiment: Experiment) -> None:
    """Checks that the loss is a sum over target tokens: that of two sentences and of padding is that of each."""
    model, loss = make_model(experiment.model, rngs=nnx.Rngs(0)), LOSSES.find(experiment.train.loss)
    source, target = jnp.array([[5, 6, 2, 0], [7, 8, 9, 2]]), jnp.array([[9, 8, 7, 2], [6, 2, 0, 0]])

    @jax.jit
    def measure(source: Any, target: Any) -> Any:
        return loss(model, {"source": source, "target": target}, None, experiment)

    found = jax.eval_shape(measure, source, target)
    if not (isinstance(found, tuple) and [getattr(each, "shape", None) for each in found] == [(), ()]):
        raise UserError("the loss must return two numbers, the sum over the target tokens and their count")
    whole = measure(source, target)
    parts = [measure(source[i : i + 1], target[i : i + 1]) for i in range(2)] + [measure(0 * source, 0 * target)]
    for name, at_once, added in zip(("sum", "count"), whole, map(sum, zip(*parts, strict=True)), strict=True):
        if not abs(at_once - added) <= TOLERANCE * max(1, abs(at_once)):
            raise UserError(
                f"the {name} of a batch is {at_once:.4g}, but those of its sentences add up to {added:.4g}: return "
                f"sums over the target tokens, without padding, not means"
            )


def try_step(experiment: Experiment) -> None:
    """Traces a training step and, with a decoder, a greedy search, without running them."""
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    state = jax.eval_shape(lambda: init_state(experiment))
    jax.eval_shape(make_train_step(experiment), state, {"source": ids, "target": ids}, jax.random.key(0))
    if not experiment.model.decoder_depth:
        return
    graph, decode = graph_of(experiment.model), experiment.decode

    def search(params: Any, source: Any) -> Any:
        return greedy_search(nnx.merge(graph, params), source, alpha=decode.alpha, extra_length=decode.extra_length)

    jax.eval_shape(search, state.params, ids)
