import pytest

from data.treebanks.trees import DEEPEST, ROOT, Tree, Word, bracketed, read_trees, standard, words_of
from transformer.config import UserError

SAMPLE = """
( (S
    (NP-SBJ-1 (NNP Mr.) (NNP Vinken) )
    (VP (VBZ is) (NP-PRD=2 (NN chairman))
      (S-PRP (NP-SBJ (-NONE- *-1)) (VP (-LRB- -LRB-) (ADVP|PRT (RB here)))))
    (. .) ))
(TOP (NP (NN co\u00a0op) (, ,)))
(NP (NN house))
"""


def trees(text: str, name: str = "wsj_0001.mrg") -> list[Tree]:
    return list(read_trees(text.splitlines(keepends=True), name))


def test_trees_of_several_lines_are_read_with_one_root():
    first, second, third = trees(SAMPLE)
    assert [tree.label for tree in (first, second, third)] == [ROOT] * 3
    assert [word.text for word in words_of(first)] == ["Mr.", "Vinken", "is", "chairman", "*-1", "-LRB-", "here", "."]
    assert second == Tree(ROOT, (Tree("NP", (Word("NN", "co\u00a0op"), Word(",", ","))),))
    assert third == Tree(ROOT, (Tree("NP", (Word("NN", "house"),)),))
    assert trees(bracketed(first)) == [first]


def test_standard_trees_have_no_empty_elements_and_no_function_tags():
    first = standard(trees(SAMPLE)[0])
    assert first and bracketed(first) == (
        "(TOP (S (NP (NNP Mr.) (NNP Vinken)) (VP (VBZ is) (NP (NN chairman)) "
        "(S (VP (-LRB- -LRB-) (ADVP|PRT (RB here))))) (. .)))"
    )
    assert standard(first) == first
    (nothing,) = trees("( (S (NP-SBJ (-NONE- *)) (VP (-NONE- *?*))) )")
    assert standard(nothing) is None


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("( (S (NN a)\n\n", 1, "a bracket that is never closed"),
        ("( (S (NN a))\n\n( (S (NN b)) )\n", 3, "a new tree: then the one in line 1 is not closed"),
        ("( (S (NN a)) )\n( (S (NN b)) ) )\n", 2, "closes nothing"),
        ("( (S (NN a)) )\nhello\n", 2, "'hello' outside of brackets"),
        ("( (S (NN a)\n () ) )", 2, "an empty bracket"),
        ("( (S\n(NN) ) )", 2, "(NN) has a label or a word, not both"),
        ("( (S (NN a b)) )", 1, "(NN a b) is more than a tag and a word"),
        ("( (S (NN a)\n b ) )", 2, "the word 'b' beside constituents"),
        ("( (S ( (NN a)) ) )", 1, "a constituent without a label"),
        ("( (S x (NN a)) )", 1, "(S x) is more than a tag and a word"),
        ("(" * (DEEPEST + 1), 1, f"more than {DEEPEST} levels"),
    ],
)
def test_what_is_no_tree_is_named_by_file_and_line(text, line, message):
    with pytest.raises(UserError) as error:
        trees(text)
    assert str(error.value).startswith(f"wsj_0001.mrg, line {line}: ") and message in str(error.value)
