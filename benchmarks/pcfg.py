"""A probabilistic context-free grammar as a parser, to compare the Transformer of section 6.3 with.

    python -m benchmarks.pcfg wsj-sample --record benchmarks/results/pcfg-wsj-sample.json
    python -m benchmarks.pcfg wsj-craft --test-set craft

The grammar is read off the training trees of a corpus, as in Johnson (1998): NLTK binarises them, and labels each
constituent with its parent; probabilities are relative frequencies. A word that occurs fewer than five times is one of
a few dozen classes, by its capitals, digits and ending. The best tree is found by CKY, without pruning. (NLTK's own
parser takes minutes for a sentence.) A sentence without a parse gets a flat tree.
"""

import argparse
import re
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.corpora import CORPORA
from data.corpora.corpus import WithTestSets
from data.dataset import default_data_dir
from data.treebanks.trees import ROOT, words_in
from experiments.evaluation.evalb import F1
from experiments.evaluation.intervals import margin_of
from experiments.evaluation.records import origin, write_record

RARE = 5
HORIZONTAL, VERTICAL = 1, 1  # siblings and ancestors that a label remembers
INNER = "~"  # in the labels of constituents that binarisation makes; some labels of treebanks have NLTK's own, "|"


class Grammar(NamedTuple):
    """Rules over labels, which are numbered; the rules are sorted by the label on the left."""

    labels: list[str]
    left: np.ndarray
    """Labels B of the rules A -> B C, int [rules]."""
    right: np.ndarray
    """Labels C, int [rules]."""
    log_p: np.ndarray
    """float32 [rules]."""
    parents: np.ndarray
    """Labels A that have rules, each once."""
    starts: np.ndarray
    """The first rule of each of `parents`."""
    lexicon: dict[str, list[tuple[int, float]]]
    """By word or class, its labels with log P(word | label)."""
    known: set[str]


def shape_of(word: str, first: bool) -> str:
    """Returns the class of a rare word."""
    parts = ["UNK"]
    if re.search(r"\d", word):
        parts.append("digits" if re.fullmatch(r"[\d.,:/%-]+", word) else "digit")
    if word[:1].isupper():
        parts.append("first" if first else "capital")
    if "-" in word:
        parts.append("hyphen")
    ending = re.search(r"(ing|ed|ly|s|er|est|ion|al|ic|ity|able|ment|ness|ous|ive|y)$", word)
    return "-".join(parts) + (f"-{ending[1]}" if ending and len(word) > 4 else "")


def terminals(words: list[str], known: set[str]) -> list[str]:
    """Replaces each rare word by its class."""
    return [word if word in known else shape_of(word, i == 0) for i, word in enumerate(words)]


def learned(lines: list[str]) -> Grammar:
    """Returns the grammar of some bracketed trees, one per line."""
    from nltk import Tree as Nltk  # here, since the other benchmarks must not need it

    trees = [Nltk.fromstring(line) for line in lines]
    counts = Counter(word for tree in trees for word in tree.leaves())
    known = {word for word, count in counts.items() if count >= RARE}
    rules: Counter[tuple[str, str, str]] = Counter()
    words: Counter[tuple[str, str]] = Counter()
    total: Counter[str] = Counter()
    for tree in trees:
        seen = iter(terminals(tree.leaves(), known))
        tree.collapse_unary(collapsePOS=True, collapseRoot=True)
        tree.chomsky_normal_form(horzMarkov=HORIZONTAL, vertMarkov=VERTICAL, childChar=INNER)
        for production in tree.productions():
            parent = production.lhs().symbol()
            total[parent] += 1
            if production.is_lexical():
                words[parent, next(seen)] += 1
            else:
                rules[(parent, *(child.symbol() for child in production.rhs()))] += 1
    labels = sorted(total)
    number = {label: i for i, label in enumerate(labels)}
    listed = sorted((number[a], number[b], number[c], count) for (a, b, c), count in rules.items())
    a, b, c, count = (np.array(column) for column in zip(*listed, strict=True))
    parents, starts = np.unique(a, return_index=True)
    of = np.array([total[label] for label in labels])
    lexicon = defaultdict(list)
    for (label, word), times in words.items():
        lexicon[word].append((number[label], float(np.log(times / total[label]))))
    return Grammar(labels, b, c, np.log(count / of[a]).astype(np.float32), parents, starts, dict(lexicon), known)


