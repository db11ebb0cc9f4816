"""Sentences of documents: which are translated together, and what is before each (data/documents.py).

Of documents, a blank sentence is the boundary between two, and so is one that is skipped.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data.text import is_blank_line
from transformer.config import EOS, PAD
from transformer.decode import Hypotheses, length_penalty


class Both(NamedTuple):
    """The ids of a sentence and of its translation, without EOS."""

    source: list[int]
    target: list[int]


def history_of(sources: Sequence[list[int]]) -> list[range]:
    """Returns for each sentence the indices of those before it in its document.

    Args:
        sources: ids with EOS; only EOS of a blank sentence, and none of one that is skipped.
    """
    start, found = 0, []
    for i, ids in enumerate(sources):
        if len(ids) <= 1:
            start = i + 1
            found.append(range(i, i))
        else:
            found.append(range(start, i))
    return found


def rounds(sources: Sequence[list[int]]) -> list[list[int]]:
    """Returns the indices of what can be translated together: the first sentences of all documents, the second, ..."""
    found: list[list[int]] = [[]]
    for i, before in enumerate(history_of(sources)):
        if len(before) == len(found):
            found.append([])
        found[len(before)].append(i)
    return found


def begun_by(
    before: Sequence[Both], source: Sequence[int], target: Sequence[int], longest: int, slack: float = math.inf
) -> list[Both]:
    """Returns the last of the sentences before one that leave room for it: `longest` ids a side, as in training.

    Args:
        target: the ids of its translation; none if they are not known.
        slack: by how many ids the translations before it may be longer than their sources. With more, something went
            wrong there, and the output would have too little room.
    """
    kept = list(before)
    while kept:
        in_source = sum(len(pair.source) + 1 for pair in kept)
        in_target = sum(len(pair.target) + 1 for pair in kept)
        if max(in_source + len(source), in_target + len(target)) <= longest and in_target - in_source <= slack:
            break
        kept.pop(0)
    return kept


def in_context(
    before: Sequence[Both], source: Sequence[int], target: Sequence[int], in_source: int, in_target: int
) -> tuple[list[int], list[int]]:
    """Joins sentences with those before them, by the ids of the separators of the two sides."""
    begun = (
        [i for pair in before for i in (*pair.source, in_source)],
        [i for pair in before for i in (*pair.target, in_target)],
    )
    return [*begun[0], *source], [*begun[1], *target]


def without_begin(found: Hypotheses, hidden: int, alpha: float, ranked: bool) -> Hypotheses:
    """Leaves out the first `hidden` tokens of the hypotheses of a sentence, [K, L], which are those before it.

    The scores become those of the other tokens, given these: log P / ((5 + length) / 6)^alpha.

    Args:
        ranked: sort them again: those that ended first, best first.
    """
    assert found.log_probs is not None
    tokens: Any = np.asarray(found.tokens)[:, hidden:]
    log_probs: Any = np.asarray(found.log_probs)[:, hidden:]
    written = tokens != PAD
    totals = np.where(written, log_probs, 0.0).sum(axis=1)
    penalties = np.asarray(length_penalty(written.sum(axis=1), alpha))
    scores: Any = np.where(np.isneginf(found.scores), -np.inf, totals / penalties)
    order = np.lexsort((-scores, ~(tokens == EOS).any(axis=1))) if ranked else np.arange(len(scores))
    return Hypotheses(tokens[order], scores[order], log_probs[order])


def following(
    before: Sequence[tuple[str, str]], sentences: Sequence[str], translations: Sequence[str | None]
) -> list[tuple[str, str]]:
    """Returns what is before the next sentence in its document, after some more sentences with their translations.

    Args:
        translations: None for a sentence that was skipped.
    """
    known = list(before)
    for sentence, translation in zip(sentences, translations, strict=True):
        if translation is None or is_blank_line(sentence):
            known = []
        else:
            known.append((sentence, translation))
    return known
