"""Folders that appear whole or not at all, whatever happens to the process that fills them."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the body ends well, and else is removed."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():  # if it does, another process was first, with the same content
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_abandoned(data_dir: Path) -> None:
    """Remove temporary folders of processes of this machine that are no longer alive."""
    for folder in data_dir.glob(f".*.{socket.gethostname()}.*.tmp"):
        pid = folder.name.split(".")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and someone else's
        return True
    return True
