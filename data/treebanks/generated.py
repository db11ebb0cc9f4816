"""Random trees of a small grammar, so that a parser can be trained without a treebank.

The grammar is context-free, with a probability for each rule, and ambiguous as English is: "near the house" belongs to
the verb or to its object. A high score shows that a model and its training work. It says nothing about the parsing of
real text.
"""

from collections.abc import Iterator
from random import Random

from data.grammar import lexicon, split_of
from data.grammar.lexicon import Noun, Verb
from data.text import Pair
from data.treebanks.trees import ROOT, Node, Tree, Word, pair_of
from transformer.config import UserError

RULES: dict[str, list[tuple[float, str]]] = {
    ROOT: [(0.8, "S"), (0.2, "SQ")],
    "S": [(0.8, "NP VP ."), (0.2, "PP , NP VP .")],
    "SQ": [(1.0, "did NP VP-base ?")],
    "NP": [(0.5, "the man"), (0.25, "the old man"), (0.15, "NP-person PP-of"), (0.1, "NP-person SBAR-who")],
    "NP-person": [(1.0, "the man")],
    "NP-thing": [(0.6, "the lamp"), (0.2, "the old lamp"), (0.2, "NP-one PP-of")],
    "NP-one": [(1.0, "the lamp")],
    "NP-place": [(0.8, "the house"), (0.2, "the old house")],
    "VP": [
        (0.3, "buys NP-thing"),
        (0.2, "buys NP-thing PP"),
        (0.2, "helps NP"),
        (0.15, "laughs"),
        (0.15, "says SBAR"),
    ],
    "VP-base": [(0.5, "buy NP-thing"), (0.2, "buy NP-thing PP"), (0.3, "help NP")],
    "SBAR": [(1.0, "that S-fact")],
    "S-fact": [(1.0, "NP VP")],
    "SBAR-who": [(1.0, "WHNP S-who")],
    "WHNP": [(1.0, "who")],
    "S-who": [(1.0, "VP")],
    "PP": [(1.0, "near NP-place")],
    "PP-of": [(1.0, "from NP-place")],
}
"""By constituent, the probabilities of what it consists of: constituents, and names of words. What follows a hyphen
distinguishes constituents with the same label."""


def _of(nouns: list[Noun]) -> list[str]:
    return [noun.singular for noun in nouns if " " not in noun.singular]


def _plain(verbs: list[Verb]) -> list[Verb]:
    return [verb for verb in verbs if not verb.particle]


WORDS: dict[str, tuple[str, list[str]]] = {
    ".": (".", ["."]),
    "?": (".", ["?"]),
    ",": (",", [","]),
    "the": ("DT", ["the", "a", "every", "this"]),
    "old": ("JJ", [adjective.english for adjective in lexicon.ADJECTIVES_LIVING]),
    "man": ("NN", _of(lexicon.PERSONS)),
    "lamp": ("NN", _of(lexicon.THINGS)),
    "house": ("NN", _of(lexicon.PLACES)),
    "near": ("IN", ["near", "in", "behind"]),
    "from": ("IN", ["from", "in", "near"]),
    "that": ("IN", ["that"]),
    "who": ("WP", ["who"]),
    "did": ("VBD", ["did"]),
    "buys": ("VBZ", [verb.third for verb in _plain(lexicon.ABOUT_THINGS)]),
    "buy": ("VB", [verb.base for verb in _plain(lexicon.ABOUT_THINGS)]),
    "helps": ("VBZ", [verb.third for verb in _plain(lexicon.ABOUT_PEOPLE)]),
    "help": ("VB", [verb.base for verb in _plain(lexicon.ABOUT_PEOPLE)]),
    "laughs": ("VBZ", [verb.third for verb in _plain(lexicon.INTRANSITIVE)]),
    "says": ("VBZ", [verb.third for verb in lexicon.ABOUT_FACTS]),
}
"""By name, a tag and the words that have it."""

LONGEST = 30
"""The most words that a sentence may have."""

MOST = 1_000_000
"""The most trees of a split: far fewer than there are, so that distinct ones are found fast."""


def tree(random: Random) -> Tree:
    """Returns a random tree. Its length is not limited."""
    return Tree(ROOT, _children(ROOT, random))


def _children(name: str, random: Random) -> tuple[Node, ...]:
    # `random.random` is the only method whose sequence Python guarantees across versions.
    at, parts = random.random(), ""
    for probability, parts in RULES[name]:  # noqa: B007
        at -= probability
        if at < 0:
            break
    return tuple(_node(part, random) for part in parts.split())


def _node(name: str, random: Random) -> Node:
    if name in RULES:
        return Tree(name.partition("-")[0], _children(name, random))
    tag, words = WORDS[name]
    return Word(tag, words[int(random.random() * len(words))])


def pairs(split: str, count: int, seed: int = 0) -> Iterator[Pair]:
    """Yields `count` distinct sentences of a split with their bracketed trees, determined by the seed.

    UserError for more than MOST.
    """
    if not 0 <= count <= MOST:
        raise UserError(f"up to {MOST:,} trees can be generated for {split}, not {count:,}")
    random = Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        sentence, line = pair_of(tree(random))
        if split_of(sentence) == split and sentence not in seen and sentence.count(" ") < LONGEST:
            seen.add(sentence)
            yield sentence, line
