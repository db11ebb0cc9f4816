from hypothesis import given
from hypothesis import strategies as st

from data.treebanks.linear import XX, is_tree_over, linearised, sequence_of, tree_of
from data.treebanks.trees import ROOT, Tree, Word, bracketed, read_trees, words_of

LABELS, TAGS = st.sampled_from(["S", "NP", "VP", "ADVP|PRT", "X"]), st.sampled_from(["NN", ",", "-LRB-", "X", "VBZ"])
WORDS = st.builds(Word, TAGS, st.text("aXé.\u00a0-", min_size=1, max_size=3))
NODES = st.recursive(WORDS, lambda node: st.builds(Tree, LABELS, st.lists(node, min_size=1, max_size=4).map(tuple)))
TREES = st.lists(NODES, min_size=1, max_size=3).map(lambda children: Tree(ROOT, tuple(children)))
SYMBOLS = st.lists(st.sampled_from(["(S", "(NP", "(VP", ")S", ")NP", ")VP", XX, "NN", "(", ")"]), max_size=30)


def texts(tree: Tree) -> list[str]:
    return [word.text for word in words_of(tree)]


def with_normalised_tags(node):
    if isinstance(node, Word):
        return Word(XX, node.text)
    return Tree(node.label, tuple(map(with_normalised_tags, node.children)))


def test_a_tree_as_the_paper_would_write_it():
    (tree,) = read_trees(["(TOP (S (NP (PRP It)) (VP (VBZ works)) (. .)))"], "here")
    assert " ".join(linearised(tree, tags=False)) == "(S (NP XX )NP (VP XX )VP XX )S"
    assert " ".join(linearised(tree, tags=True)) == "(S (NP PRP )NP (VP VBZ )VP . )S"


@given(TREES)
def test_every_tree_is_read_back_from_its_text_and_from_its_sequence(tree):
    assert list(read_trees([bracketed(tree)], "here")) == [tree]
    assert tree_of(texts(tree), linearised(tree, tags=True)) == tree
    assert tree_of(texts(tree), linearised(tree, tags=False)) == with_normalised_tags(tree)
    assert is_tree_over(texts(tree), linearised(tree, tags=False))


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8), SYMBOLS)
def test_every_sequence_gives_a_tree_over_exactly_the_words(words, symbols):
    tree = tree_of(words, symbols)
    assert texts(tree) == words
    assert list(read_trees([bracketed(tree)], "here")) == [tree], "it is well formed"
    assert tree_of(words, linearised(tree, tags=True)) == tree, "nothing is left to repair"
    assert is_tree_over(words, symbols) == (linearised(tree, tags=True) == symbols)


def repaired(words: str, symbols: str) -> str:
    assert not is_tree_over(words.split(), symbols.split())
    return bracketed(tree_of(words.split(), symbols.split()))


def test_how_a_sequence_is_repaired():
    assert repaired("a b", "(S (NP XX )S") == "(TOP (S (NP (XX a)) (XX b)))"
    assert repaired("a b", "(S (NP (VP XX )NP XX )S") == "(TOP (S (NP (VP (XX a))) (XX b)))"
    assert repaired("a", "(S XX )NP XX (VP )VP )S") == "(TOP (S (XX a)))"
    assert repaired("a b", "(S (NP XX (VP XX") == "(TOP (S (NP (XX a) (VP (XX b)))))"
    assert repaired("a b", "(S XX )S XX (NP )NP ( )") == "(TOP (S (XX a)) (XX b))"
    assert repaired("a b", "") == "(TOP (XX a) (XX b))"


def test_what_is_a_sequence_already_or_begins_one_is_left_alone():
    tree = "(TOP (S (NP (PRP It)) (VP (VBZ works)) (. .)))"
    sequence = sequence_of(tree, tags=False)
    assert sequence == "(S (NP XX )NP (VP XX )VP XX )S"
    for end in range(len(sequence.split()) + 1):
        begun = " ".join(sequence.split()[:end])
        assert sequence_of(begun, tags=False) == begun
