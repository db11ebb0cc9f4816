import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from transformer.config import DataConfig, Experiment, ModelConfig
from transformer.matmul import einsum
from transformer.train import init_state, make_train_step


@pytest.fixture
def factors():
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 4, 5), (6, 5)])]


def test_the_gradient_is_autodiffs(factors):
    def loss(multiply):
        return jax.grad(lambda a, b: jnp.sin(multiply(a, b)).sum(), (0, 1))

    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 2e-2)):
        a, b = (x.astype(dtype) for x in factors)
        assert einsum("BTD,VD->BTV", a, b).dtype == jnp.float32
        found = loss(lambda a, b: einsum("BTD,VD->BTV", a, b))(a, b)
        expected = loss(lambda a, b: jnp.einsum("BTD,VD->BTV", a, b))(*factors)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == dtype
            np.testing.assert_allclose(one.astype(jnp.float32), other, atol=tolerance * float(abs(other).max()))


def dots(jaxpr: core.Jaxpr):
    """Yields all matmuls of a program, including those of its inner programs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from dots(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_multiplies_in_one_type_only(dtype):
    """Forward and backward: with a float32 factor, a GPU would not use its fast matmul."""
    model = ModelConfig(vocab_size=13, num_layers=2, d_model=8, d_ff=16, num_heads=2, d_k=4, d_v=4, dtype=dtype)
    experiment = Experiment("products", model=model, data=DataConfig(vocab_size=13))
    batch = {"source": jnp.full((2, 6), 5), "target": jnp.full((2, 6), 5)}
    state = jax.eval_shape(lambda: init_state(experiment))
    program = jax.make_jaxpr(make_train_step(experiment))(state, batch, jax.random.key(0))
    found = list(dots(program.jaxpr))
    assert len(found) > 3 * 2 * (4 + 2 + 4 + 4 + 2)  # three for each matmul of a layer, and those of attention
    assert {factor.aval.dtype for dot in found for factor in dot.invars} == {jnp.dtype(dtype)}
