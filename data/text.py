"""Streams parallel text: UTF-8, one sentence per line, plain or compressed."""

import gzip
import lzma
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, cast
from unicodedata import category

from transformer.config import UserError, counted

Pair = tuple[str, str]

SEPARATOR = "<sep>"
"""Stands between several texts that are one input: two that are labelled, or sentences of a document."""

BOUNDARY: Pair = ("", "")
"""This object is yielded between two documents where the text itself has no blank line there: it counts as none."""

LONGEST_LINE = 1_000_000

_INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf"}  # Unicode's categories of spaces, control and format characters

DAMAGED = EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError
"""Exceptions raised when reading a damaged archive."""

_BOM = b"\xef\xbb\xbf"


def check_file(path: Path) -> None:
    """UserError unless the path is a regular file, which can be read several times."""
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a text file")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path} is a pipe or a device, but this text is read more than once: write it to a file first")


def open_unpacked(path: Path) -> BinaryIO:
    """Opens a file for binary reading; .gz and .xz files are decompressed."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    return path.open("rb")


def read_lines(path: Path) -> Generator[str, None, None]:
    """Yields the lines of a UTF-8 file (.gz and .xz are decompressed), without line ends and byte order mark.

    UserError names the file if it is missing, a directory, unreadable or a damaged archive, and also the line if it is
    not UTF-8.
    """
    check_file(path)
    try:
        with open_unpacked(path) as file:
            # A binary file is split only at \n. str.splitlines would also split at U+2028, U+0085 and others, which
            # occur inside sentences, and misalign all following pairs.
            for number, raw in enumerate(raw_lines(file, path), start=1):
                yield decode_line(raw, path, number)
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or truncated archive ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def raw_lines(file: BinaryIO, name: Path | str) -> Iterator[bytes]:
    """Yields the lines of a binary file, with their line ends.

    UserError for a line of more than LONGEST_LINE bytes (an archive of a few kilobytes can unpack to a single line of a
    hundred gigabytes), and for a file whose line ends are carriage returns, which would be read as one line.
    """
    newlines = returns = 0
    while raw := file.readline(LONGEST_LINE + 2):
        ended = raw.endswith(b"\n")
        newlines, returns = newlines + ended, returns + returns_in(raw)
        if not ended:  # the last line, or one that is too long
            check_ends(name, newlines, returns)
        if len(raw.rstrip(b"\r\n")) > LONGEST_LINE:
            number = newlines + (not ended)
            raise UserError(f"{name}, line {number} has more than {LONGEST_LINE:,} bytes: too long to be a sentence")
        yield raw
    check_ends(name, newlines, returns)


def returns_in(raw: bytes) -> int:
    """Number of carriage returns inside a line, not counting its line end. Crawled text contains some."""
    return raw.rstrip(b"\r\n").count(b"\r")


def check_ends(name: Path | str, newlines: int, returns: int) -> None:
    """UserError if there are more carriage returns inside the lines than lines: they must be the line ends."""
    if returns > newlines:
        raise UserError(f"{name}: its line ends are CR alone: convert them, for example with tr '\\r' '\\n'")


def decode_line(raw: bytes, path: Path | str, number: int) -> str:
    """Decodes a line, without its line end. UserError names `path` and line `number` (from 1) if it is not UTF-8."""
    if number == 1:
        raw = raw.removeprefix(_BOM)
    raw = raw.rstrip(b"\r\n")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: byte 0x{raw[error.start]:02x} at position {error.start} is not UTF-8"
        ) from error


def read_pairs(source: Path, target: Path) -> Iterator[Pair]:
    """Yields pairs of line i of `source` and line i of `target`, blank lines included.

    UserError if the files are empty, or if their numbers of lines differ (raised at the end of the shorter one).
    """
    count = 0
    with closing(read_lines(source)) as left, closing(read_lines(target)) as right:
        for a, b in zip_longest(left, right):
            if a is None or b is None:
                longer = count + 1 + sum(1 for _ in (right if a is None else left))
                left_count, right_count = (count, longer) if a is None else (longer, count)
                lines = counted(left_count, "line")
                raise UserError(f"{source} has {lines} but {target} has {right_count}: they must be parallel")
            count += 1
            yield a, b
    if count == 0:
        raise UserError(f"{source} and {target} are empty")


def is_blank(pair: Pair) -> bool:
    """Whether either side of the pair is blank."""
    return is_blank_line(pair[0]) or is_blank_line(pair[1])


def is_blank_line(text: str) -> bool:
    """Whether a line has no visible text: only whitespace, control and format characters (byte order mark), and "▁".

    sentencepiece represents a space as U+2581 "▁", so for the model a line of it is a line of spaces.
    """
    return all(c == "\u2581" or category(c) in _INVISIBLE for c in text)
