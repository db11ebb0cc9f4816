"""The user's own labelled text: what is read, and what is refused."""

import pytest

from data.dataset import open_prepared, prepare
from data.labels.files import sentences_in, texts_in
from data.tokenizer import Tokenizer
from transformer.config import DataConfig, Experiment, ModelConfig, UserError

TAGGED = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\nBlackburn NNP I-PER\n"
TEXTS = "a good film\tpos\na bad film\tneg\n"


def written(path, text: str | bytes):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("change", [str, lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"),
                                    lambda text: text.rstrip("\n")])  # fmt: skip
def test_a_bom_line_ends_and_a_missing_last_one_change_nothing(tmp_path, change):
    path = written(tmp_path / "a.conll", change(TAGGED))
    assert list(sentences_in(path)) == [("EU rejects", "B-ORG O"), ("Peter Blackburn", "B-PER I-PER")]
    path = written(tmp_path / "a.tsv", change(TEXTS))
    assert list(texts_in(path)) == [("a good film", "pos"), ("a bad film", "neg")]


def test_tabs_separate_columns_too_and_an_odd_space_is_part_of_a_word(tmp_path):
    path = written(tmp_path / "a.conll", "New\u00a0York\tB-LOC\n▁\tO\n")
    assert list(sentences_in(path)) == [("New\u00a0York _", "B-LOC O")]


