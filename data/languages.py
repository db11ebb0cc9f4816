"""The languages of a corpus, as people write their codes (BCP 47): en-de, EN-DE, nds-de, zh-Hans-en, pt-BR-en."""

import re
from typing import NamedTuple, Self

from transformer.config import UserError

# Language, then perhaps a script, a region and variants: zh-Hant-TW, sl-rozaj.
_TAG = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|\d{3}))?(-([a-z\d]{5,8}|\d[a-z\d]{3}))*")
_TAG_IN_ANY_CASE = re.compile(_TAG.pattern, re.IGNORECASE)

# BCP 47 has the shorter code where there is one. Only those that decide how something is scored.
_SHORTER = {"eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "jpn": "ja", "kor": "ko", "zho": "zh"}
_SHORTER |= {"chi": "zh", "cmn": "zh", "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bod": "bo", "dzo": "dz"}


class Languages(NamedTuple):
    """Of the two sides of a corpus, each as BCP 47 writes it."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Two codes with a hyphen between. UserError for anything else, and where a code could be of either side."""
        if re.fullmatch(r"[a-z]{2,3}-[A-Z]{2}", str(text)):
            raise UserError(f"{text!r} is one language, and a region of it: the languages are two, as in en-de")
        parts = str(text).replace("_", "-").split("-")
        halves = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
        for tag in (_TAG, _TAG_IN_ANY_CASE):  # capitals tell the region of en-US-de from a language
            found = [both for both in halves if all(map(tag.fullmatch, both))]
            if len(found) == 1:
                return cls(*map(_canonical, found[0]))
            if found:
                ways = " or ".join(" and ".join(both) for both in found)
                raise UserError(
                    f"the languages {text!r} can be read as {ways}: write regions in capitals, as in en-US-de"
                )
        raise UserError(f"the languages are two codes, as in en-de, nds-de or zh-Hans-en, not {text!r}")


def primary(language: str) -> str:
    """The language alone, without script, region or variant: zh of zh-Hans."""
    return language.split("-")[0]


def _canonical(tag: str) -> str:
    first, *rest = tag.split("-")
    cased = {4: str.title, 2: str.upper}
    language = _SHORTER.get(first.lower(), first.lower())
    return "-".join([language, *(cased.get(len(part), str.lower)(part) for part in rest)])
