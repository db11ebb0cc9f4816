"""Section 5: one training step, a pure function of (state, batch, key)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from transformer.config import Experiment, ModelConfig
from transformer.flops import train_flops
from transformer.initializers import rngs_of
from transformer.loss import tied_cross_entropy
from transformer.mesh import platform
from transformer.model import Transformer, make_model
from transformer.optimizer import OPTIMIZERS, learning_rate, make_optimizer
from transformer.parameters import Params
from transformer.registry import Registry
from transformer.variants.finetuning import add_lora, has_frozen, merge_lora, trained

Batch = dict[str, Array]
"""`source` [B, S] and `target` [B, T] ids, padded with 0."""


class TrainState(NamedTuple):
    """Everything that changes from step to step."""

    step: Array
    """Number of batches seen, skipped steps included. It alone determines the next batch, dropout and learning rate."""
    params: Params
    opt_state: optax.OptState
    bad_steps: Array
    """Number of consecutive non-finite steps up to now."""
    ema: Params = {}  # noqa: RUF012 - read only
    """Exponential moving average of the parameters, if train.ema is not 0."""


class Metrics(NamedTuple):
    """Sums and counts of a step (scalars), which can be added over steps."""

    loss: Array
    """Label-smoothed cross-entropy, summed over target tokens, in nats."""
    tokens: Array
    """Number of target tokens, excluding padding."""
    skipped: Array
    """1.0 if the loss, the gradient or the new parameters were not finite, so that the step was skipped."""

    def __add__(self, other: "Metrics") -> "Metrics":  # type: ignore[override]
        return Metrics(*(a + b for a, b in zip(self, other, strict=True)))


def abstract_model(config: ModelConfig) -> Transformer:
    """The model with shapes and dtypes in place of parameters (`nnx.eval_shape`): nothing is computed."""
    return nnx.eval_shape(lambda: make_model(config, rngs=rngs_of(0)))


def graph_of(config: ModelConfig) -> nnx.GraphDef[Transformer]:
    """The model without its parameters: `nnx.merge(graph_of(config), params)` returns a Transformer."""
    return nnx.split(abstract_model(config))[0]


def init_params(config: ModelConfig, seed: int) -> Params:
    """Initializes the parameters from a seed."""
    return nnx.to_pure_dict(nnx.state(make_model(config, rngs=rngs_of(seed)), nnx.Param))


def init_state(experiment: Experiment) -> TrainState:
    """The state before the first step."""
    params = init_params(experiment.model, experiment.train.seed)
    params = add_lora(params, experiment.lora, jax.random.fold_in(jax.random.key(experiment.train.seed), LORA_KEY))
    opt_state = make_optimizer(experiment).init(params)
    ema = jax.tree.map(jnp.copy, params) if experiment.train.ema else {}
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jnp.zeros((), jnp.int32), ema)


def batch_loss(
    model: Transformer, batch: Batch, key: Array | None = None, smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Section 5.4: (sum, count) of the cross-entropy of a batch's targets, with teacher forcing."""
    x = model.outputs(batch["source"], batch["target"], key)
    kernels, target = model.config.kernels, model.predicted(batch["target"])
    return tied_cross_entropy(x, model.output_table, target, smoothing, kernels, model.logits_bias)


def label_smoothed(model: Transformer, batch: Batch, key: Array | None, experiment: Experiment) -> tuple[Array, Array]:
    """The paper's training loss: `batch_loss` with train.label_smoothing."""
    return batch_loss(model, batch, key, experiment.train.label_smoothing)


Loss = Callable[[Transformer, Batch, Array | None, Experiment], tuple[Array, Array]]

LOSSES: Registry[Loss] = Registry("train.loss", {"cross_entropy": label_smoothed})
"""Training losses by name: functions (model, batch, dropout key, experiment) -> (sum, count) over the target tokens of
a batch, float32 scalars. Padding adds nothing to either: sums of micro-batches and devices are added. A loss that
applies the model N times to each batch says so by an attribute `passes` = N, for the count of FLOPs."""


def step_flops(experiment: Experiment, rows: int, source: int, target: int) -> int:
    """FLOPs of a training step on a batch of this shape as they are computed, including padding."""
    passes = getattr(LOSSES.find(experiment.train.loss), "passes", 1)
    flops = passes * rows * train_flops(experiment.model, source, target)
    if of_update := update_flops(experiment):
        flops += of_update(nnx.to_pure_dict(nnx.state(abstract_model(experiment.model), nnx.Param)))
    return flops


def update_flops(experiment: Experiment) -> Callable[[Params], int] | None:
    """The function that counts the matrix products of an optimizer's update; None if it has no such products."""
    return getattr(OPTIMIZERS.find(experiment.optimizer.name), "flops", None)


DROPOUT = 0x64726F70  # "drop"
LORA_KEY = 0x6C6F7261  # "lora"


def dropout_key(key: Array, step: ArrayLike) -> Array:
    """Dropout key of the step with index `step`, derived from the key of the run, `jax.random.key(train.seed)`.

    Flax derives parameter n from fold_in(key, n) with the same seed. Folding in DROPOUT first keeps dropout independent
    of the initial parameters.
    """
    return jax.random.fold_in(jax.random.fold_in(key, DROPOUT), step)


TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]


