"""Reading parallel text: UTF-8, one sentence a line, plain or compressed, streamed."""

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

LONGEST_LINE = 1_000_000

_INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf"}  # Unicode's categories of spaces, control and format characters

DAMAGED = EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError
"""What a damaged archive raises when it is read."""

_BOM = b"\xef\xbb\xbf"


def check_file(path: Path) -> None:
    """UserError, naming the path, unless it is a file, which can be read as often as is needed."""
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a text file")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path} is a pipe or a device, and this text is read more than once: write it to a file first")


def open_unpacked(path: Path) -> BinaryIO:
    """The bytes of a file, those of a .gz or .xz unpacked."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    return path.open("rb")


def read_lines(path: Path) -> Generator[str, None, None]:
    """The lines of a UTF-8 file (.gz and .xz are unpacked), without line ends; a byte order mark is dropped.

    UserError names the file when it is missing, a directory, unreadable or a damaged archive, and the line
    that is not UTF-8.
    """
    check_file(path)
    try:
        with open_unpacked(path) as file:
            # A binary file is split at \n alone. str.splitlines would also split at U+2028, U+0085 and others
            # that stand inside of sentences, and shift every pair after them.
            for number, raw in enumerate(raw_lines(file, path), start=1):
                yield decode_line(raw, path, number)
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or truncated archive ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def raw_lines(file: BinaryIO, name: Path | str) -> Iterator[bytes]:
    """The lines of a binary file, with their ends. UserError for one of more than LONGEST_LINE bytes.

    An archive of a few kilobytes can unpack to one line of a hundred gigabytes. UserError also for a file whose line
    ends are carriage returns alone, but perhaps for the last one: it would be one line.
    """
    newlines = returns = 0
    while raw := file.readline(LONGEST_LINE + 2):
        ended = raw.endswith(b"\n")
        newlines, returns = newlines + ended, returns + returns_in(raw)
        if not ended:  # the last line, or too long to go on with
            check_ends(name, newlines, returns)
        if len(raw.rstrip(b"\r\n")) > LONGEST_LINE:
            number = newlines + (not ended)
            raise UserError(f"{name}, line {number} has more than {LONGEST_LINE:,} bytes: that is no sentence")
        yield raw
    check_ends(name, newlines, returns)


def returns_in(raw: bytes) -> int:
    """Carriage returns inside of a line. Crawled text has some, and those at the end of the line are no part of it."""
    return raw.rstrip(b"\r\n").count(b"\r")


def check_ends(name: Path | str, newlines: int, returns: int) -> None:
    """UserError for a text with more carriage returns inside of its lines than it has lines: they are its line ends."""
    if returns > newlines:
        raise UserError(f"{name}: its line ends are CR alone: convert them, as with tr '\\r' '\\n'")


def decode_line(raw: bytes, path: Path | str, number: int) -> str:
    """One line's text, without its line end. UserError names `path` and `number` (from 1) if not UTF-8."""
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
    """Line i of `source` with line i of `target`, blank lines included.

    UserError when a file has no line, or when the numbers of lines differ (known at the end of the shorter).
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
    """Whether either side is blank."""
    return is_blank_line(pair[0]) or is_blank_line(pair[1])


def is_blank_line(text: str) -> bool:
    """Whether a line shows nothing: white space, control and format characters (a lone byte order mark), "▁" alone.

    U+2581 "▁" is how sentencepiece writes a space, so to the model a line of it is a line of spaces.
    """
    return all(c == "\u2581" or category(c) in _INVISIBLE for c in text)
