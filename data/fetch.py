"""Public files by address and SHA-256: from a local mirror, the cache, or the network, in this order."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformer.config import UserError

_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds without a byte before a download is given up


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


def fetch(file: RemoteFile, downloads: Path, log: Callable[[str], object] = print) -> Path:
    """A local path whose bytes have the SHA-256 that `file` promises; `downloads` is the cache.

    UserError when a file of this name has other bytes, or when it can be had from nowhere.
    """
    if mirrored := _in_mirror(file):
        return mirrored
    cached = downloads / file.folder / file.name
    if cached.exists():
        if (found := sha256_of(cached)) != file.sha256:
            raise UserError(f"{cached} has SHA-256 {found}, not {file.sha256}: remove it")
        return cached
    log(f"downloading {file.address}")
    try:
        _download(file, cached)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot download {file.address} ({error or type(error).__name__}): put the file at {cached}, "
            f"or set DATA_MIRROR to a folder that holds {file.name}"
        ) from error
    return cached


def _in_mirror(file: RemoteFile) -> Path | None:
    """The file below $DATA_MIRROR that has the right name and bytes; None when there is none of this name."""
    mirror = os.environ.get("DATA_MIRROR")
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
        raise UserError(f"{path} (in DATA_MIRROR) has SHA-256 {found}, not {file.sha256}")
    return None


def _download(file: RemoteFile, path: Path) -> None:
    """Stream to a `.part` beside `path`, which appears only when it is whole and has the right hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two downloads at a time from writing into one file.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    size = 0
    try:
        with urllib.request.urlopen(file.address, timeout=_TIMEOUT) as response, part.open("wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            promised = response.headers.get("Content-Length")
        # A connection that breaks looks like the end of the file to read(): only the length tells.
        if promised is not None and int(promised) != size:
            raise OSError(f"{size} of {promised} bytes arrived")
        if digest.hexdigest() != file.sha256:
            raise UserError(f"{file.address} has SHA-256 {digest.hexdigest()}, not {file.sha256}: not kept")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