def make_train_step(experiment: Experiment, add_up: Callable[[Any], Any] = lambda sums: sums) -> TrainStep:
    """Returns the function `train_step(state, batch, key) -> (state, metrics)`, to be jitted with donate_argnums=0.

    Gradient accumulation: with train.accumulate = A, the batch is processed in A micro-batches of B/A rows. Row r is in
    micro-batch r % A, so that devices which share the rows also share each micro-batch. Gradients are summed over
    tokens and divided once by the token count of the whole batch, so the result equals that of the unsplit batch
    whatever the sentence lengths.

    Args:
        add_up: sums the (loss, tokens, gradients) of the rows on this device over all devices (an all-reduce). The
            identity if the step sees the whole batch.
    """
    graph, optimizer = graph_of(experiment.model), make_optimizer(experiment)
    loss_of, parts = LOSSES.find(experiment.train.loss), experiment.train.accumulate

    def loss_sum(params: Params, batch: Batch, key: Array) -> tuple[Array, Array]:
        if has_frozen(experiment):  # so that the gradient of a frozen parameter is a constant and not computed
            params = jax.tree.map(
                lambda p, is_trained: p if is_trained else jax.lax.stop_gradient(p), params, trained(experiment, params)
            )
        return loss_of(nnx.merge(graph, merge_lora(params, experiment.lora)), batch, key, experiment)

    gradient = jax.value_and_grad(loss_sum, has_aux=True)

    def gradient_sum(params: Params, batch: Batch, key: Array) -> tuple[Array, Array, Params]:
        if parts == 1:
            (loss, tokens), grads = gradient(params, batch, key)
            return loss, tokens, grads

        def add_part(total, part):
            (loss, tokens), grads = gradient(params, *part)
            return jax.tree.map(jnp.add, total, (loss, tokens, grads)), None

        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        zero = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add_part, zero, (split, jax.random.split(key, parts)))[0]

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        loss, tokens, grads = add_up(gradient_sum(state.params, batch, dropout_key(key, state.step)))
        rate = learning_rate(state.step + 1, experiment)

        def update(grads: Params, params: Params, opt_state: optax.OptState) -> tuple[Params, optax.OptState]:
            grads = jax.tree.map(lambda g: g / jnp.maximum(tokens, 1), grads)
            direction, opt_state = optimizer.update(grads, opt_state, params)
            return jax.tree.map(lambda p, d: p - rate * d, params, direction), opt_state

        # A NaN or infinity anywhere makes a sum of squares non-finite, and the whole step is discarded. On a GPU the
        # update is computed once to see this and again to write it: reading its inputs twice beats storing it,
        # unless it multiplies matrices.
        twice = platform() == "gpu" and update_flops(experiment) is None
        once_more = jax.lax.optimization_barrier if twice else lambda opt_state: opt_state
        tried, _ = update(grads, state.params, once_more(state.opt_state))
        # Reduced from an array: XLA would repeat a chain of additions in each of the kernels that write a parameter,
        # and compile it as often, which takes longer than everything else on a CPU.
        finite = jnp.isfinite(jnp.stack([loss, sum_of_squares(grads, tried)])).all()
        params, opt_state = update(grads, state.params, state.opt_state)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        ema = moving_average(state.ema, params, state.step, experiment.train.ema) if state.ema else {}
        state = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            bad_steps=jnp.where(finite, 0, state.bad_steps + 1),
            ema=keep(ema, state.ema),
        )
        zero = jnp.zeros(())
        metrics = Metrics(jnp.where(finite, loss, zero), jnp.where(finite, tokens, zero), jnp.where(finite, zero, 1.0))
        return state, metrics

    return train_step


def sum_of_squares(grads: Params, params: Params) -> Array:
    """Sum of the squares of all gradients and parameters, a scalar.

    Arrays of the same name and shape, which the layers have one each of, are added to one array before its elements
    are summed: on a GPU, this takes a kernel or two for all layers. On many devices these arrays are sharded alike.
    """
    layers: dict[Any, Array] = {}
    for (path, g), p in zip(jax.tree.leaves_with_path(grads), jax.tree.leaves(params), strict=True):
        name = path[-2:], g.shape
        layers[name] = layers.get(name, 0.0) + (g * g + p * p)
    return sum(map(jnp.sum, layers.values()), jnp.zeros(()))


def moving_average(ema: Params, params: Params, step: Array, decay: float) -> Params:
    """decay * ema + (1 - decay) * params. In early steps t the decay is at most (1 + t) / (10 + t), so that the random
    initial parameters are soon forgotten."""
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)


def make_eval_step(experiment: Experiment) -> Callable[[Params, Batch], tuple[Array, Array]]:
    """Returns `eval_step(params, batch) -> (sum, count)` of the cross-entropy, without label smoothing or dropout."""
    graph = graph_of(experiment.model)

    def eval_step(params: Params, batch: Batch) -> tuple[Array, Array]:
        return batch_loss(nnx.merge(graph, merge_lora(params, experiment.lora)), batch)

    return eval_step


def make_eval_steps(experiment: Experiment) -> Callable[[Params, Batch], tuple[Array, Array]]:
    """Returns `eval_steps(params, batches) -> (sums, counts)`, each [n], of n batches stacked on a leading axis."""
    eval_step = make_eval_step(experiment)

    def eval_steps(params: Params, batches: Batch) -> tuple[Array, Array]:
        return jax.lax.map(lambda batch: eval_step(params, batch), batches)

    return eval_steps
