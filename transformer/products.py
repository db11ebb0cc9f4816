"""Products of matrices whose results are float32, whatever type their factors have."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


def product(equation: str, a: Array, b: Array) -> Array:
    """einsum of two arrays of one type, summed and given in float32.

    The gradient of a bfloat16 product is a bfloat16 product too. Left to itself JAX would multiply float32 gradients
    with bfloat16 factors, and the matrix units of a GPU do that at half their speed or less.
    """
    return jnp.einsum(equation, a, b) if a.dtype == jnp.float32 else _product(equation, a, b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _forward(equation: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(equation, a, b), (a, b)


def _backward(equation: str, factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    _, pull_back = jax.vjp(partial(jnp.einsum, equation), *factors)
    return pull_back(gradient.astype(factors[0].dtype))


_product.defvjp(_forward, _backward)
