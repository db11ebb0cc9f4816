"""Reads labelled text: lines of text and label, separated by tabs, and the columns of words and tags of CoNLL."""

from collections.abc import Iterator
from pathlib import Path

from data.labels.targets import words_of
from data.text import SEPARATOR, Pair, is_blank_line, read_lines
from transformer.config import UserError, counted


def texts_in(path: Path) -> Iterator[Pair]:
    """Yields the texts of a file with their labels. Blank lines are left out.

    A line is a text, or two texts, and the label, separated by tabs. A pair of texts is joined by SEPARATOR.

    UserError names the line that has another number of columns than the first, or a label that is not one word.
    """
    first = 0
    for number, line in enumerate(read_lines(path), start=1):
        if is_blank_line(line):
            continue
        *texts, label = line.split("\t")
        first = first or len(texts)
        if len(texts) not in (1, 2) or len(texts) != first:
            wanted = "2 or 3" if number == 1 or first not in (1, 2) else first + 1
            found = counted(len(texts) + 1, "column")
            raise UserError(f"{path}, line {number}: {found}, not {wanted}: text and label are separated by a tab")
        if len(words_of(label)) != 1:
            raise UserError(f"{path}, line {number}: {label!r:.60} is not a label, which is one word without spaces")
        yield f" {SEPARATOR} ".join(text.strip() for text in texts), words_of(label)[0]
    if not first:
        raise UserError(f"{path} has no text")


def sentences_in(path: Path) -> Iterator[Pair]:
    """Yields the sentences of a file of CoNLL with the tags of their words.

    A line is a word and its tag, with any other columns between them, separated by spaces or tabs. A blank line ends a
    sentence; lines that begin with -DOCSTART- are left out.

    UserError names the line that has another number of columns than the first.
    """
    columns, found = 0, False
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*read_lines(path), ""], start=1):
        row = words_of(line)
        if row and row[0] != "-DOCSTART-":
            columns = columns or len(row)
            if len(row) < 2 or len(row) != columns:
                wanted = f"{columns} as in the first line" if columns > 1 else "2 or more"
                raise UserError(
                    f"{path}, line {number}: {counted(len(row), 'column')}, not {wanted}: a word, and last its tag"
                )
            words.append(row[0])
            tags.append(row[-1])
        elif words:
            found = True
            yield " ".join(words), " ".join(tags)
            words, tags = [], []
    if not found:
        raise UserError(f"{path} has no sentence")
