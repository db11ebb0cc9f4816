"""JAX's persistent compilation cache: programs that took a second or longer to compile are reused by later processes.

With a warm cache a process starts in seconds.
"""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Enables the cache, in the user's cache folder unless JAX_COMPILATION_CACHE_DIR is set.

    A program is reused if code, shapes, versions and device are equal. The folder may be removed at any time.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    # A relative path means that there is no home, or that the folder would depend on the current one.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and caches.is_absolute():
        jax.config.update("jax_compilation_cache_dir", str(caches / "attention-is-all-you-need-jax"))
