"""Parses the languages of a corpus, given as a pair of BCP 47 codes: en-de, EN-DE, nds-de, zh-Hans-en, pt-BR-en."""

import re
from typing import NamedTuple, Self

from transformer.config import UserError

# Language, then optionally a script, a region and variants: zh-Hant-TW, sl-rozaj.
_TAG = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|\d{3}))?(-([a-z\d]{5,8}|\d[a-z\d]{3}))*")
_TAG_IN_ANY_CASE = re.compile(_TAG.pattern, re.IGNORECASE)

# BCP 47 prefers two-letter codes where they exist. Only languages that affect scoring are listed.
_SHORTER = {"eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "jpn": "ja", "kor": "ko", "zho": "zh"}
_SHORTER |= {"chi": "zh", "cmn": "zh", "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bod": "bo", "dzo": "dz"}


class Languages(NamedTuple):
    """Languages of the two sides of a corpus, as canonical BCP 47 codes."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses two codes joined by a hyphen. UserError for anything else, or if the split is ambiguous."""
        if re.fullmatch(r"[a-z]{2,3}-[A-Z]{2}", str(text)):
            raise UserError(f"{text!r} is one language with a region: give two languages, as in en-de")
        parts = str(text).replace("_", "-").split("-")
        halves = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
        for tag in (_TAG, _TAG_IN_ANY_CASE):  # uppercase distinguishes the region in en-US-de from a language
            found = [both for both in halves if all(map(tag.fullmatch, both))]
            if len(found) == 1:
                return cls(*map(_canonical, found[0]))
            if found:
                ways = " or ".join(" and ".join(both) for both in found)
                raise UserError(
                    f"the languages {text!r} can be read as {ways}: write regions in uppercase, as in en-US-de"
                )
        raise UserError(f"the languages must be two codes, as in en-de, nds-de or zh-Hans-en, not {text!r}")


def primary(language: str) -> str:
    """The language without script, region or variant: zh for zh-Hans."""
    return language.split("-")[0]


def _canonical(tag: str) -> str:
    first, *rest = tag.split("-")
    cased = {4: str.title, 2: str.upper}
    language = _SHORTER.get(first.lower(), first.lower())
    return "-".join([language, *(cased.get(len(part), str.lower)(part) for part in rest)])
