"""What XLA took a second or longer to compile is kept for the next process, which starts in seconds then."""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Sets JAX's persistent compilation cache, in the user's cache folder unless JAX_COMPILATION_CACHE_DIR says where.

    A program is found again for the same code, shapes, versions and device. The folder may be removed at any time.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    # Not absolute: there is no home, or the path can mean no one folder.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and caches.is_absolute():
        jax.config.update("jax_compilation_cache_dir", str(caches / "attention-is-all-you-need-jax"))
