"""The lines that `translate` writes: texts, n-best lists, or JSON."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments.cli.flags import Translating
from experiments.sentences import Translation, as_json
from experiments.translator import Translator
from experiments.words import Links
from transformer.config import UserError
from transformer.variants.decoding.alignment import Head


class Line(NamedTuple):
    """A line of output, with the word alignments of the translations in it, if they are asked for."""

    text: str
    alignments: list[Links]


def lines_for(
    translator: Translator,
    given: Translating,
    sentences: Sequence[str | None],
    results: Sequence[Sequence[Translation]],
    first: int,
) -> Iterator[Line]:
    """Yields the lines of output for sentences with their translations, as the flags say.

    Args:
        sentences: None for one that was skipped.
        first: line number of the first sentence.
    """
    each = [(line or "", found) for line, best in zip(sentences, results, strict=True) for found in best]
    links: list[Links] = [[] for _ in each]
    if given.alignments:
        links = translator.align([line for line, _ in each], [found for _, found in each], head_of(given))
    aligned = iter(links)
    if not given.json:
        for number, best in enumerate(results, start=first):
            yield from (Line(shown(found, number, given), [next(aligned)]) for found in best)
        return
    for number, best in enumerate(results, start=first):
        here = [next(aligned) for _ in best]
        objects = [as_json(found) for found in best]
        if given.alignments:
            objects = [one | {"alignment": pairs} if one else one for one, pairs in zip(objects, here, strict=True)]
        line = {"line": number, "translations": [one for one in objects if one]}
        yield Line(json.dumps(line, ensure_ascii=False), here)


def head_of(given: Translating) -> Head | None:
    """Returns the head of --alignment-head LAYER.HEAD, which counts from 1."""
    if given.alignment_head is None:
        return None
    if not given.alignments:
        raise UserError("--alignment-head says how --alignments FILE are made: it needs that flag")
    numbers = re.fullmatch(r"([1-9]\d{0,5})\.([1-9]\d{0,5})", given.alignment_head, re.ASCII)
    if not numbers:
        raise UserError(f"--alignment-head takes LAYER.HEAD, counted from 1, such as 2.1, not {given.alignment_head!r}")
    return Head(int(numbers[1]) - 1, int(numbers[2]) - 1)


def shown(found: Translation, number: int, given: Translating) -> str:
    """Formats a translation as a line of text."""
    text = " ".join(found.pieces) if given.pieces else found.text
    if given.n_best == 1:
        return text
    mark = " ||| cut off" if found.pieces and not found.finished else ""
    return f"{number} ||| {found.score:.4f} ||| {text}{mark}"
