import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transformer.loss
from transformer.loss import cross_entropy, least_loss, tied_cross_entropy
from transformer.matmul import einsum


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.2])
def test_against_the_smoothed_distribution_written_out(smoothing):
    V, targets = 11, np.array([[3, 1, 0], [10, 0, 0]])
    logits = jax.random.normal(jax.random.key(0), (2, 3, V)) * 3
    q = np.full((2, 3, V), smoothing / (V - 1))
    np.put_along_axis(q, targets[..., None], 1 - smoothing, axis=-1)
    expected = -(q * np.array(jax.nn.log_softmax(logits))).sum(-1)[targets != 0].sum()
    loss, count = cross_entropy(logits, jnp.array(targets), smoothing)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert count == 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_least_loss_is_that_of_the_smoothed_target_itself(smoothing):
    V = 11
    logits = jnp.log(jnp.full((1, V), max(smoothing, 1e-30) / (V - 1)).at[0, 3].set(1 - smoothing))
    best, _ = cross_entropy(logits, jnp.array([3]), smoothing)
    np.testing.assert_allclose(least_loss(smoothing, V), best, rtol=1e-6, atol=1e-6)
    worse, _ = cross_entropy(logits + 0.1 * jax.random.normal(jax.random.key(0), (1, V)), jnp.array([3]), smoothing)
    assert worse > best or not smoothing


def test_padding_counts_for_nothing_in_loss_and_gradient():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 7))
    targets = jnp.array([[3, 4, 0, 0]])
    gradient = jax.grad(lambda x: cross_entropy(x, targets, 0.1)[0])(logits)
    assert jnp.all(gradient[:, 2:] == 0) and jnp.all(jnp.any(gradient[:, :2] != 0, axis=-1))


def test_sums_add_up_over_parts():
    logits = jax.random.normal(jax.random.key(0), (4, 5, 7))
    targets = jax.random.randint(jax.random.key(1), (4, 5), 0, 7)
    whole = cross_entropy(logits, targets, 0.1)
    parts = [cross_entropy(logits[i : i + 2], targets[i : i + 2], 0.1) for i in (0, 2)]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)


def test_smoothing_is_least_at_the_smoothed_distribution():
    # The optimal logits are log q and therefore finite, which is the purpose of label smoothing (5.4).
    V, eps = 7, 0.1
    targets = jnp.array([3])
    q = jnp.full(V, eps / (V - 1)).at[3].set(1 - eps)
    gradient = jax.grad(lambda x: cross_entropy(x[None], targets, eps)[0])(jnp.log(q))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@pytest.mark.parametrize("tokens", [4, 10, 12, 1000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
def test_in_chunks_it_is_the_loss_of_all_logits(monkeypatch, tokens, dtype, biased):
    """Values and gradients are equal for any chunk size: one position, several, or all."""
    monkeypatch.setattr(transformer.loss, "_TOKENS_ON_CPU", tokens)
    monkeypatch.setattr(transformer.loss, "_TOKENS", tokens)
    B, T, D, V = 2, 6, 8, 11
    x = jax.random.normal(jax.random.key(0), (B, T, D)).astype(dtype)
    table = jax.random.normal(jax.random.key(1), (V, D))
    targets = jax.random.randint(jax.random.key(2), (B, T), 0, V)

    bias = (jax.random.normal(jax.random.key(3), (V,)),) if biased else ()

    def plain(x, table, bias=0.0):
        loss, count = cross_entropy(einsum("BTD,VD->BTV", x, table.astype(x.dtype)) + bias, targets, 0.1)
        return loss / count

    def chunked(x, table, bias=None):
        loss, count = tied_cross_entropy(x, table, targets, 0.1, bias=bias)
        return loss / count

    tolerance = 1e-6 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(chunked(x, table, *bias), plain(x, table, *bias), rtol=tolerance)
    found, expected = (jax.grad(f, tuple(range(2 + biased)))(x, table, *bias) for f in (chunked, plain))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            one.astype(jnp.float32), other.astype(jnp.float32), atol=tolerance * float(abs(other).max())
        )


@pytest.mark.parametrize("bias", [None, jax.random.normal(jax.random.key(2), (1000,))], ids=["", "bias"])
@pytest.mark.parametrize("size", [12, 20, 40, 90])
def test_no_confident_token_has_a_negative_loss_in_bfloat16(size, bias):
    """All logits are rounded, including the target's, so log Z is never below it."""
    table = jax.random.normal(jax.random.key(0), (1000, 64))
    targets = jax.random.randint(jax.random.key(1), (4, 32), 1, 1000)
    x = (size * table[targets] / jnp.square(table[targets]).sum(-1, keepdims=True)).astype(jnp.bfloat16)
    for row in range(4):
        loss, count = tied_cross_entropy(x[row : row + 1], table, targets[row : row + 1], bias=bias)
        assert loss >= 0 and loss / count < 2
