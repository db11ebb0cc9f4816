"""The tokenisation behind the paper's German BLEU, so that its number can be set beside ours.

The authors' script, get_ende_bleu.sh of tensor2tensor, has three steps, two of them Moses' own programs:

    1. replace-unicode-punctuation.perl, on the hypothesis alone: “ ” ’ … and full-width forms become ASCII;
       „ ‚ ‘ « » – — − ´ and no-break spaces stay
    2. tokenizer.perl -l de
    3. words split at their hyphens: "US-Wahl" counts as three tokens, two of which are easy

The reference is newstest2014 as it was handed out tokenised, so it never goes through the first step: a hypothesis
with typographic quotes can then not match the reference's, and that is part of the number. The first two steps are
sacremoses', which gives the tokens of Moses' programs of 2017. Moses' escapes (&amp; for &) are left out: both sides
have them. For French the authors published no script, so there is no such number.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacremoses import MosesPunctNormalizer, MosesTokenizer


def hypothesis_tokens(line: str) -> str:
    """What the script counts n-grams of in a German translation: tokens with a space between."""
    return reference_tokens(_normaliser().replace_unicode_punct(line))


def reference_tokens(line: str) -> str:
    """The same of a German reference, whose punctuation stays as it is."""
    tokens: str = _tokeniser().tokenize(line, return_str=True, escape=False)
    return split_compounds(tokens)


def split_compounds(line: str) -> str:
    """Takes words apart at their hyphens: "US-Wahl" becomes "US ##AT##-##AT## Wahl"."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


@cache
def _tokeniser() -> "MosesTokenizer":
    from sacremoses import MosesTokenizer  # here: most verbs score nothing

    return MosesTokenizer("de")


@cache
def _normaliser() -> "MosesPunctNormalizer":
    from sacremoses import MosesPunctNormalizer

    return MosesPunctNormalizer()
