"""Reading and writing text line by line: files, pipes and the terminal."""

import fcntl
import gzip
import io
import lzma
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from unicodedata import category

from data.text import DAMAGED, LONGEST_LINE, check_ends, decode_line, open_unpacked, returns_in
from experiments.sentences import BadLines, warnings_of
from transformer.config import UserError, counted

# Number of lines read before they are translated. They are sorted by length, so batches contain little padding.
CHUNK = 4096

# How long the first line of a group from a pipe waits for more, in seconds.
PATIENCE = 0.1

BLOCK = 1 << 16

Group = tuple[int, list[str | None]]
"""The number of the first line, and the lines; None for a line that is skipped."""

NOT_UTF8 = {
    b"\x1f\x8b": "a gzip archive: unpack it first, or give a file that ends in .gz",
    b"\xfd7zXZ": "an xz archive: unpack it first, or give a file that ends in .xz",
    b"\xff\xfe": "UTF-16 text: convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16 text: convert it to UTF-8 first",
}
"""First bytes of inputs that are not UTF-8 text at all, and what to tell the user."""


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """Opens a file (.gz and .xz are decompressed), a pipe, or standard input (None) for reading bytes.

    UserError if standard input is closed; or while reading, if an archive is damaged.
    """
    if path is None:
        if sys.stdin is None:
            raise UserError("standard input is closed: give --input FILE")
        yield sys.stdin.buffer
        return
    try:
        with open_unpacked(path) as file:
            yield file
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or truncated archive ({error})") from error


def check_output(path: Path) -> None:
    """Raises UserError for a path that cannot be written to as a file."""
    if str(path) == "-":
        raise UserError("- is not a file: use /dev/stdout for standard output")
    if path.is_dir():
        raise UserError(f"{path} is a directory: the output must be a file")
    if not path.exists() and not (folder := path.resolve().parent).is_dir():
        raise UserError(f"{folder}: no such folder")


@contextmanager
def written(path: Path | None, kept: bool = False) -> Iterator[TextIO]:
    """Opens standard output (None) or a text file for writing; the file appears under its name once it is complete.

    Files whose names end in .gz or .xz are compressed.

    Args:
        kept: whether what is written is kept as `part_of` the file if writing is interrupted, for `resumed`.
    """
    if path is None:
        yield sys.stdout
        return
    if descriptor := re.fullmatch(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)", str(path)):
        # Duplicate the open descriptor: a file that a shell redirects to may hold other output, before and after ours.
        number = {"stdout": 1, "stderr": 2}.get(descriptor[1]) or int(descriptor[2])
        with open(os.dup(number), "w", encoding="utf-8") as file:
            yield file
        return
    check_output(path)
    if path.exists() and not path.is_file():  # a device or a pipe
        with open_packed(path, path.suffix) as file:
            yield file
        return
    suffix = path.suffix
    path = path.resolve()  # write to the target of a symbolic link, do not replace the link
    part = part_of(path) if kept else path.with_name(f".{path.name}.{os.getpid()}.part")
    with claimed(part):
        try:
            with open_packed(part, suffix) as file:
                yield file
            part.replace(path)
        except BaseException as error:
            if isinstance(error, UserError) or not kept:
                part.unlink(missing_ok=True)
            raise


def part_of(path: Path) -> Path:
    """Where `written(path, kept=True)` writes before the file is complete."""
    path = path.resolve()
    return path.with_name(f".{path.name}.part")


@contextmanager
def claimed(part: Path) -> Iterator[None]:
    """Keeps other processes from writing a file inside; it exists then. UserError if another one writes it."""
    while True:
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another process is writing {part}: wait for it, or choose another output") from error
            # Otherwise another process has completed the file that was opened, and it has another name now.
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                yield
                return


