"""The GPU kernels on a CPU: interpreted, and in float32 too, to be compared with the plain operations."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from jax.experimental import pallas as pl

CHOICES = [f"transformer.kernels.{name}.for_gpu" for name in ("flash_attention", "residual", "cross_entropy")]


@contextmanager
def kernels_on_cpu() -> Iterator[None]:
    """What is traced inside uses the kernels, interpreted."""
    with patch.object(pl, "pallas_call", partial(pl.pallas_call, interpret=True)):
        patches = [patch(choice, lambda *arrays: True) for choice in CHOICES]
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()
