"""Text that is read and written line by line: files, pipes and the terminal."""

import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO
from unicodedata import category

from data.text import DAMAGED, LONGEST_LINE, check_ends, decode_line, open_unpacked, returns_in
from experiments.sentences import BadLines, warnings_of
from transformer.config import UserError, counted

# Lines read before they are translated: sorted by length among themselves, so batches carry little padding.
CHUNK = 4096

# Who writes into a pipe gets so many seconds for the next lines before those that came are translated.
PATIENCE = 0.1

BLOCK = 1 << 16

Group = tuple[int, list[str | None]]
"""The number of the first line, and the lines. None: one that is skipped."""

NO_TEXT = {
    b"\x1f\x8b": "a gzip archive: unpack it first, or give a file that ends in .gz",
    b"\xfd7zXZ": "an xz archive: unpack it first, or give a file that ends in .xz",
    b"\xff\xfe": "UTF-16 text: convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16 text: convert it to UTF-8 first",
}
"""How an input begins that is no UTF-8 in any line."""


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """The bytes of a file (.gz and .xz are unpacked), of a pipe, or of standard input. UserError as it is read."""
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        with open_unpacked(path) as file:
            yield file
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or truncated archive ({error})") from error


def check_output(path: Path) -> None:
    """UserError for a path that cannot be written to as a file."""
    if str(path) == "-":
        raise UserError("- is no file: say /dev/stdout for standard output")
    if path.is_dir():
        raise UserError(f"{path} is a directory: the output wants a file")
    if path.suffix in (".gz", ".xz"):
        raise UserError(f"{path}: no output is packed: give a name without {path.suffix}, or pipe standard output on")
    if not path.exists() and not (folder := path.resolve().parent).is_dir():
        raise UserError(f"{folder}: no such folder")


@contextmanager
def written(path: Path | None) -> Iterator[TextIO]:
    """Where translations go: standard output, or a text file that takes its name when all of it is written."""
    if path is None:
        yield sys.stdout
        return
    if descriptor := re.fullmatch(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)", str(path)):
        # Written through what is open: a file that a shell redirects to may hold other output, before and after.
        number = {"stdout": 1, "stderr": 2}.get(descriptor[1]) or int(descriptor[2])
        with open(os.dup(number), "w", encoding="utf-8") as file:
            yield file
        return
    check_output(path)
    if path.exists() and not path.is_file():  # a device or a pipe
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    path = path.resolve()  # what a link points to is written, not the link
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def visible(text: str) -> str:
    """The same on one line: as its escape what a terminal would obey or hide, a text's direction among it."""
    return "".join(c if category(c)[0] != "C" and category(c) not in ("Zl", "Zp") else escape(c) for c in text)


def escape(character: str) -> str:
    """As Python writes it: \\x1b."""
    return character.encode("unicode_escape").decode()


def chunks(file: BinaryIO, name: str, bad_lines: BadLines, log: Callable[[str], None]) -> Iterator[Group]:
    """Lines of UTF-8 in groups, as they come.

    A group is full, or what there is when the input ends or stands still. A line that is no UTF-8 or has more
    than LONGEST_LINE bytes is skipped with a warning. One with carriage returns inside gets a warning alone: it may be
    a sentence, and what they are is known only where there is no other line.

    Raises:
        UserError: there is a line to skip, and bad lines are refused; or the input is of another kind, or one line with
            carriage returns for line ends.
    """
    number = returns = 0
    chunk: list[str | None] = []
    bad: list[str] = []
    odd: list[str] = []
    for raw in lines_as_they_come(file):
        if raw is not None:
            number += 1
            if number == 1:
                check_kind(raw, name)
            try:
                chunk.append(text_of(raw, name, number))
            except UserError as error:
                if bad_lines == "refuse":
                    raise
                bad.append(f"{error}: skipped")
                chunk.append(None)
            if returns := returns_in(raw):
                odd.append(f"{name}, line {number}: CR stands in it {counted(returns, 'time')} and reads as a space")
        if chunk and (raw is None or len(chunk) == CHUNK):
            for warning in warnings_of(bad) + warnings_of(odd):
                log(warning)
            yield number - len(chunk) + 1, chunk
            chunk, bad, odd = [], [], []
    if number == 1:
        check_ends(name, number, returns)
    if chunk:
        for warning in warnings_of(bad) + warnings_of(odd):
            log(warning)
        yield number - len(chunk) + 1, chunk


def lines_as_they_come(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines, without their ends, and None where the input stands still.

    Of one that is too long there is no more than that takes to see it.
    """
    rest = b""
    while block := file.read1(BLOCK):  # type: ignore[attr-defined]  # all have it, but typing's BinaryIO
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        rest = rest[: LONGEST_LINE + 2]  # one of them may be the \r of its end
        if stands_still(file):
            yield None
    if rest:
        yield rest


def stands_still(file: BinaryIO) -> bool:
    """Whether nothing comes for a while. Never of a file."""
    with suppress(OSError, ValueError):  # it has no number, or is of a kind that the system cannot wait for
        return file.isatty() or not select.select([file], [], [], PATIENCE)[0]
    return False


def check_kind(first: bytes, name: str) -> None:
    """UserError for what is no UTF-8 in any line, by the first one."""
    for start, kind in NO_TEXT.items():
        if first.startswith(start):
            raise UserError(f"{name} is {kind}")


def text_of(raw: bytes, name: str, number: int) -> str:
    """A line's text. UserError for what is none."""
    if len(raw.rstrip(b"\r")) > LONGEST_LINE:
        raise UserError(f"{name}, line {number} has more than {LONGEST_LINE:,} bytes: too long for a sentence")
    return decode_line(raw, name, number)


def set_up_streams() -> None:
    """Text is UTF-8 whatever the locale says. UserError for one of the three streams that is closed."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            raise UserError(f"{name} is closed")
        if hasattr(stream, "reconfigure"):
            # What the user gave is shown in errors, valid text or not.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if name == "stderr" else "strict")
