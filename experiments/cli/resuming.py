"""Goes on with an output file of `translate` that was interrupted."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from experiments.cli.flags import Translating
from experiments.streams import Group, claimed, part_of
from transformer.config import UserError, counted


class Begun(NamedTuple):
    """What there is of an output."""

    lines: int = 0
    """Number of input lines whose output is complete."""
    size: int = 0
    """Its length in bytes."""
    seen: int = 0
    """Number of input lines of which there is any output."""


def check_resume(given: Translating) -> None:
    """Raises UserError for flags with which nothing can be resumed."""
    if not given.output:
        raise UserError("--resume goes on with an output file: it needs --output FILE")
    if given.output.suffix in (".gz", ".xz"):
        raise UserError(f"{given.output} is compressed and cannot be resumed: use a name without {given.output.suffix}")
    if given.output.exists() and not given.output.is_file():
        raise UserError(f"{given.output} is not a regular file and cannot be resumed")
    if given.alignments:
        raise UserError("--resume goes on with --output alone: use it without --alignments")


def begun(given: Translating) -> Begun:
    """Returns what there is of the output; nothing, if there is no file. UserError if it is no such output."""
    path, numbered = found(given), given.n_best > 1 and not given.json
    lines = size = seen = offset = 0
    if not path.exists():
        return Begun()
    with path.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):  # cut off
                return Begun(lines, size, seen if numbered else seen + 1)
            number = seen + 1
            if numbered:
                mark = re.match(rb"(\d+) \|\|\| ", raw)
                number = int(mark[1]) if mark else -1
                if number not in (seen, seen + 1) or number == 0:
                    raise UserError(f"{path} is not the output of --n-best: it cannot be resumed with that flag")
                if number > seen:  # the list before this one is complete
                    lines, size = seen, offset
            offset += len(raw)
            seen = number
            if not numbered:
                lines, size = seen, offset
    return Begun(lines, size, seen)


def found(given: Translating) -> Path:
    """Returns the file to go on with: the part that was written, or else the output itself."""
    assert given.output
    part = part_of(given.output)
    return part if part.exists() else given.output.resolve()


@contextmanager
def resumed(given: Translating, done: Begun) -> Iterator[TextIO]:
    """Opens the output for writing after what is complete. Like `streams.written` otherwise."""
    assert given.output
    source, part = found(given), part_of(given.output)
    taken = source == part
    with claimed(part):
        if not taken and source.exists():
            shutil.copyfile(source, part)
        try:
            with part.open("a", encoding="utf-8") as file:
                file.truncate(done.size)
                yield file
            part.replace(given.output.resolve())
        except UserError:
            if not taken:
                part.unlink(missing_ok=True)
            raise


def remaining(groups: Iterator[Group], done: Begun, given: Translating) -> Iterator[Group]:
    """Yields what is left of the groups after the lines that are done. UserError if there are fewer lines than seen."""
    count = 0
    for first, lines in groups:
        count = first + len(lines) - 1
        if count > done.lines:
            skipped = max(0, done.lines - first + 1)
            yield first + skipped, lines[skipped:]
    check_seen(done, count, given)


def check_seen(done: Begun, count: int, given: Translating) -> None:
    """Raises UserError if there is output for more lines than the input has."""
    if count < done.seen:
        raise UserError(
            f"{given.output} has output for {counted(done.seen, 'line')} but the input has {counted(count, 'line')}: "
            f"it cannot be resumed with this input"
        )
