"""The embedded corpus: English-German sentence pairs from a small grammar, so that everything runs without a download.

It is a learning corpus. Its sentences are made to need what makes translation hard (gender, case and number; the verb
second, first or last; separable verbs; compounds; two-and-forty; relative clauses; negation; pronouns that agree with
what they stand for), in a few hundred words, and one translation is right for each. A high score on it says that a
model and its training work, and nothing about translating real text.

    lexicon.py    the words
    phrases.py    noun phrases: declension
    clauses.py    word order
    sentences.py  what is said
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
    """The one split that a sentence belongs to, whatever the seed: a twentieth each for dev and test."""
    share = blake2b(english.encode(), digest_size=2).digest()
    return {0: "dev", 1: "test"}.get(int.from_bytes(share, "big") % 20, "train")


def size() -> int:
    """A lower bound on the number of different English sentences, by counting one form of them.

    "The old aunt buys my red hats": a definite determiner, an adjective and a noun in singular or plural on either side
    of a verb in the present tense. Each choice is a different word, so no two of them are the same.
    """
    determiners = len(set(DEFINITE))
    subjects = determiners * len(ADJECTIVES_LIVING) * 2 * len(PERSONS)
    objects = determiners * len(ADJECTIVES_LIFELESS) * 2 * len(THINGS)
    return subjects * len(ABOUT_THINGS) * objects


def pairs(split: str, count: int, seed: int = 0) -> Iterator[Sentence]:
    """Yields `count` different pairs (English, German) of a split, the same ones for the same seed.

    UserError for a split that there is not, or more pairs than the split is sure to have.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
    available = size() // (2 if split == "train" else 40)  # half of its share, so that drawing stays quick
    if not 0 <= count <= available:
        raise UserError(f"the grammar can give up to {available:,} pairs for {split}, not {count:,}")
    return _pairs(split, count, seed)


def _pairs(split: str, count: int, seed: int) -> Iterator[Sentence]:
    speaker = Speaker(Random(seed))
    seen: set[str] = set()
    while len(seen) < count:
        pair = speaker.sentence()
        if split_of(pair[0]) == split and pair[0] not in seen:
            seen.add(pair[0])
            yield pair
