"""Text that is read and written line by line: files, pipes and the terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO
from unicodedata import category

from data.text import decode_line, raw_lines
from transformer.config import UserError

# Lines read before they are translated: sorted by length among themselves, so batches carry little padding.
CHUNK = 4096


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """The bytes of a file, or of standard input."""
    if path is None:
        yield sys.stdin.buffer
    else:
        with path.open("rb") as file:
            yield file


def check_output(path: Path) -> None:
    """UserError for a path that cannot be written to as a file."""
    if str(path) == "-":
        raise UserError("- is no file: say /dev/stdout for standard output")
    if path.is_dir():
        raise UserError(f"{path} is a directory: the output wants a file")
    if not path.exists() and not (folder := path.resolve().parent).is_dir():
        raise UserError(f"{folder}: no such folder")


@contextmanager
def written(path: Path | None) -> Iterator[TextIO]:
    """Where translations go: standard output, or a text file that takes its name when all of it is written."""
    if path is None:
        yield sys.stdout
        return
    check_output(path)
    if path.exists() and not path.is_file():  # a device or a pipe; that of /dev/stdout has no name of its own
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


def chunks(file: BinaryIO, name: str) -> Iterator[tuple[int, list[str]]]:
    """Decodes lines of UTF-8 in groups: (number of the first line, the lines)."""
    chunk: list[str] = []
    number = 0
    for number, line in enumerate(raw_lines(file, name), start=1):
        chunk.append(decode_line(line, name, number))
        if len(chunk) == CHUNK:
            yield number - CHUNK + 1, chunk
            chunk = []
    if chunk:
        yield number - len(chunk) + 1, chunk


def set_up_streams() -> None:
    """Text is UTF-8 whatever the locale says. UserError for one of the three streams that is closed."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            raise UserError(f"{name} is closed")
        if hasattr(stream, "reconfigure"):
            # What the user gave is shown in errors, valid text or not.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if name == "stderr" else "strict")
