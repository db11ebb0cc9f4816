"""Mixed-precision matrix multiplication (matmul): bfloat16 or float32 inputs, accumulated in float32."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


def einsum(equation: str, a: Array, b: Array) -> Array:
    """`jnp.einsum` of two arrays of the same dtype, accumulated and returned in float32.

    The gradient of a bfloat16 matmul is computed as a bfloat16 matmul too. By default JAX would multiply float32
    gradients by bfloat16 inputs, which runs at half speed or less on the matrix units of a GPU.
    """
    return jnp.einsum(equation, a, b) if a.dtype == jnp.float32 else _einsum(equation, a, b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _forward(equation: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _einsum(equation, a, b), (a, b)


def _backward(equation: str, inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    _, vjp = jax.vjp(partial(jnp.einsum, equation), *inputs)
    return vjp(gradient.astype(inputs[0].dtype))


_einsum.defvjp(_forward, _backward)
