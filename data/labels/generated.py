"""Generated texts with a label, so that a classifier can be trained without a download.

The sentences are those of data/treebanks/generated.py. The label says what the verb of the main clause is about: a
thing, a person, a fact or nothing. Words alone do not tell, as relative clauses and reported ones have verbs too: "the
man who buys a lamp laughs ." is about nothing.
"""

from collections.abc import Iterator

from data.text import Pair
from data.treebanks import generated
from data.treebanks.generated import WORDS
from data.treebanks.trees import Node, Word, tree_in

ABOUT = {"buys": "thing", "buy": "thing", "helps": "person", "help": "person", "laughs": "nothing", "says": "fact"}
"""By name of a group of verbs, the label."""

_LABELS = {verb: label for name, label in ABOUT.items() for verb in WORDS[name][1]}


def pairs(split: str, count: int, seed: int = 0) -> Iterator[Pair]:
    """Yields `count` distinct sentences of a split with their labels, determined by the seed."""
    for sentence, line in generated.pairs(split, count, seed):
        (clause,) = tree_in(line, "tree").children
        yield sentence, label_of(clause)


def label_of(clause: Node) -> str:
    """Returns the label of a clause: that of the verb in its own verb phrase."""
    assert not isinstance(clause, Word)
    (phrase,) = (node for node in clause.children if not isinstance(node, Word) and node.label == "VP")
    (verb,) = (node.text for node in phrase.children if isinstance(node, Word))
    return _LABELS[verb]
