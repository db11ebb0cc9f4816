"""Public files by address and SHA-256: from a local mirror, the cache, or the network, in this order."""

import fcntl
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO

from transformer.config import UserError

_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds without a byte before a download is given up
_SAY_EVERY = 10.0  # seconds between two lines of progress


@dataclass(frozen=True)
class RemoteFile:
    """One public file. `folder` keeps common names (train.en.gz) of different corpora apart in the cache."""

    folder: str
    address: str
    sha256: str

    @property
    def name(self) -> str:
        return self.address.rsplit("/", 1)[-1]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file: RemoteFile, downloads: Path, log: Callable[[str], object] = print, mirror: str | None = None) -> Path:
    """A local path whose bytes have the SHA-256 that `file` promises; `downloads` is the cache.

    `mirror` is a folder to look in first, by default $DATA_MIRROR. UserError when a file of this name has other bytes,
    or when it can be had from nowhere.
    """
    if mirrored := _in_mirror(file, mirror or os.environ.get("DATA_MIRROR")):
        return mirrored
    cached = downloads / file.folder / file.name
    if cached.exists():
        if (found := sha256_of(cached)) != file.sha256:
            raise UserError(f"{cached} has SHA-256 {found}, not {file.sha256}: remove it")
        return cached
    log(f"downloading {file.address}")
    try:
        _download(file, cached, log)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot download {file.address} ({error or type(error).__name__}): put the file at {cached}, "
            f"or set DATA_MIRROR to a folder that holds {file.name}"
        ) from error
    return cached


def _in_mirror(file: RemoteFile, mirror: str | None) -> Path | None:
    """The file below the mirror that has the right name and bytes; None when there is none of this name."""
    if not mirror:
        return None
    if not Path(mirror).is_dir():
        raise UserError(f"DATA_MIRROR={mirror} is not a folder")
    wrong = []
    for path in sorted(p for p in Path(mirror).rglob(file.name) if p.is_file()):
        if (found := sha256_of(path)) == file.sha256:
            return path
        wrong.append((path, found))
    if wrong:
        path, found = wrong[0]
        raise UserError(f"{path} (in the mirror) has SHA-256 {found}, not {file.sha256}")
    return None


def _download(file: RemoteFile, path: Path, log: Callable[[str], object]) -> None:
    """Stream to a `.part` beside `path`, which appears only when it is whole and has the right hash.

    A part that an earlier attempt left is gone on with, where the server can. Two processes do not write into one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"another process is downloading it to {part}") from error
        try:
            _continue(file, out, log)
        finally:
            if out.tell() == 0:
                part.unlink()
    if (found := sha256_of(part)) != file.sha256:
        part.unlink()
        raise UserError(f"{file.address} has SHA-256 {found}, not {file.sha256}: not kept")
    part.replace(path)


def _continue(file: RemoteFile, out: IO[bytes], log: Callable[[str], object]) -> None:
    """Append what is still missing, and say every ten seconds how far it is."""
    done = out.tell()
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(file.address, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # there is no more: the hash will tell
            return
        raise
    with response:
        if done and response.status != HTTPStatus.PARTIAL_CONTENT:  # the server starts anew
            out.truncate(0)
            done = 0
        promised = response.headers.get("Content-Length")
        total = done + int(promised) if promised else None
        if total:
            check_room(Path(out.name).parent, total - done, file.name)
        said = time.monotonic()
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            done += len(chunk)
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                log(f"{file.name}: {done / 1e6:,.0f} MB" + (f" of {total / 1e6:,.0f} MB" if total else ""))
    # A connection that breaks looks like the end of the file to read(): only the length tells.
    if total is not None and done != total:
        raise OSError(f"{done} of {total} bytes arrived; the same command goes on from there")


def check_room(folder: Path, needed: int, what: str) -> None:
    """UserError if the disk of a folder has not that many bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"no room for {what} in {folder}: it needs {needed / 1e9:.2f} GB, free are {free / 1e9:.2f} GB")
