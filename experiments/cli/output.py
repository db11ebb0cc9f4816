"""The lines that `translate` writes: texts, n-best lists, or JSON."""

import json
import math
from collections.abc import Iterator, Sequence

from experiments.cli.flags import Translating
from experiments.sentences import Translation
from experiments.translator import Translator


def lines_for(
    translator: Translator,
    given: Translating,
    sentences: Sequence[str | None],
    results: Sequence[Sequence[Translation]],
    first: int,
) -> Iterator[str]:
    """Yields the lines of output for sentences with their translations, as the flags say.

    Args:
        sentences: None for one that was skipped.
        first: line number of the first sentence.
    """
    if not given.json:
        for number, best in enumerate(results, start=first):
            yield from (shown(found, number, given) for found in best)
        return
    each = [(line or "", found) for line, best in zip(sentences, results, strict=True) for found in best]
    sources = translator.encode([line for line, _ in each])
    log_probs = iter(translator.forced(sources, [translator.tokenizer.ids(found.pieces) for _, found in each]))
    for number, best in enumerate(results, start=first):
        found = [as_json(one, next(log_probs)) for one in best]
        yield json.dumps({"line": number, "translations": [one for one in found if one]}, ensure_ascii=False)


def shown(found: Translation, number: int, given: Translating) -> str:
    """Formats a translation as a line of text."""
    text = " ".join(found.pieces) if given.pieces else found.text
    if given.n_best == 1:
        return text
    mark = " ||| cut off" if found.pieces and not found.finished else ""
    return f"{number} ||| {found.score:.4f} ||| {text}{mark}"


def as_json(found: Translation, log_probs: list[float]) -> dict[str, object]:
    """Returns a translation as a JSON object; an empty one for a sentence that was skipped."""
    if not found.pieces:
        return {}
    return {
        "text": found.text,
        "score": number_of(found.score),
        "finished": found.finished,
        "pieces": list(found.pieces),
        "log_probs": [number_of(value) for value in log_probs],
    }


def number_of(value: float) -> float | None:
    """Rounds a number to what does not depend on the batch, nearly; None if it is not finite, as JSON has no such."""
    return round(value, 6) if math.isfinite(value) else None