def test_two_texts_are_joined(tmp_path):
    path = written(tmp_path / "a.tsv", "one\ttwo\tsame\n\nthree\tfour\tother\n")
    assert list(texts_in(path)) == [("one <sep> two", "same"), ("three <sep> four", "other")]


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (texts_in, "", "has no text"),
        (texts_in, "\n \n", "has no text"),
        (texts_in, "a good film pos\n", "line 1: 1 column, not 2 or 3: text and label are separated by a tab"),
        (texts_in, "a\tb\tc\td\n", "line 1: 4 columns, not 2 or 3"),
        (texts_in, "a\tpos\nb\tc\tneg\n", "line 2: 3 columns, not 2:"),
        (texts_in, "a\tvery good\n", "line 1: 'very good' is not a label, which is one word"),
        (texts_in, "a\tpos\nb\t\n", "line 2: '' is not a label"),
        (texts_in, b"a\t\xff\n", "line 1: byte 0xff at position 2 is not UTF-8"),
        (sentences_in, "", "has no sentence"),
        (sentences_in, "-DOCSTART- O\n\n", "has no sentence"),
        (sentences_in, "EU\n", "line 1: 1 column, not 2 or more: a word, and last its tag"),
        (sentences_in, "EU NNP O\nPeter B-PER\n", "line 2: 2 columns, not 3 as in the first line"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(tmp_path, reader, text, message):
    path = written(tmp_path / "bad", text)
    with pytest.raises(UserError) as error:
        list(reader(path))
    assert str(error.value).startswith(str(path)) and message in str(error.value) and "\n" not in str(error.value)


def config(folder, task: str = "classification", **changes) -> DataConfig:
    settings = {"train_tgt": str(folder / "train"), "dev_tgt": str(folder / "dev"), "vocab_size": 16,
                "source_vocab_size": 24, "vocabularies": "separate", "max_length": 40, "batch_tokens": 128}  # fmt: skip
    return DataConfig(task=task, **(settings | changes))


@pytest.fixture
def folder(tmp_path):
    written(tmp_path / "train", TEXTS * 20)
    written(tmp_path / "dev", TEXTS)
    return tmp_path


def test_labels_are_a_vocabulary_of_their_own_and_dev_is_the_default_for_test(folder):
    data = prepare(config(folder), folder / "prepared", print)
    assert {*data.tokenizer.symbols} - {""} == {"pos", "neg"}
    assert data.texts("test") == data.texts("dev") == (["a good film", "a bad film"], ["pos", "neg"])
    assert [len(target) for _, target in (data.train[i] for i in range(3))] == [2, 2, 2]
    assert open_prepared(data.path).tokenizer.labels_of == "<label>"


def test_an_unknown_label_is_named_and_too_many_are_refused(folder):
    written(folder / "dev", TEXTS + "a good film\tmixed\n")
    told: list[str] = []
    prepare(config(folder, max_unknown=0.5), folder / "prepared", told.append)
    assert any("dev target: labels that are not in the training text: 'mixed' 1 time" in line for line in told)
    with pytest.raises(UserError, match=r"^dev: .*of the labels are not in the training text.*'mixed' 1 time"):
        prepare(config(folder), folder / "prepared", print)


@pytest.mark.parametrize(
    ("train", "changes", "message"),
    [
        ("a\tpos\nb\tpos\n", {}, "the training text has 1 label: there is nothing to learn"),
        ("".join(f"a\tl{n}\n" for n in range(12)), {}, "12 labels, for which a vocabulary of 16 has no room"),
        ("a\tb\tsame\nc\td\tother\n", {}, "has pairs of texts, which <sep> separates: --data.symbols '<sep>'"),
        (TEXTS, {"train_src": "x"}, "labelled text has labels and text in one file"),
        (TEXTS, {"dev_tgt": None}, "--data.dev-tgt is missing: your own labelled text needs train and dev"),
        (
            TEXTS,
            {"vocabularies": "shared", "source_vocab_size": None},
            "needs separate vocabularies, of words and of labels",
        ),
        (TEXTS, {"subword_sampling": 0.1}, "needs separate vocabularies, of words and of labels"),
        (TEXTS, {"train_tgt": None, "dev_tgt": None}, "a text has one label"),  # the grammar, of translations
        (TEXTS, {"train_tgt": None, "dev_tgt": None, "task": "tagging"}, "where each word needs one"),
    ],
)
def test_text_that_cannot_be_learned_from_is_refused(folder, train, changes, message):
    written(folder / "train", train * 9)
    with pytest.raises(UserError) as error:
        prepare(config(folder, **({"train_pairs": 50} | changes)), folder / "prepared", lambda line: None)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_pairs_of_texts_have_the_separator_as_a_piece(folder):
    for name in ("train", "dev"):
        written(folder / name, "a good film\ta good movie\tsame\na bad film\ta good film\tother\n" * 9)
    data = prepare(config(folder, symbols="<sep>", source_vocab_size=30), folder / "prepared", print)
    assert "<sep>" in data.tokenizer.source.surfaces(data.text("dev", "source")[0])


def test_a_given_vocabulary_is_that_of_the_texts(folder):
    first = prepare(config(folder), folder / "prepared", print)
    again = prepare(config(folder, vocabulary=str(first.path)), folder / "prepared", print)
    assert again.path != first.path and again.tokenizer.source.to_bytes() == first.tokenizer.source.to_bytes()
    assert Tokenizer.load(again.path).sha256 == first.tokenizer.sha256
    with pytest.raises(UserError, match=r"has 24 pieces for texts: set --data\.source-vocab-size 24"):
        prepare(config(folder, vocabulary=str(first.path), source_vocab_size=30), folder / "prepared", print)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ("tagging", {}, "data.task tagging needs a model that predicts labels: --model.architecture tagger"),
        ("classification", {"architecture": "tagger"}, "tagger predicts labels: --data.task tagging or entities"),
        ("translation", {"architecture": "classifier"}, "classifier predicts labels: --data.task classification"),
    ],
)
def test_the_task_and_the_architecture_belong_together(task, model, message):
    sizes = {"vocab_size": 32, "decoder_layers": 0 if model else None, "tied": "target"}
    data = DataConfig(task=task, vocabularies="separate", vocab_size=32)
    with pytest.raises(UserError, match=message):
        Experiment("labels", model=ModelConfig(**sizes, **model), data=data)
