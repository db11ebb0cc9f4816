"""The generated treebank."""

from collections import Counter

import pytest

from data.treebanks import generated
from data.treebanks.generated import RULES, WORDS
from data.treebanks.trees import Tree, pair_of, tree_in, words_in, words_of
from transformer.config import UserError


def test_trees_are_distinct_and_over_their_sentences_and_the_seed_determines_them():
    pairs = list(generated.pairs("train", 2000))
    assert len({sentence for sentence, _ in pairs}) == 2000
    assert pairs[:100] == list(generated.pairs("train", 100)) != list(generated.pairs("train", 100, seed=1))
    for sentence, line in pairs[:200]:
        assert pair_of(tree_in(line, "tree")) == (" ".join(words_in(sentence)), line)


def test_a_sentence_belongs_to_one_split_whatever_the_seed():
    splits = [
        {a for seed in (0, 1) for a, _ in generated.pairs(split, 300, seed)} for split in ("train", "dev", "test")
    ]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


def test_every_rule_has_probabilities_and_parts_that_are_known():
    for name, choices in RULES.items():
        assert sum(probability for probability, _ in choices) == pytest.approx(1), name
        assert {part for _, parts in choices for part in parts.split()} <= RULES.keys() | WORDS.keys(), name
    used = {part for choices in RULES.values() for _, parts in choices for part in parts.split()}
    assert used | {"TOP"} == RULES.keys() | WORDS.keys()


def parents_of(label, node, word):
    """Yields the labels of the constituents above those with this label that begin with the word."""
    for child in getattr(node, "children", ()):
        if isinstance(child, Tree):
            if child.label == label and next(words_of(child)).text == word:
                yield node.label
            yield from parents_of(label, child, word)


@pytest.mark.parametrize("word", ["in", "near"])
def test_a_prepositional_phrase_belongs_to_the_verb_or_to_the_noun(word):
    trees = [tree_in(line, "tree") for _, line in generated.pairs("train", 2000)]
    above = Counter(parent for tree in trees for parent in parents_of("PP", tree, word))
    assert min(above["NP"], above["VP"]) > 50, above


def test_too_many_trees_are_refused():
    with pytest.raises(UserError, match="up to 1,000,000 trees can be generated for dev, not 1,000,001"):
        next(generated.pairs("dev", 1_000_001))
