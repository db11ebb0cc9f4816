"""Shared by all tests: exact float32 matmuls, and a model that compiles in a second."""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest
from flax import nnx
from hypothesis import settings

from transformer.config import ModelConfig
from transformer.model import Transformer

# TF32 on an NVIDIA GPU has 10 bits of mantissa: no test would meet its tolerance.
jax.config.update("jax_default_matmul_precision", "highest")

# No deadline: the time that an example takes on a busy machine is not tested. The same examples in every run: a test
# that fails has found something in the change under test. `--hypothesis-profile search` tries ten times as many others.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("repeatable")

# Together with JAX_DISABLE_MOST_OPTIMIZATIONS, these reduce the compilation time of a training step to a quarter.
COMPILE_FAST = (
    "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def known(flags: tuple[str, ...]) -> bool:
    """Returns whether this version of XLA has these flags: an unknown flag aborts the process."""
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def pytest_configure(config: pytest.Config) -> None:
    """Most of the time of all tests is the compiler's, on programs that run for milliseconds.

    So it leaves LLVM's optimizations out, unless the environment says otherwise: the slow tests of the model, also on
    eight devices, and the fault tests have them, as users do. And the worker processes, which start after this, compile
    nothing twice.
    """
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    without = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
    jax.config.update("jax_disable_most_optimizations", without)
    if without and "XLA_FLAGS" not in os.environ and known(COMPILE_FAST):
        os.environ["XLA_FLAGS"] = " ".join(COMPILE_FAST)
    if not hasattr(config, "workerinput") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        compiled = tempfile.TemporaryDirectory(prefix="compiled-")
        config.add_cleanup(compiled.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spares the garbage collector the modules that stay loaded, for a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory):
    """Keeps the data that tests prepare out of the user's folder."""
    os.environ["DATA_DIR"] = str(tmp_path_factory.mktemp("prepared"))
    return Path(os.environ["DATA_DIR"])


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """A model whose sizes all differ, so that swapped axes are detected."""
    return ModelConfig(
        vocab_size=29,
        num_layers=2,
        d_model=24,
        d_ff=40,
        num_heads=3,
        d_k=10,
        d_v=7,
        dropout=0.1,
        max_positions=64,
    )


@pytest.fixture(scope="session")
def model(config) -> Transformer:
    return Transformer(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def source():
    """Three sentences of 7, 4 and 5 tokens, EOS (2) included."""
    import jax.numpy as jnp

    return jnp.array([[5, 6, 7, 8, 9, 10, 2], [11, 12, 13, 2, 0, 0, 0], [14, 15, 16, 17, 2, 0, 0]])


@pytest.fixture(scope="session")
def target():
    """Their translations of 4, 6 and 5 tokens."""
    import jax.numpy as jnp

    return jnp.array([[20, 21, 22, 2, 0, 0], [23, 24, 25, 26, 27, 2], [28, 19, 18, 17, 2, 0]])
