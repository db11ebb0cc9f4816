"""Atomic creation of folders: a folder is complete or does not exist, even if the process is killed."""

import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def created(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents. If the body fails, those of them that are new and still empty are removed."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        remove_empty(new)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are empty; a subfolder stands before its parent."""
    for folder in folders:
        with suppress(OSError):  # not empty
            folder.rmdir()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `path` if the body succeeds, and removed otherwise."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():  # if it exists, another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_abandoned(data_dir: Path) -> None:
    """Removes temporary folders of processes on this machine that are no longer alive."""
    for folder in data_dir.glob(f".*.{socket.gethostname()}.*.tmp"):
        pid = folder.name.split(".")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, but owned by another user
        return True
    return True
