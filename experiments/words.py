"""Words and subword pieces: what a translation copies from its source, and which words it is aligned with."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from data.tokenizer import Tokenizer

Links = list[tuple[int, int]]
"""A word alignment: pairs of a source word and a target word, counted from 0."""


def copied(pieces: Sequence[str], surfaces: Sequence[str], source: Sequence[str], pointed: Sequence[int]) -> list[str]:
    """Replaces each <unk> of a translation by the source word that it attends to.

    A word of the source that is itself partly unknown is not copied whole: the <unk> stands for those characters that
    it attends to, and the rest of the word is spelled out next to it.

    Args:
        pieces: of the translation.
        surfaces: the source text, split into its pieces; for <unk>, its characters.
        source: the pieces of the source.
        pointed: for each piece of the translation, the position of the source piece that it attends to.

    Returns:
        The pieces of the translation, with text in place of each <unk>.
    """
    words = "".join(surfaces).split("▁")
    word_at = list(accumulate(surface.startswith("▁") for surface in surfaces))
    both = zip(surfaces, source, word_at, strict=False)
    text = [surface if piece == "<unk>" else words[word] for surface, piece, word in both]
    return [text[at] if piece == "<unk>" else piece for piece, at in zip(pieces, pointed, strict=False)]


def words_of_pieces(tokenizer: Tokenizer, pieces: Sequence[str], text: str) -> list[int]:
    """Returns for each piece of a text, without EOS, the whitespace-separated word that it belongs to.

    A piece belongs to the word of its first visible character; one without any, to the word of the next character if
    it begins with a space, and else to that of the last one (the second byte of a character). -1: to no word.

    Args:
        pieces: as sentencepiece spells the text; other strings stand for themselves.
    """
    words = [number for number, word in enumerate(text.split()) for c in word if c != "▁"]
    if not words:
        return [-1] * len(pieces)
    counts = [visible(tokenizer.join(pieces[:end])) for end in range(len(pieces) + 1)]
    # Part of a character's bytes can decode to more characters than all of them.
    counts = list(accumulate(reversed(counts), min))[::-1]
    starts = [
        before if after > before or piece.startswith("▁") else before - 1
        for piece, before, after in zip(pieces, counts, counts[1:], strict=False)
    ]
    return [words[min(max(start, 0), len(words) - 1)] for start in starts]


def visible(text: str) -> int:
    """Number of characters of a text that belong to words."""
    return sum(not c.isspace() and c != "▁" for c in text)


def aligned(weights: np.ndarray, source: Sequence[int], target: Sequence[int]) -> Links:
    """Aligns each target word with the source word that it attends to most, summed over the pieces of both.

    Args:
        weights: attention [T, S] of target to source pieces. Rows and columns after those of words are ignored.
        source: the word of each source piece, or -1.
        target: the word of each target piece, or -1.

    Returns:
        One link for each target word, in order; of several source words with equal sums, to the first.
    """
    if max(source, default=-1) < 0 or max(target, default=-1) < 0:
        return []
    sums = np.zeros((max(target) + 1, max(source) + 1))
    rows, columns = np.array(target), np.array(source)
    np.add.at(sums, (rows[:, None], columns[None, :]), weights[: len(target), : len(source)])
    sums[:, sorted(set(range(sums.shape[1])) - set(source))] = -1.0  # words without pieces
    return [(int(sums[word].argmax()), word) for word in sorted(set(target))]


def pharaoh(links: Iterable[tuple[int, int]]) -> str:
    """Formats a word alignment as "i-j i-j ...", source first."""
    return " ".join(f"{i}-{j}" for i, j in links)
