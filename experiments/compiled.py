"""What XLA has compiled is kept for the next process: it starts in seconds then."""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Sets JAX's persistent compilation cache, in the user's cache folder unless JAX_COMPILATION_CACHE_DIR says where.

    A program is found again for the same code, shapes, versions and device.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and caches.is_absolute():  # it is not where there is no home
        jax.config.update("jax_compilation_cache_dir", str(caches / "attention-is-all-you-need-jax"))
