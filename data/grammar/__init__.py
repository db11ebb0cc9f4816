"""The generated corpus: English-German sentence pairs from a small grammar, so that everything runs without a download.

It is a toy corpus with a vocabulary of a few hundred words, and each sentence has exactly one correct translation. The
sentences cover typical difficulties of translation: gender, case and number; German verb-second, verb-first and
verb-final order; separable verbs; compounds; numerals such as zweiundvierzig; relative clauses; negation; pronouns that
agree with their antecedents. A high score shows that a model and its training work. It says nothing about the
translation of real text.

    lexicon.py    words
    phrases.py    noun phrases: declension and agreement
    clauses.py    clauses: word order
    sentences.py  random sentences
    documents.py  random documents, whose pronouns refer to the sentence before
"""

from collections.abc import Iterator
from hashlib import blake2b
from random import Random

from data.grammar.lexicon import ABOUT_THINGS, ADJECTIVES_LIFELESS, ADJECTIVES_LIVING, PERSONS, THINGS
from data.grammar.phrases import DEFINITE
from data.grammar.sentences import Sentence, Speaker
from transformer.config import UserError

SPLITS = ("train", "dev", "test")


def split_of(english: str) -> str:
    """Returns the split of a sentence, independent of the seed: 1/20 each for dev and test."""
    share = blake2b(english.encode(), digest_size=2).digest()
    return {0: "dev", 1: "test"}.get(int.from_bytes(share, "big") % 20, "train")


def size() -> int:
    """A lower bound on the number of distinct English sentences: the number of sentences of one form.

    The form is that of "The old aunt buys my red hats": on either side of a verb in the present tense, a definite
    determiner, an adjective and a singular or plural noun. Each choice changes a word, so all of these are distinct.
    """
    determiners = len(set(DEFINITE))
    subjects = determiners * len(ADJECTIVES_LIVING) * 2 * len(PERSONS)
    objects = determiners * len(ADJECTIVES_LIFELESS) * 2 * len(THINGS)
    return subjects * len(ABOUT_THINGS) * objects


def pairs(split: str, count: int, seed: int = 0) -> Iterator[Sentence]:
    """Yields `count` distinct pairs (English, German) of a split, determined by the seed.

    UserError for an unknown split, or for more pairs than the split is guaranteed to contain.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
    # Half of the split's share, so that sampling distinct pairs stays fast.
    available = size() // (2 if split == "train" else 40)
    if not 0 <= count <= available:
        raise UserError(f"the grammar can generate up to {available:,} pairs for {split}, not {count:,}")
    return _pairs(split, count, seed)


def _pairs(split: str, count: int, seed: int) -> Iterator[Sentence]:
    speaker = Speaker(Random(seed))
    seen: set[str] = set()
    while len(seen) < count:
        pair = speaker.sentence()
        if split_of(pair[0]) == split and pair[0] not in seen:
            seen.add(pair[0])
            yield pair
