"""The JSON of a request, checked, and that of its answer."""

import json
from collections.abc import Sequence
from typing import Any

from data.text import is_blank_line
from experiments.sentences import as_json
from experiments.serving.batching import Answer, Wanted
from transformer.config import UserError, counted

FIELDS = {"text": str, "texts": list, "prefix": str, "prefixes": list, "n_best": int}
"""The fields of a request, with their types."""

NAMES = {str: "a string", list: "a list of strings", int: "a whole number"}


def wanted_of(body: bytes, max_sentences: int, max_n_best: int) -> Wanted:
    """Reads a request. UserError if it is not one, or asks for too much."""
    given = fields_of(body)
    if ("text" in given) == ("texts" in given):
        raise UserError('give either "text", a string, or "texts", a list of strings')
    one = "text" in given
    if (wrong := "prefixes" if one else "prefix") in given:
        raise UserError(f'"prefix" belongs to "text", and "prefixes" to "texts": {wrong!r} does not fit')
    texts = [given["text"]] if one else given["texts"]
    prefixes = [given["prefix"]] if "prefix" in given else given.get("prefixes")
    if not texts:
        raise UserError('"texts" is empty')
    if len(texts) > max_sentences:
        raise UserError(f"{counted(len(texts), 'text')} in one request; the limit is {max_sentences:,}")
    n_best = given.get("n_best", 1)
    if not 1 <= n_best <= max_n_best:
        raise UserError(f'"n_best" must be from 1 to {max_n_best}, not {n_best}')
    for number, text in enumerate(texts, start=1):
        if is_blank_line(text):
            raise UserError(f"line {number} is blank")
    return Wanted(texts, n_best, prefixes)


def fields_of(body: bytes) -> dict[str, Any]:
    """Returns the fields of a JSON object. UserError if it is none, or a field is unknown or of another type."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request is not JSON in UTF-8: {error}") from error
    if not isinstance(given, dict):
        raise UserError("the request is not a JSON object")
    for name, value in given.items():
        if name not in FIELDS:
            raise UserError(f"there is no field {name!r:.50}; the fields are: {', '.join(FIELDS)}")
        of_type = type(value) is FIELDS[name]  # True is no number here
        if not of_type or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise UserError(f'"{name}" must be {NAMES[FIELDS[name]]}')
    return given


def json_of(answer: Answer) -> dict[str, Any]:
    """Returns the answer as JSON: for each text an object as of `translate --json`, without the log-probabilities."""
    return {"results": numbered(answer), "warnings": answer.warnings}


def numbered(answer: Answer) -> Sequence[dict[str, Any]]:
    """Returns the translations of each text, with its number in the request."""
    return [
        {"line": number, "translations": [as_json(one) for one in best]}
        for number, best in enumerate(answer.translations, start=1)
    ]