@contextmanager
def open_packed(path: Path, suffix: str) -> Iterator[TextIO]:
    """Opens a text file for writing, compressed if the suffix is .gz or .xz. Equal text gives an identical file."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("wb"))
        if suffix == ".gz":  # without the name and the time, which gzip writes into the file otherwise
            file = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
        elif suffix == ".xz":
            file = stack.enter_context(lzma.LZMAFile(file, "wb"))
        yield stack.enter_context(io.TextIOWrapper(file, encoding="utf-8"))


def visible(text: str) -> str:
    """Escapes every character that a terminal would interpret or hide: line breaks, controls, marks of direction."""
    return "".join(c if category(c)[0] != "C" and category(c) not in ("Zl", "Zp") else escape(c) for c in text)


def escape(character: str) -> str:
    """Returns the Python escape sequence of a character, such as \\x1b."""
    return character.encode("unicode_escape").decode()


def chunks(
    file: BinaryIO, name: str, bad_lines: BadLines, log: Callable[[str], None], wait: float = PATIENCE
) -> Iterator[Group]:
    """Yields groups of UTF-8 lines as they arrive.

    A group has CHUNK lines; or fewer when the input ends, and from a pipe also `wait` seconds after its first line. A
    line that is not UTF-8 or has more than LONGEST_LINE bytes is skipped with a warning. A line with carriage returns
    inside it only gets a warning: it may be a sentence, and only if there is no other line can one tell that they are
    line ends.

    Raises:
        UserError: a line would be skipped but bad_lines is "refuse"; the input is not text; or it is a single line
            with carriage returns as line ends.
    """
    number = returns = 0
    chunk: list[str | None] = []
    bad: list[str] = []
    odd: list[str] = []
    for raw in lines_as_they_come(file, wait):
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
                odd.append(f"{name}, line {number}: contains CR {counted(returns, 'time')}, which reads as a space")
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


def lines_as_they_come(file: BinaryIO, wait: float = PATIENCE) -> Iterator[bytes | None]:
    """Yields lines without their line ends, and None when the first one since the last None has waited long enough.

    A line that is too long is truncated to just more than the limit, so that the caller can detect it.
    """
    rest = b""
    due = None
    while block := file.read1(BLOCK):  # type: ignore[attr-defined]  # every binary stream has it, BinaryIO does not
        *lines, rest = (rest + block).split(b"\n")
        before = time.monotonic()
        yield from lines
        if due is not None:
            due += time.monotonic() - before  # translating the lines before is not waiting
        rest = rest[: LONGEST_LINE + 2]  # one of the two extra bytes may be the \r of the line end
        if lines and due is None:
            due = time.monotonic() + wait
        if due is not None and is_late(file, due):
            yield None
            due = None
    if rest:
        yield rest


def is_late(file: BinaryIO, due: float) -> bool:
    """Returns whether no input arrives from a pipe or a terminal until a time. Always False for a regular file."""
    with suppress(OSError, ValueError):  # there is no file descriptor, or select does not support its kind
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return False
        left = due - time.monotonic()
        return file.isatty() or left <= 0 or not select.select([file], [], [], left)[0]
    return False


def check_kind(first: bytes, name: str) -> None:
    """Raises UserError if the first line shows that the input is not UTF-8 text at all."""
    for start, kind in NOT_UTF8.items():
        if first.startswith(start):
            raise UserError(f"{name} is {kind}")


def text_of(raw: bytes, name: str, number: int) -> str:
    """Decodes a line. UserError if it is not UTF-8 or too long."""
    if len(raw.rstrip(b"\r")) > LONGEST_LINE:
        raise UserError(f"{name}, line {number} has more than {LONGEST_LINE:,} bytes: too long to be a sentence")
    return decode_line(raw, name, number)


def set_up_streams() -> None:
    """Sets the three standard streams to UTF-8, whatever the locale. UserError if an output is closed.

    A closed standard input is an error only where it is read.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None and name != "stdin":
            raise UserError(f"{name} is closed: redirect it to a file, or to /dev/null")
        if hasattr(stream, "reconfigure"):
            # Error messages quote the user's input, which may not be valid text.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if name == "stderr" else "strict")
