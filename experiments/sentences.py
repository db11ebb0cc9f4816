"""Inputs and outputs of a translator: sentences, and translations as text or as subword pieces."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from data.text import is_blank_line
from transformer.config import UserError, counted

EOS_PIECE = "</s>"

# Number of warnings of one kind that are logged line by line; the rest are only counted.
MOST_WARNINGS = 5

BadLines = Literal["skip", "refuse"]
"""How to handle a line that cannot be decoded or is too long: skip it with a warning, or raise an error."""

Target = str | Sequence[str]
"""A given translation: its text, or the exact subword pieces, ending in `</s>` if it is finished."""


class Translation(NamedTuple):
    """One hypothesis of a search."""

    text: str
    score: float
    """log P(pieces | source) / ((5 + length) / 6)^alpha; the length counts pieces. nan for a skipped sentence."""
    pieces: tuple[str, ...]
    """The pieces that the search found. The same text can be spelled with other pieces, with another probability."""
    copied: tuple[str, ...] = ()
    """The pieces with what was copied in place of each <unk>, which spell the text; empty if nothing was copied."""
    log_probs: tuple[float, ...] = ()
    """The log-probability of each piece; empty if they were not asked for."""

    @property
    def finished(self) -> bool:
        """Whether the hypothesis ends in EOS. If not, it was cut off at the length limit."""
        return self.pieces[-1:] == (EOS_PIECE,)


BLANK = Translation("", 0.0, (EOS_PIECE,))
"""The translation of a blank sentence, which has probability 1."""

SKIPPED = Translation("", math.nan, ())
"""The placeholder for a sentence that is too long."""


def as_json(found: Translation) -> dict[str, object]:
    """Returns a translation as a JSON object; an empty one for a sentence that was skipped."""
    if not found.pieces:
        return {}
    described: dict[str, object] = {
        "text": found.text,
        "score": number_of(found.score),
        "finished": found.finished,
        "pieces": list(found.pieces),
    }
    if found.log_probs:
        described["log_probs"] = [number_of(value) for value in found.log_probs]
    return described


def number_of(value: float) -> float | None:
    """Rounds a number; None if it is not finite, since JSON has no such numbers."""
    return round(value, 6) if math.isfinite(value) else None


def first_of_each_text(found: Iterable[Translation]) -> list[Translation]:
    """Returns the translations in order, keeping only the first one of each text."""
    first: dict[str, Translation] = {}
    for one in found:
        first.setdefault(one.text, one)
    return list(first.values())


def texts_of(sentences: Iterable[str], what: str, first: int) -> list[str]:
    """Checks sentences and returns each as one line, "" for a blank one.

    UserError unless they are an iterable of strings that UTF-8 can encode. Messages name a sentence by `what` and its
    number, counted from `first`.
    """
    texts = []
    for number, text in enumerate(items_of(sentences), start=first):
        if not isinstance(text, str):
            raise UserError(f"{what} {number} is not a string: {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{what} {number} cannot be encoded as UTF-8: {error.reason}") from error
        texts.append("" if is_blank_line(text) else one_line(text))
    return texts


def targets_of(targets: Iterable[Target], what: str, first: int) -> list[Target]:
    """Checks translations like `texts_of`; pieces are returned unchanged, as a list.

    UserError for a special piece at a position where it cannot be scored.
    """
    checked: list[Target] = []
    for number, target in enumerate(items_of(targets), start=first):
        if isinstance(target, Translation):
            raise UserError(f"{what} {number} is a Translation: give its .pieces, or its .text")
        if not isinstance(target, list | tuple):
            checked += texts_of([target], what, number)
            continue
        if not all(isinstance(piece, str) for piece in target):
            raise UserError(f"{what} {number} is not a list of pieces: {target!r}")
        if {"<pad>", "<s>"} & set(target) or EOS_PIECE in target[:-1]:
            raise UserError(
                f"{what} {number}: the only special pieces that can be scored are <unk>, and {EOS_PIECE} at the end"
            )
        checked.append(list(target))
    return checked


def phrases_of(constraints: Iterable[Sequence[Target]], what: str, first: int) -> list[list[Target]]:
    """Checks the phrases of each sentence like `targets_of`. UserError for a line that is not a list of phrases."""
    checked = []
    for number, line in enumerate(items_of(constraints), start=first):
        if not isinstance(line, list | tuple):
            raise UserError(f"{what} {number} is not a list of phrases: {line!r}")
        checked.append([phrase for one in line for phrase in targets_of([one], what, number) if phrase])
    return checked


def counted_alike(sentences: Sequence[Any], given: Sequence[Any], thing: str, plural: str) -> None:
    """Raises UserError unless there is one of `given` for each sentence."""
    if len(given) != len(sentences):
        raise UserError(f"{counted(len(sentences), 'line')} but {counted(len(given), thing, plural)}: give one each")


def items_of(given: Iterable[Any]) -> Iterable[Any]:
    """Returns `given` unchanged. UserError for a single string, whose items are characters, and for a non-iterable."""
    if isinstance(given, str | bytes):
        raise UserError(f"expected a list of sentences, [text], not a single string: {given!r:.60}")
    if not isinstance(given, Iterable):
        raise UserError(f"expected a list of sentences, not {given!r}")
    return given


def one_line(text: str) -> str:
    """Replaces line breaks by spaces: a vocabulary with pieces for single bytes can produce them in a sentence."""
    return text.replace("\n", " ").replace("\r", " ")


def warnings_of(messages: list[str]) -> list[str]:
    """Formats warnings of one kind: the first MOST_WARNINGS in full, then the number of the others."""
    lines = [f"warning: {message}" for message in messages[:MOST_WARNINGS]]
    more = len(messages) - MOST_WARNINGS
    return [*lines, f"warning: and {more:,} more of this kind"] if more > 0 else lines
