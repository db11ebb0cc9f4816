"""Constituency trees in the bracketed format of the Penn Treebank (Marcus et al., 1993)."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data.text import Pair
from transformer.config import UserError

ROOT = "TOP"
"""Label of the node above a whole sentence. The Penn Treebank leaves it out: `( (S ...) )`."""

EMPTY = "-NONE-"
"""Tag of an empty element, such as a trace. It stands for no word of the sentence."""

DEEPEST = 200
"""The most levels that a tree may have. The deepest of the Penn Treebank have about thirty."""

_ROOTS = {"", "TOP", "ROOT", "S1"}

# Only ASCII has spaces between tokens: a word may contain a no-break space.
_SPACES = r" \t\r\n\f\v"
_TOKEN = re.compile(rf"[()]|[^(){_SPACES}]+")


class Word(NamedTuple):
    """A word, and its part-of-speech tag."""

    tag: str
    text: str


class Tree(NamedTuple):
    """A constituent: its label, and the constituents and words that it consists of."""

    label: str
    children: "tuple[Node, ...]"


Node = Tree | Word


class _Open:
    """A bracket that has not been closed yet: what was read since, and the line that it is in."""

    def __init__(self, line: int):
        self.line = line
        self.texts: list[str] = []
        self.children: list[Node] = []


def read_trees(lines: Iterable[str], name: str) -> Iterator[Tree]:
    """Yields the trees of a text, which may extend over several lines. Their root is labelled TOP.

    Args:
        name: of the file, for messages.

    Raises:
        UserError: a bracket that is not well formed, with its line.
    """
    stack: list[_Open] = []
    for number, line in enumerate(lines, start=1):
        for token in _TOKEN.findall(line):
            if token == "(":
                stack.append(_Open(number))
                if len(stack) > DEEPEST:
                    raise UserError(f"{name}, line {number}: a tree of more than {DEEPEST} levels")
            elif not stack:
                what = "a closing bracket that closes nothing" if token == ")" else f"{token!r} outside of brackets"
                raise UserError(f"{name}, line {number}: {what}")
            elif token == ")":
                bracket = stack.pop()
                if stack and bracket.children and not bracket.texts:
                    raise UserError(
                        f"{name}, line {bracket.line}: a constituent without a label, unless it begins a new tree: "
                        f"then the one in line {stack[0].line} is not closed"
                    )
                node = _closed(bracket, f"{name}, line {number}")
                if stack:
                    stack[-1].children.append(node)
                elif isinstance(node, Tree) and node.label in _ROOTS:
                    yield Tree(ROOT, node.children)
                else:
                    yield Tree(ROOT, (node,))
            else:
                if stack[-1].children:
                    raise UserError(f"{name}, line {number}: the word {token!r} beside constituents, without a tag")
                stack[-1].texts.append(token)
    if stack:
        raise UserError(f"{name}, line {stack[0].line}: a bracket that is never closed")


def _closed(bracket: _Open, where: str) -> Node:
    """Returns the node that a bracket holds. UserError if it is none."""
    texts, children = bracket.texts, tuple(bracket.children)
    if children and len(texts) <= 1:
        return Tree(texts[0] if texts else "", children)
    if len(texts) == 2 and not children:
        return Word(*texts)
    if not texts:
        raise UserError(f"{where}: an empty bracket")
    if len(texts) == 1:
        raise UserError(f"{where}: ({texts[0]}) has a label or a word, not both")
    raise UserError(f"{where}: ({' '.join(texts)}) is more than a tag and a word")


def tree_in(line: str, what: str) -> Tree:
    """Returns the tree in a line. UserError unless there is exactly one; messages name the line by `what`."""
    trees = list(read_trees([line], what))
    if len(trees) != 1:
        raise UserError(f"the {what} must be one tree, not {len(trees)}: {line[:100]}")
    return trees[0]


def bracketed(node: Node) -> str:
    """Returns a tree in one line, which `read_trees` reads back."""
    if isinstance(node, Word):
        return f"({node.tag} {node.text})"
    return f"({node.label} {' '.join(map(bracketed, node.children))})"


def pair_of(tree: Tree) -> Pair:
    """Returns the sentence of a tree, and the tree in one line."""
    return " ".join(word.text for word in words_of(tree)), bracketed(tree)


def words_in(sentence: str) -> list[str]:
    """Splits a sentence at its spaces into the words of a tree. Brackets are written as in the Penn Treebank, -LRB-."""
    return re.findall(rf"[^{_SPACES}]+", sentence.replace("(", "-LRB-").replace(")", "-RRB-"))


def words_of(node: Node) -> Iterator[Word]:
    """Yields the words of a tree, from left to right."""
    if isinstance(node, Word):
        yield node
        return
    for child in node.children:
        yield from words_of(child)


def standard(tree: Tree) -> Tree | None:
    """Returns a tree as parsers are trained and scored on: without empty elements and function tags.

    Constituents that hold nothing but empty elements disappear with them. A function tag or an index is what follows
    the first "-" or "=" of a label: NP-SBJ-1 becomes NP. Tags of words stay as they are. None if no word is left.
    """
    children = (child if isinstance(child, Word) else standard(child) for child in tree.children)
    kept = tuple(child for child in children if child and not (isinstance(child, Word) and child.tag == EMPTY))
    return Tree(bare(tree.label), kept) if kept else None


def bare(label: str) -> str:
    """Returns the label of a constituent without function tags: NP of NP-SBJ-1."""
    return re.split("[-=]", label, maxsplit=1)[0] or label
