"""Labels as targets: a line of labels separated by spaces, one for a text or one for each of its words.

Words are what spaces separate. A label of a word belongs to the first piece of the word; the other pieces have PAD in
its place, which the loss leaves out. So a target has its labels where the source has the words (transformer/variants/
classifier.py).
"""

import re
from collections.abc import Iterator, Sequence

from data.text import SEPARATOR
from transformer.config import EOS, PAD, UserError, counted

MARKS = {"classification": "<label>", "tagging": "<labels>", "entities": "<labels>"}
"""By task (data.task), a piece that says of a vocabulary that its pieces are labels: of texts, or of their words."""

OF_WORDS = "<labels>"
"""The mark of labels of words."""

# Only ASCII has spaces between words: a word may contain a no-break space.
_WORD = re.compile(r"[^ \t\r\n\f\v]+")


def words_of(text: str) -> list[str]:
    """Splits a text at its spaces. For sentencepiece "▁" is a space: it is read as "_", so that no word vanishes."""
    return _WORD.findall(text.replace("▁", "_"))


def read_as(text: str, mark: str) -> str:
    """Returns a text as a model that labels it reads it: its words, or for a pair of texts both with SEPARATOR."""
    return " ".join(words_of(text)) if mark == OF_WORDS else text.replace("\t", f" {SEPARATOR} ")


def check_labels(text: str, labels: str, mark: str) -> None:
    """Raises UserError unless there is one label for a text, or one for each of its words."""
    found = words_of(labels)
    if mark != OF_WORDS:
        if len(found) != 1:
            raise UserError(f"a text has one label, which is one word, not {labels[:60]!r}")
    elif len(found) != len(words := words_of(text)):
        counts = f"{counted(len(found), 'label')} for {counted(len(words), 'word')}"
        raise UserError(f"{counts}, where each word needs one: {text[:100]!r}")


def starts_of(lengths: Sequence[int], width: int) -> list[int]:
    """Returns 1 for the first piece of each word and 0 elsewhere, of `width` places.

    Args:
        lengths: the number of pieces of each word.
    """
    places = [place for length in lengths for place in [1] + [0] * (length - 1)]
    return places + [0] * (width - len(places))


def spread(labels: Sequence[int], lengths: Sequence[int]) -> Iterator[int]:
    """Yields the ids of the labels of words in the places of the words' pieces, then EOS.

    Args:
        labels: ids, one for each word.
        lengths: the number of pieces of each word.
    """
    for label, length in zip(labels, lengths, strict=True):
        yield label
        yield from [PAD] * (length - 1)
    yield EOS
