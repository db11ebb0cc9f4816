import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import jax, jax.numpy as jnp
from experiments.cli.compilation_cache import keep_compiled
keep_compiled()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.config.jax_compilation_cache_dir, float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones(64))))
"""


def start(**environment: str | None) -> tuple[str, float]:
    """Runs a process and returns the location of its cache, and its result."""
    clean = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")}
    clean |= {name: value for name, value in environment.items() if value is not None}
    out = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[3],
        env=clean,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return out[0], float(out[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", pytest.param("JAX_COMPILATION_CACHE_DIR", marks=pytest.mark.slow)])
def test_what_is_compiled_is_kept_where_the_environment_says(tmp_path, name):
    folder, first = start(**{name: str(tmp_path)})
    assert Path(folder).is_relative_to(tmp_path)
    kept = set(Path(folder).iterdir())
    assert kept
    assert start(**{name: str(tmp_path)}) == (folder, first)
    assert {path for path in Path(folder).iterdir() if "atime" not in path.name} <= kept


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    assert start(XDG_CACHE_HOME=str(tmp_path / "file"))[1] == start(XDG_CACHE_HOME=str(tmp_path))[1]
