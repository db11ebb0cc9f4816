"""Fetches public files by URL and SHA-256 from a local mirror, the cache or the network, in this order."""

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

from data.folders import created
from transformer.config import UserError

_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds without data after which a download is aborted
_SAY_EVERY = 10.0  # seconds between progress lines


@dataclass(frozen=True)
class RemoteFile:
    """A public file. `folder` is its subfolder of the cache, as different corpora share file names (train.en.gz)."""

    folder: str
    address: str
    sha256: str

    @property
    def name(self) -> str:
        return self.address.rsplit("/", 1)[-1]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file: RemoteFile, downloads: Path, log: Callable[[str], object] = print, mirror: str | None = None) -> Path:
    """Returns a local path of the file, whose SHA-256 has been verified.

    Args:
        downloads: folder of the cache.
        mirror: folder to search first, by default $DATA_MIRROR.

    Raises:
        UserError: a file of this name has a different SHA-256, or the file cannot be obtained.
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
    """Returns the file in the mirror with this name and SHA-256, or None if there is no file of this name."""
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
    """Downloads to a `.part` file next to `path`, and renames it once it is complete and its hash is verified.

    Resumes an interrupted download if the server supports it. The file is locked against a second process.
    """
    part = path.with_name(f"{path.name}.part")
    with created(path.parent), part.open("ab") as out:
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
    """Downloads the missing bytes and logs the progress every ten seconds."""
    done = out.tell()
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(file.address, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # already complete; the hash is checked next
            return
        raise
    with response:
        if done and response.status != HTTPStatus.PARTIAL_CONTENT:  # the server starts from the beginning
            out.truncate(0)
            done = 0
        promised = response.headers.get("Content-Length")
        total = done + int(promised) if promised else None
        if total:
            check_disk_space(Path(out.name).parent, total - done, file.name)
        said = time.monotonic()
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            done += len(chunk)
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                log(f"{file.name}: {done / 1e6:,.0f} MB" + (f" of {total / 1e6:,.0f} MB" if total else ""))
    # To read(), a broken connection looks like the end of the file; only the length reveals it.
    if total is not None and done != total:
        raise OSError(f"{done} of {total} bytes arrived; the same command resumes the download")


def check_disk_space(folder: Path, needed: int, what: str) -> None:
    """UserError if the disk of a folder has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"not enough disk space for {what} in {folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free"
        )
