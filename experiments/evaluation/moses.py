"""The tokenisation behind the paper's German BLEU, so that its scores and ours can be compared.

The authors' script, get_ende_bleu.sh of tensor2tensor, has three steps, the first two of which are Moses' programs:

    1. replace-unicode-punctuation.perl, only on the hypothesis: “ ” ’ … and full-width forms become ASCII;
       „ ‚ ‘ « » – — − ´ and no-break spaces stay
    2. tokenizer.perl -l de
    3. words split at hyphens: "US-Wahl" counts as three tokens, two of which are easy

The reference is newstest2014 in its tokenised distribution, which does not go through the first step. Typographic
quotes in a hypothesis therefore cannot match those of the reference, and the score includes this effect. The first two
steps use sacremoses, which gives the tokens of the Moses programs of 2017. Moses' escapes (&amp; for &) are omitted,
since both sides would have them. The authors published no script for French, so French has no such score.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacremoses import MosesPunctNormalizer, MosesTokenizer


def hypothesis_tokens(line: str) -> str:
    """Tokenises a line of a German translation as the script does; returns the tokens joined by spaces."""
    return reference_tokens(_normaliser().replace_unicode_punct(line))


def reference_tokens(line: str) -> str:
    """Tokenises a line of a German reference, whose punctuation is not replaced."""
    tokens: str = _tokeniser().tokenize(line, return_str=True, escape=False)
    return split_compounds(tokens)


def split_compounds(line: str) -> str:
    """Splits words at hyphens: "US-Wahl" becomes "US ##AT##-##AT## Wahl"."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


@cache
def _tokeniser() -> "MosesTokenizer":
    from sacremoses import MosesTokenizer  # imported here, since most commands score nothing

    return MosesTokenizer("de")


@cache
def _normaliser() -> "MosesPunctNormalizer":
    from sacremoses import MosesPunctNormalizer

    return MosesPunctNormalizer()
