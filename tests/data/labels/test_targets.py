"""Labels of words are where the words are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpora import CORPORA
from data.labels.generated import label_of, pairs
from data.labels.targets import MARKS, OF_WORDS, read_as, spread, starts_of, words_of
from data.tokenizer import Tokenizer, train_tokenizer
from data.treebanks.trees import tree_in
from transformer.config import EOS, LABELLED, PAD, UNK, UserError

LINES = ["the man bought a lamp .", "unbelievable houses , naïve lamps", "a b c d e f g h i j k l m n"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    source = train_tokenizer(LINES * 4, folder / "source.model", "bpe", 48)
    target = train_tokenizer(["DT NN VBD . ,"], folder / "vocab.model", "word", 32, symbols=[OF_WORDS])
    return Tokenizer(target.to_bytes(), source)


def test_every_task_with_labels_has_a_mark_and_an_architecture():
    assert MARKS.keys() == LABELLED.keys()
    assert {LABELLED[task] for task, mark in MARKS.items() if mark == OF_WORDS} == {"tagger"}


def test_a_vocabulary_says_what_its_labels_are_of(tokenizer):
    assert tokenizer.labels_of == OF_WORDS and tokenizer.source.labels_of is None
    assert {*tokenizer.symbols} - {""} == {"DT", "NN", "VBD", ".", ","}


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from("abc▁ "), min_size=1)


@given(st.lists(words, min_size=1, max_size=8))
def test_the_pieces_of_a_text_are_those_of_its_words(tokenizer, texts):
    text = read_as(" ".join(texts), OF_WORDS)
    if not text:
        return
    lengths = tokenizer.source.lengths(text)
    assert len(lengths) == len(words_of(text)) and min(lengths) >= 1
    (ids,) = tokenizer.source.encode([text])
    assert starts_of(lengths, len(ids)).count(1) == len(lengths)
    each = [tokenizer.source.encode([word])[0][:-1] for word in words_of(text)]
    assert [i for word in each for i in word] == ids[:-1]


def test_a_label_is_at_the_first_piece_of_its_word(tokenizer):
    text = "the unbelievable lamp"
    ((source,), (target,)) = tokenizer.encode_pairs([(text, "DT NN XX")])
    lengths = tokenizer.source.lengths(text)
    assert max(lengths) > 1 and len(source) == len(target)
    dt, nn = tokenizer.ids(["▁DT", "▁NN"])
    expected = [dt, *[PAD] * (lengths[0] - 1), nn, *[PAD] * (lengths[1] - 1), UNK, *[PAD] * (lengths[2] - 1), EOS]
    assert target == expected
    assert tokenizer.decode([[i for i in target if i != UNK]]) == ["DT NN"]


def test_each_of_several_unknown_labels_has_its_place(tokenizer):
    (_, (target,)) = tokenizer.encode_pairs([("a b c", "XX YY DT")])
    assert [i for i in target if i != PAD] == [UNK, UNK, *tokenizer.ids(["▁DT"]), EOS]


def test_each_word_needs_a_label(tokenizer):
    with pytest.raises(UserError, match=r"^2 labels for 3 words, where each word needs one: 'the man bought'$"):
        tokenizer.encode_pairs([("the man bought", "DT NN")])
    assert list(spread([5, 6], [1, 3])) == [5, 6, PAD, PAD, EOS]


def test_generated_labels_are_those_of_the_main_clause():
    who = "(SBAR (WHNP (WP who)) (S (VP (VBZ helps) (NP (DT the) (NN aunt)))))"
    tree = tree_in(f"(S (NP (NP (DT the) (NN man)) {who}) (VP (VBZ laughs)) (. .))", "tree")
    assert label_of(tree.children[0]) == "nothing"
    found = list(pairs("dev", 50))
    assert len({text for text, _ in found}) == 50 and {label for _, label in found} == {
        "thing", "person", "nothing", "fact",
    }  # fmt: skip


def test_the_tags_of_a_treebank_are_those_of_its_words():
    log = print
    trees, tags = CORPORA["generated-trees"], CORPORA["generated-tags"]
    both = zip(trees.pairs("dev", 20, None, log), tags.pairs("dev", 20, None, log), strict=True)
    for (sentence, tree), (same, line) in both:
        assert same == sentence
        found = dict(zip(words_of(sentence), line.split(), strict=True))
        assert all(f"({tag} {word})" in tree for word, tag in found.items())
    assert tags.sources(None, log) == trees.sources(None, log)
