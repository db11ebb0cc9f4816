"""A vocabulary of the symbols of trees, from bracketed trees to ids and back."""

import pickle

import numpy as np
import pytest

from data.dataset import prepare
from data.tokenizer import Tokenizer
from data.treebanks.linear import MARK
from data.treebanks.trees import read_trees, words_of
from transformer.config import UNK, DataConfig, UserError

TREES = [
    "(TOP (S (NP (PRP It)) (VP (VBZ works)) (. .)))",
    "(TOP (S (NP (DT The) (NN cat)) (VP (VBZ sits) (ADVP (RB here))) (. .)))",
    "(TOP (NP (NN house) (-LRB- -LRB-) (NN cat) (-RRB- -RRB-)))",
]


def sentence(tree: str) -> str:
    return " ".join(word.text for word in words_of(next(read_trees([tree], "here"))))


@pytest.fixture
def settings(tmp_path):
    files = {}
    for split in ("train", "dev"):
        path = tmp_path / f"{split}.trees"
        path.write_text("".join(line + "\n" for line in TREES), encoding="utf-8")
        files[f"{split}_tgt"] = str(path)
    sizes = {"vocabularies": "separate", "vocab_size": 100, "source_vocab_size": 30, "max_unknown": 1.0}
    return {**files, **sizes}


@pytest.fixture
def prepared(settings, tmp_path):
    def of(task: str):
        return prepare(DataConfig(task=task, **settings), tmp_path / "prepared", log=lambda line: None)

    return of


def test_a_tree_is_its_symbols_and_comes_back_over_the_words(prepared):
    data = prepared("parsing")
    assert data.tokenizer.of_trees and not data.tokenizer.source.of_trees
    ids = data.tokenizer.encode(TREES)
    assert data.tokenizer.pieces(ids[0]) == ["▁(S", "▁(NP", "▁XX", "▁)NP", "▁(VP", "▁XX", "▁)VP", "▁XX", "▁)S", "</s>"]
    np.testing.assert_array_equal(data.dev.target[0], ids[0])
    outputs = [
        data.tokenizer.output(sentence(tree), text)
        for tree, text in zip(TREES, data.tokenizer.decode(ids), strict=True)
    ]
    assert outputs[0] == "(TOP (S (NP (XX It)) (VP (XX works)) (XX .)))"
    assert list(map(sentence, outputs)) == list(map(sentence, TREES))
    assert data.text("dev", "target") == TREES, "references keep their tags"


def test_with_tags_the_whole_tree_comes_back(prepared):
    tokenizer = prepared("tagged-parsing").tokenizer
    decoded = tokenizer.decode(tokenizer.encode(TREES))
    assert [tokenizer.output(sentence(tree), text) for tree, text in zip(TREES, decoded, strict=True)] == TREES
    assert prepared("parsing").hash != prepared("tagged-parsing").hash


def test_a_treebank_may_have_a_tag_named_xx(prepared, settings):
    """As OntoNotes does, for words that are cut off."""
    tree = "(TOP (S (NP (XX Th-) (NN cat)) (VP (VBZ sits))))"
    with open(settings["train_tgt"], "a", encoding="utf-8") as file:
        file.write(tree + "\n")
    tokenizer = prepared("tagged-parsing").tokenizer
    (text,) = tokenizer.decode(tokenizer.encode([tree]))
    assert tokenizer.output("Th- cat sits", text) == tree


def test_a_vocabulary_of_one_s_own_is_for_the_same_task(prepared, settings, tmp_path):
    for task, other in (("parsing", "tagged-parsing"), ("tagged-parsing", "parsing"), ("parsing", "translation")):
        data = prepared(task)
        sizes = {"vocab_size": data.tokenizer.size, "source_vocab_size": data.tokenizer.source.size}
        given = {**settings, **sizes, "vocabulary": str(data.path)}
        again = prepare(DataConfig(task=task, **given), tmp_path / "again", log=lambda line: None)
        assert again.tokenizer.sha256 == data.tokenizer.sha256
        corpus = {"corpus": "generated-trees", "train_tgt": None, "dev_tgt": None, "train_pairs": 10}
        with pytest.raises(UserError, match=rf"is a vocabulary of trees .*, which data\.task {other} cannot use"):
            prepare(DataConfig(task=other, **given | corpus), tmp_path / "other", log=lambda line: None)
        text = {"vocab_size": again.tokenizer.source.size, "vocabulary": str(data.path / "source.model")}
        with pytest.raises(UserError, match=r"is a vocabulary of text, which data\.task"):
            prepare(DataConfig(task=task, **given | text), tmp_path / "other", log=lambda line: None)


def test_a_sequence_is_read_like_its_tree(prepared):
    for task in ("parsing", "tagged-parsing"):
        tokenizer = prepared(task).tokenizer
        assert tokenizer.encode(tokenizer.decode(tokenizer.encode(TREES))) == tokenizer.encode(TREES)
        again = pickle.loads(pickle.dumps(tokenizer))
        assert again.encode(TREES) == tokenizer.encode(TREES)


def test_symbols_that_were_never_seen_are_unknown_and_named(prepared):
    tokenizer = prepared("parsing").tokenizer
    line = "(TOP (FRAG (NP (NN cat))))"
    assert tokenizer.encode([line])[0].count(UNK) == 2
    assert tokenizer.unknown(line) == ["▁(FRAG", "▁)FRAG"]
    assert tokenizer.output("cat", tokenizer.decode(tokenizer.encode([line]))[0])[:5] == "(TOP "


def test_what_is_no_tree_is_refused(prepared, settings, tmp_path):
    tokenizer = prepared("parsing").tokenizer
    for line in ("(TOP (S (NN cat))", f"{TREES[0]} {TREES[1]}"):
        with pytest.raises(UserError, match=r"never closed|must be one tree, not 2"):
            tokenizer.encode([line])
    for change in ({"vocabularies": "shared", "source_vocab_size": None}, {"subword_sampling": 0.1}):
        with pytest.raises(UserError, match=r"data\.task parsing needs separate vocabularies"):
            prepare(DataConfig(task="parsing", **settings | change), tmp_path / "other", log=lambda line: None)


def test_the_mark_of_the_vocabulary_is_no_symbol(prepared):
    symbols = prepared("parsing").tokenizer.symbols
    assert {"XX", "(S", ")S", ""} < set(symbols) and not any(MARK in symbol for symbol in symbols)


def test_text_is_no_tree_to_a_vocabulary_of_text(prepared):
    source: Tokenizer = prepared("parsing").tokenizer.source
    assert source.output("It works", "a ) (b") == "a ) (b"
