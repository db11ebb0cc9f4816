"""What a translator is given and gives: sentences, and translations as texts or as pieces."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from data.text import is_blank_line
from transformer.config import UserError

EOS_PIECE = "</s>"

# Warnings of one kind that are said line by line, before the rest are counted.
MOST_WARNINGS = 5

BadLines = Literal["skip", "refuse"]
"""What is done about a line that cannot be read or is too long: a warning, and nothing in its place; or an error."""

Target = str | Sequence[str]
"""A translation that is given: its text, or its pieces as they are, `</s>` the last one if it is finished."""


class Translation(NamedTuple):
    """One hypothesis of a search."""

    text: str
    score: float
    """log P(pieces | source) / ((5 + length) / 6)^alpha, the length in pieces. nan: a sentence that was skipped."""
    pieces: tuple[str, ...]
    """What the search found. The same text may be spelled by other pieces too, with another probability."""

    @property
    def finished(self) -> bool:
        """Whether it ends in EOS. One that does not was cut off at its length limit, and lacks its end."""
        return self.pieces[-1:] == (EOS_PIECE,)


BLANK = Translation("", 0.0, (EOS_PIECE,))
"""What a blank sentence is translated to, with certainty."""

SKIPPED = Translation("", math.nan, ())
"""What stands for a sentence that is too long."""


def texts_of(sentences: Iterable[str], what: str, first: int) -> list[str]:
    """The sentences, each as one line, "" for a blank one. UserError for what is not a list, or another iterable, of
    texts that UTF-8 can hold; `what` and a number from `first` on say which one."""
    texts = []
    for number, text in enumerate(items_of(sentences), start=first):
        if not isinstance(text, str):
            raise UserError(f"{what} {number} is no text: {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{what} {number} is not valid text: {error.reason}") from error
        texts.append("" if is_blank_line(text) else one_line(text))
    return texts


def targets_of(targets: Iterable[Target], what: str, first: int) -> list[Target]:
    """As `texts_of`, but pieces as they are, in a list. UserError for special ones where they cannot be."""
    checked: list[Target] = []
    for number, target in enumerate(items_of(targets), start=first):
        if isinstance(target, Translation):
            raise UserError(f"{what} {number} is a Translation: give its .pieces, or its .text")
        if not isinstance(target, list | tuple):
            checked += texts_of([target], what, number)
            continue
        if not all(isinstance(piece, str) for piece in target):
            raise UserError(f"{what} {number} is no list of pieces: {target!r}")
        if {"<pad>", "<s>"} & set(target) or EOS_PIECE in target[:-1]:
            raise UserError(
                f"{what} {number}: of the special pieces only {EOS_PIECE}, at the end, and <unk> can be scored"
            )
        checked.append(list(target))
    return checked


def items_of(given: Iterable[Any]) -> Iterable[Any]:
    """The same. UserError for one text, whose items are characters, and for what has no items."""
    if isinstance(given, str | bytes):
        raise UserError(f"a list of sentences is wanted: [text], not the text {given!r:.60} alone")
    if not isinstance(given, Iterable):
        raise UserError(f"a list of sentences is wanted, not {given!r}")
    return given


def one_line(text: str) -> str:
    """A sentence is one line, though a vocabulary with pieces for single bytes can spell a line break."""
    return text.replace("\n", " ").replace("\r", " ")


def warnings_of(messages: list[str]) -> list[str]:
    """What is said of things of one kind: the first ones, and how many more there are."""
    said = [f"warning: {message}" for message in messages[:MOST_WARNINGS]]
    more = len(messages) - MOST_WARNINGS
    return [*said, f"warning: and {more:,} more of this kind"] if more > 0 else said
