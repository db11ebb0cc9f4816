"""Each GPU kernel, interpreted on the CPU, against the plain operations that it stands for: values and gradients."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.transformer.kernels_on_cpu import kernels_on_cpu
from transformer.attention import scaled_dot_product_attention
from transformer.config import PAD, ModelConfig
from transformer.dropout import dropout
from transformer.kernels.blocks import for_gpu
from transformer.kernels.cross_entropy import cross_entropy_and_gradient
from transformer.kernels.flash_attention import flash_attention, flash_attention_runs
from transformer.kernels.residual import add_and_norm
from transformer.layers import LayerNorm, relu
from transformer.loss import cross_entropy
from transformer.mesh import tracing_for
from transformer.train import batch_loss, graph_of, init_params

KEYS = jax.random.split(jax.random.key(0), 8)


def normal(index: int, *shape: int) -> jax.Array:
    return jax.random.normal(KEYS[index], shape)


def assert_same(function, plain, arguments, gradient):
    """Values, and gradients with respect to all arguments."""
    with kernels_on_cpu():
        output, pull_back = jax.vjp(jax.jit(function), *arguments)
        found = output, *pull_back(gradient)
    expected_output, pull_back = jax.vjp(jax.jit(plain), *arguments)
    for one, other in zip(found, (expected_output, *pull_back(gradient)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(
    "T, S, K, H, masks",
    [(20, 20, 16, 16, (1, 1)), (16, 70, 8, 24, (2, 3)), (130, 33, 32, 16, (2, 1))],
    ids=["less than a block, one mask", "more keys, a mask for each head", "several blocks, a mask for each row"],
)
def test_flash_attention_is_equation_1(T, S, K, H, masks):
    B, N = 2, 3
    mask = jax.random.bernoulli(KEYS[3], 0.3, (*masks, T, S)).at[:, :, T // 2].set(False)  # a query that sees nothing
    arguments = normal(0, B, N, T, K), normal(1, B, N, K, S), normal(2, B, N, S, H)
    assert_same(
        lambda q, k, v: flash_attention(q, k, v, mask),
        lambda q, k, v: scaled_dot_product_attention(q, k, v, mask)[0],
        arguments,
        normal(4, B, N, T, H),
    )


@pytest.mark.parametrize("shape, rate", [((2, 4, 16), 0.0), ((3, 7, 48), 0.1)], ids=["whole blocks", "parts, dropout"])
def test_add_and_norm_is_the_residual_connection(rate, shape):
    D = shape[-1]
    graph = nnx.graphdef(LayerNorm(ModelConfig(d_model=D), rngs=nnx.Rngs(0)))

    def plain(x, update, scale, bias):
        norm = nnx.merge(graph, {"scale": scale, "bias": bias})
        return norm(x + dropout(update, rate, KEYS[5]))

    arguments = normal(0, *shape), normal(1, *shape), normal(2, D), normal(3, D)
    assert_same(lambda *args: add_and_norm(*args, 1e-6, rate, KEYS[5]), plain, arguments, normal(4, *shape))


@pytest.mark.parametrize("V, smoothing", [(100, 0.0), (2048, 0.1), (5000, 0.1)])
def test_cross_entropy_kernel_is_the_loss_and_its_gradient(V, smoothing):
    logits = 5 * normal(0, 2, 3, 2, V)
    targets = jax.random.randint(KEYS[1], (2, 3, 2), 1, V).at[0, 0].set(PAD)
    with kernels_on_cpu():
        losses, gradient = jax.jit(cross_entropy_and_gradient, static_argnums=2)(logits, targets, smoothing)
    loss, expected = jax.value_and_grad(lambda logits: cross_entropy(logits, targets, smoothing)[0])(logits)
    np.testing.assert_allclose(losses.sum(), loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert jnp.all(losses[0, 0] == 0) and jnp.all(gradient[0, 0] == 0)


CONFIG = ModelConfig(vocab_size=50, num_layers=1, d_model=32, d_ff=48, num_heads=2, d_k=16, d_v=16)


def losses(config: ModelConfig) -> tuple:
    """Loss and gradients of a batch of packed sentences, with dropout."""
    ids = jax.random.randint(KEYS[0], (2, 2, 24), 2, 50).at[:, :, -3:].set(PAD)  # 2 ends a sentence
    batch = {"source": ids[0], "target": ids[1]}
    graph, params = graph_of(config), init_params(config, 0)
    if config.output_bias:
        params["output_bias"] = jax.random.normal(KEYS[2], params["output_bias"].shape)
    return jax.jit(jax.value_and_grad(lambda params: batch_loss(nnx.merge(graph, params), batch, KEYS[1], 0.1)[0]))(
        params
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"output_bias": True, "attention_dropout": 0.2, "activation_dropout": 0.1},
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_model_with_kernels_is_the_same_model(changes):
    """With dropout of the attention weights, which the kernel does not have, attention is the plain one."""
    config = replace(CONFIG, **changes)
    loss, gradients = losses(config)
    with kernels_on_cpu():
        found, found_gradients = losses(config)
        assert "pallas" in str(jax.make_jaxpr(lambda: losses(config))())
        assert "pallas" not in str(jax.make_jaxpr(lambda: losses(replace(config, kernels=False)))())
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4), found_gradients, gradients)


@pytest.mark.parametrize(
    "capability, runs", [("7.5", False), ("8.0", True), ("9.0", True), ("10.0", True), ("gfx90a", False)]
)
def test_older_gpus_run_the_plain_operations(monkeypatch, capability, runs):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setattr("jax.devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert for_gpu(jnp.zeros(2, jnp.bfloat16)) is runs


def test_flash_attention_leaves_masks_beyond_32_bits_alone():
    def runs(B, T):
        q = jax.ShapeDtypeStruct((B, 1, T, 64), jnp.bfloat16)
        k = jax.ShapeDtypeStruct((B, 1, 64, T), jnp.bfloat16)
        mask = jax.ShapeDtypeStruct((B, 1, 1, T), bool)
        return flash_attention_runs(q, k, q, mask, None)

    with tracing_for("gpu"):
        assert runs(8, 8192) and not runs(64, 7000) and not runs(8, 8)


def test_relu_can_be_differentiated_in_both_modes():
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(jax.jacfwd(relu)(x), jax.jacrev(relu)(x))
    np.testing.assert_array_equal(jax.jvp(relu, (x,), (x,))[1], [0, 0, 3])


def test_kernels_are_for_bfloat16_on_a_gpu():
    x = jnp.zeros((2, 3), jnp.bfloat16)
    assert not for_gpu(x)
    with tracing_for("gpu"):
        assert for_gpu(x, x) and not for_gpu(x, x.astype(jnp.float32))
