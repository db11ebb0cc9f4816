"""Reads the trees of a file, of a folder, or of an archive, plain or compressed."""

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from data.fetch import sha256_of
from data.text import DAMAGED, Pair, check_file, decode_line, open_unpacked, raw_lines
from data.treebanks.trees import Tree, pair_of, read_trees, standard
from transformer.config import UserError

ENDINGS = (".mrg", ".prd", ".tree", ".trees", ".parse", ".ptb", ".bracket", ".brackets")
"""How the names of files with trees end, in a folder or an archive; .gz or .xz may follow. A file that is given by its
own name may have any."""

_TAR = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")


def trees_in(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Tree]:
    """Yields the trees of a file, or of all files of a folder or an archive, in the order of their paths.

    Args:
        wanted: of the files of a folder or an archive, selects those to read by their paths.

    Raises:
        UserError: there is no file with trees, one cannot be read, or a tree is not well formed: with file and line.
    """
    found = False
    try:
        for name, file in _files(path, lambda name: has_trees(name) and wanted(name)):
            found = True
            lines = (decode_line(raw, name, number) for number, raw in enumerate(raw_lines(file, name), start=1))
            yield from read_trees(lines, name)
    except (*DAMAGED, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged or truncated archive ({error})") from error
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    if not found:
        raise UserError(f"{path} has no files with trees: their names must end in {', '.join(ENDINGS)}")


def has_trees(name: str) -> bool:
    """Whether this is the name of a file with trees. Hidden files are none: macOS writes `._a.mrg` beside `a.mrg`."""
    ending = name.lower().removesuffix(".gz").removesuffix(".xz")
    return ending.endswith(ENDINGS) and not PurePath(name).name.startswith(".")


def _files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, BinaryIO]]:
    """Yields the name and the unpacked content of each file."""
    if path.is_dir():
        for name, file in _listed(path):
            if wanted(name):
                with open_unpacked(file) as content:
                    yield str(file), content
        return
    check_file(path)
    name = path.name.lower()
    with ExitStack() as stack:
        if name.endswith(".zip"):
            whole = stack.enter_context(zipfile.ZipFile(path))
            for member in sorted(whole.namelist()):
                if wanted(member):
                    try:
                        packed = whole.read(member)
                    except RuntimeError as error:  # a password, or a compression that Python does not have
                        raise UserError(f"{path}: cannot be read ({error})") from error
                    yield f"{path}/{member}", _unpacked(member, packed)
        elif name.endswith(_TAR):
            tar = stack.enter_context(tarfile.open(path))
            # In the order of the archive: going back to an earlier member would unpack all of it again.
            read = {}
            for info in tar:
                if info.isfile() and wanted(info.name):
                    read[info.name] = cast(BinaryIO, tar.extractfile(info)).read()
            for member in sorted(read):
                yield f"{path}/{member}", _unpacked(member, read[member])
        else:
            yield str(path), stack.enter_context(open_unpacked(path))


def _listed(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the files of a folder and its subfolders in order, with their paths in it."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(folder)), file


def _unpacked(name: str, content: bytes) -> BinaryIO:
    """Opens a member of an archive, which may be compressed by itself."""
    suffix = PurePath(name).suffix.lower()
    return io.BytesIO({".gz": gzip.decompress, ".xz": lzma.decompress}.get(suffix, bytes)(content))


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the relative paths and the content of its files with trees."""
    if not path.is_dir():
        check_file(path)
        return sha256_of(path)
    digest = hashlib.sha256()
    for name, file in _listed(path):
        if has_trees(name):
            digest.update(f"{name}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def pairs_in(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Pair]:
    """Yields the sentences and the bracketed trees of a file, a folder or an archive, in standard form.

    See `trees_in` and `data.treebanks.trees.standard`. A tree without words is left out.
    """
    for tree in trees_in(path, wanted):
        if bare := standard(tree):
            yield pair_of(bare)
