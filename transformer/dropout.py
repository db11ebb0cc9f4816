"""Section 5.4: dropout, from a hash of each entry's index instead of a stored array of random numbers."""

import jax
import jax.numpy as jnp
from jax import Array

from transformer.mesh import first_row


def split_key(key: Array | None, count: int) -> list[Array | None]:
    """Splits a dropout key into `count` keys. None (no dropout) gives a list of None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def inner_key(key: Array | None, rate: float) -> Array | None:
    """Key of dropout inside of a sub-layer, from that of the dropout on its output. None where there is no dropout."""
    return None if key is None or rate == 0.0 else jax.random.fold_in(key, 1)


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Section 5.4: zeroes each entry with probability `rate`, and scales up the rest. Without a key, returns x."""
    if key is None or rate == 0.0:
        return x
    threshold, kept = threshold_of(rate)
    return jnp.where(random_bits(key, x.shape) >= jnp.uint32(threshold), x / kept, 0).astype(x.dtype)


def threshold_of(rate: float) -> tuple[int, float]:
    """The uint32 below which random bits drop an entry, and the probability to keep one.

    The probability is that of the rounded threshold, so that dropout preserves the mean exactly.
    """
    threshold = min(round(rate * 2**32), 2**32 - 1)
    return threshold, 1 - threshold / 2**32


def random_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """Random uint32 array of the given shape: each entry is a hash of the key and of the entry's index.

    XLA can therefore compute the bits where they are used, without writing them to memory, and devices that share a
    batch draw the same bits as a single device would.
    """
    place = jnp.full(shape, first_row(shape[0]), jnp.uint32)
    for axis, size in enumerate(shape):
        place = (place if axis == 0 else place * jnp.uint32(size)) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    first, second = jax.random.key_data(key)[:2]
    return bits_at(place, first, second)


def bits_at(place: Array, first: Array, second: Array) -> Array:
    """The random bits of the entries with these indices, uint32, from the two words of a key."""
    return _mix(_mix(place + first) ^ second)


def _mix(x: Array) -> Array:
    """Bijective mixing function of uint32: flipping one input bit flips about half of the output bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
