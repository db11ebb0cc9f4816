"""Trees as sequences of symbols, and back (Vinyals et al., 2015, Grammar as a Foreign Language, section 2.1).

    (TOP (S (NP (PRP It)) (VP (VBZ works)) (. .)))    the tree
    (S (NP XX )NP (VP XX )VP XX )S                    the sequence, with normalised tags
    (S (NP PRP )NP (VP VBZ )VP . )S                   the sequence, with tags

Each constituent is an opening and a closing symbol, and each word is its tag, or XX for all of them. The words
themselves are not in the sequence, since they are in the sentence. Neither is the root, which all trees share.
"""

import re
from collections.abc import Iterable, Sequence

from data.treebanks.trees import ROOT, Node, Tree, Word, bracketed, tree_in, words_in

TAGS = {"parsing": False, "tagged-parsing": True}
"""Tasks (data.task) whose targets are trees, and whether their sequences have tags."""

MARK = "<trees>"
"""A piece that says of a vocabulary that its pieces are the symbols of trees."""

XX = "XX"
"""Stands for a word, whatever its tag. Vinyals et al. report that parsers are better without the tags."""


def opening(label: str) -> str:
    """The symbol that begins a constituent."""
    return f"({label}"


def closing(label: str) -> str:
    """The symbol that ends a constituent."""
    return f"){label}"


def linearised(tree: Tree, tags: bool) -> list[str]:
    """Returns the sequence of a tree whose root is TOP.

    Args:
        tags: whether a word is its tag; otherwise it is XX.
    """
    symbols: list[str] = []

    def add(node: Node) -> None:
        if isinstance(node, Word):
            symbols.append(node.tag if tags else XX)
            return
        symbols.append(opening(node.label))
        for child in node.children:
            add(child)
        symbols.append(closing(node.label))

    for child in tree.children:
        add(child)
    return symbols


def tree_of(words: Sequence[str], symbols: Iterable[str]) -> Tree:
    """Returns the tree over exactly these words that a sequence describes, whatever the sequence is.

    A sequence that is not the linearised tree of a sentence with these words is repaired:

    - A closing symbol also closes the constituents inside the one that it names. If it names none that is open, it is
      left out.
    - Symbols for more words than the sentence has are left out. Words that have no symbol follow with the tag XX, at
      the end of the constituent below the root that is the last one (usually the only one, S).
    - Constituents that are open at the end are closed there.
    - A constituent without words or without a label is left out.

    Of the linearised tree itself (with tags), the result is that tree.
    """
    stack: list[tuple[str, list[Node]]] = [(ROOT, [])]
    rest = iter(words)

    def close() -> None:
        label, children = stack.pop()
        if children:
            stack[-1][1].append(Tree(label, tuple(children)))

    for symbol in symbols:
        if symbol in ("(", ")"):
            continue
        if symbol.startswith("("):
            stack.append((symbol[1:], []))
        elif symbol.startswith(")"):
            if symbol[1:] in (label for label, _ in stack[1:]):
                while stack[-1][0] != symbol[1:]:
                    close()
                close()
        elif (word := next(rest, None)) is not None:
            stack[-1][1].append(Word(symbol, word))
    while len(stack) > 1:
        close()
    children = stack[0][1]
    left = tuple(Word(XX, word) for word in rest)
    if left and children and isinstance(last := children[-1], Tree):
        children[-1] = Tree(last.label, (*last.children, *left))
        left = ()
    return Tree(ROOT, (*children, *left))


def sequence_of(line: str, tags: bool) -> str:
    """Returns the sequence of a bracketed tree, separated by spaces. A line that is a sequence is returned unchanged.

    UserError if the line is neither.
    """
    # A closing symbol has a label, a closing bracket has none. What closes nothing is the beginning of a sequence.
    if "(" not in line or ")" not in line or re.search(r"\)[^\s()]", line):
        return line
    return " ".join(linearised(tree_in(line, "target"), tags))


def output_of(source: str, sequence: str) -> str:
    """Returns the bracketed tree over the words of a source that a predicted sequence describes; see `tree_of`."""
    return bracketed(tree_of(words_in(source), sequence.split()))


def is_tree_over(words: Sequence[str], symbols: Sequence[str]) -> bool:
    """Whether a sequence is a linearised tree with this many words: `tree_of` need not repair it."""
    return linearised(tree_of(words, symbols), tags=True) == list(symbols)