def parsed(words: list[str], grammar: Grammar) -> str | None:
    """Returns the most probable tree in one line; None if there is none."""
    from nltk import Tree as Nltk

    n, size = len(words), len(grammar.labels)
    best = np.full((n, n + 1, size), -np.inf, np.float32)
    for i, word in enumerate(terminals(words, grammar.known)):
        for label, log_p in grammar.lexicon.get(word) or grammar.lexicon["UNK"]:
            best[i, i + 1, label] = log_p
    for width in range(2, n + 1):
        for i in range(n - width + 1):
            j = i + width
            inner = best[i, i + 1 : j][:, grammar.left] + best[np.arange(i + 1, j), j][:, grammar.right]
            scores = inner.max(0) + grammar.log_p
            best[i, j, grammar.parents] = np.maximum.reduceat(scores, grammar.starts)
    tops = [k for k, label in enumerate(grammar.labels) if INNER not in label and re.match(rf"{ROOT}\b", label)]
    top = max(tops, key=lambda k: best[0, n, k])
    if not np.isfinite(best[0, n, top]):
        return None

    def tree(i: int, j: int, label: int) -> Nltk:
        if j == i + 1:
            return Nltk(grammar.labels[label], [words[i]])
        place = int(np.searchsorted(grammar.parents, label))
        end = grammar.starts[place + 1] if place + 1 < len(grammar.starts) else len(grammar.left)
        rules = slice(grammar.starts[place], end)
        b, c = grammar.left[rules], grammar.right[rules]
        inner = best[i, i + 1 : j][:, b] + best[np.arange(i + 1, j), j][:, c] + grammar.log_p[rules]
        split, rule = np.unravel_index(inner.argmax(), inner.shape)
        k = i + 1 + int(split)
        return Nltk(grammar.labels[label], [tree(i, k, int(b[rule])), tree(k, j, int(c[rule]))])

    found = tree(0, n, top)
    found.un_chomsky_normal_form(childChar=INNER)
    return " ".join(str(found).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="name of a treebank")
    parser.add_argument("--test-set", help="a further test set of the corpus; default: test")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    corpus, downloads = CORPORA.find(given.corpus), default_data_dir() / "downloads"
    if given.test_set:
        assert isinstance(corpus, WithTestSets)
        pairs, _ = corpus.test_set(given.test_set, downloads, print)
    else:
        pairs = list(corpus.pairs("test", None, downloads, print))
    train = [line for _, line in corpus.pairs("train", None, downloads, print)]
    grammar = learned(train)
    print(f"{len(train):,} trees, {len(grammar.labels):,} labels, {len(grammar.left):,} rules")
    start, outputs, failed = time.monotonic(), [], 0
    for done, (sentence, _) in enumerate(pairs, start=1):
        words = words_in(sentence)
        tree = parsed(words, grammar)
        failed += tree is None
        outputs.append(tree or f"({ROOT} (S {' '.join(f'(XX {word})' for word in words)}))")
        if done % 50 == 0:
            print(f"{done} of {len(pairs)}, {time.monotonic() - start:.0f} s", flush=True)
    references = [line for _, line in pairs]
    metric = F1()
    score, margin = metric.corpus_score(outputs, [references]), margin_of(F1(), outputs, references)
    print(f"F1 = {score.score:.2f} ± {margin:.2f}   {metric.get_signature()}")
    if given.record:
        found = {
            "corpus": given.corpus,
            "test_set": given.test_set or "test",
            "training_trees": len(train),
            "sources": {role: source._asdict() for role, source in corpus.sources(downloads, print).items()},
            "grammar": {
                "labels": len(grammar.labels), "rules": len(grammar.left), "rare": RARE,
                "horizontal": HORIZONTAL, "vertical": VERTICAL,
            },
            "sentences": len(pairs),
            "without_parse": failed,
            "scores": {"F1": score.score, "margin": margin, "signature": str(metric.get_signature())},
            "seconds": round(time.monotonic() - start, 1),
            **origin(),
        }  # fmt: skip
        write_record(given.record, found)


if __name__ == "__main__":
    main()
