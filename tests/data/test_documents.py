"""Documents as training examples: each sentence with those before it, and never with another document's."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpora import CORPORA, find_corpus
from data.corpora.corpus import OfDocuments
from data.dataset import PreparedData, find_prepared, prepare
from data.documents import examples, kept
from data.encoding import Counts
from data.grammar import documents
from data.held_out import held_out
from data.sampling import training_plan
from data.text import BOUNDARY, SEPARATOR
from data.tokenizer import Tokenizer, joined, sentences_in
from transformer.config import EOS, DataConfig, UserError

quiet = lambda line: None  # noqa: E731

DOCUMENTS = [[f"der hund {i} {k} sieht" for k in range(length)] for i, length in enumerate((1, 4, 2, 3, 1, 5))]


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def config_of(folder: Path, source: str, target: str | None = None, **changes) -> DataConfig:
    """Settings for one text as training, validation and test text."""
    src, tgt = write(folder, "a.src", source), write(folder, "a.tgt", source if target is None else target)
    files = {f"{split}_{side}": path for split in ("train", "dev") for side, path in (("src", src), ("tgt", tgt))}
    settings = {"vocab_size": 40, "max_length": 60, "batch_tokens": 256, "max_unknown": 1.0, **changes}
    return DataConfig(**files, **settings)


def with_blank_lines(between: str = "\n") -> str:
    return between.join("".join(line + "\n" for line in document) for document in DOCUMENTS)


def texts_of(data: PreparedData, split: str = "train") -> list[str]:
    tokens = getattr(data, split).target
    return data.tokenizer.decode([tokens[i] for i in range(len(tokens))])


@given(st.lists(st.lists(st.text("ab", min_size=1), min_size=1), min_size=1), st.integers(1, 5))
def test_an_example_is_a_sentence_with_those_before_it_in_its_document(texts, context):
    pairs = [pair for text in texts for pair in (BOUNDARY, *((line, line.upper()) for line in text), BOUNDARY)]
    counts = Counts()
    found = [a.split("\n") for a, _ in examples(kept(pairs, "train", counts, context), context)]
    assert found == [text[max(0, i + 1 - context) : i + 1] for text in texts for i in range(len(text))]
    assert counts.read == sum(map(len, texts)) and counts.blank == 0
    assert counts.documents == (len(texts) if context > 1 else 0)


@pytest.mark.parametrize("context", [2, 3])
def test_prepared_examples_never_cross_a_boundary(tmp_path, context):
    data = prepare(config_of(tmp_path, with_blank_lines(), context=context), tmp_path / "prepared", quiet)
    expected = [
        "\n".join(text[max(0, i + 1 - context) : i + 1]) for text in DOCUMENTS for i in range(len(text))
    ]  # fmt: skip
    assert texts_of(data) == texts_of(data, "dev") == expected
    assert data.manifest["splits"]["train"]["documents"] == len(DOCUMENTS)
    assert data.text("dev", "source") == with_blank_lines().splitlines()
    for split in ("source", "target"):
        first = getattr(data.train, split)[4]
        assert list(first).count(data.tokenizer.separator) == min(context, 4) - 1 and first[-1] == EOS


@pytest.mark.parametrize("text", [with_blank_lines("\n\n \n"), "\n" + with_blank_lines() + "\n\n",
                                  with_blank_lines().replace("\n", "\r\n"), with_blank_lines().rstrip("\n"),
                                  with_blank_lines("\u200b\n")])  # fmt: skip
def test_a_boundary_is_any_number_of_blank_lines(tmp_path, text):
    data = prepare(config_of(tmp_path, text, context=3), tmp_path / "prepared", quiet)
    plain = prepare(config_of(tmp_path, with_blank_lines(), context=3), tmp_path / "prepared", quiet)
    assert texts_of(data) == texts_of(plain)


def test_a_column_names_the_documents(tmp_path):
    lines = "".join(f"{number}\t{line}\n" for number, text in enumerate(DOCUMENTS) for line in text)
    named = config_of(tmp_path, lines, context=3, documents="column")
    data = prepare(named, tmp_path / "prepared", quiet)
    plain = prepare(config_of(tmp_path, with_blank_lines(), context=3), tmp_path / "prepared", quiet)
    assert texts_of(data) == texts_of(plain) and data.tokenizer.sha256 == plain.tokenizer.sha256
    counts = data.manifest["splits"]["train"]
    assert (counts["read"], counts["blank"], counts["documents"]) == (16, 0, 6)
    assert data.text("dev", "source") == plain.text("dev", "source")
    single = prepare(config_of(tmp_path, lines, documents="column"), tmp_path / "prepared", quiet)
    assert texts_of(single) == [line for text in DOCUMENTS for line in text]


def test_with_a_context_of_one_nothing_changes(tmp_path):
    """The hash of the folder and the hash of each file are those that the code made before there were documents."""
    config = DataConfig(vocab_size=300, train_pairs=300, max_length=64, batch_tokens=512)
    data = prepare(config, tmp_path, quiet)
    assert data.hash == "6135de042a04cd15c0542a4254a993cc9d5199620b8c1c8f50ff1d62586887bf"
    assert (
        data.manifest["files"]["train.target.tokens.npy"]["sha256"]
        == "526f124b8d593b8f0f266dae5257e4f143713acb21b58d21a5e51dbf58d6a707"
    )
    assert data.tokenizer.separator is None and "documents" not in data.manifest["splits"]["train"]
    assert "context" not in data.manifest


def test_one_side_with_a_blank_line_is_refused(tmp_path):
    text = with_blank_lines()
    wrong = text.replace("\n\n", "\nhund\n", 1)
    with pytest.raises(UserError, match="line 2 of train is blank in the source but not in the target"):
        prepare(config_of(tmp_path, text, wrong, context=2), tmp_path / "prepared", quiet)
    with pytest.raises(UserError, match="line 2 of train is blank in the target but not in the source"):
        prepare(config_of(tmp_path, wrong, text, context=2), tmp_path / "prepared", quiet)
    prepare(config_of(tmp_path, text, wrong), tmp_path / "prepared", quiet)  # single sentences: it is dropped


@pytest.mark.parametrize(("source", "target", "message"), [
    ("a\tx\nb\ty\n", "a\tx\na\ty\n", "line 2 is of document 'b' in .*a.src but of 'a' in .*a.tgt"),
    ("a\tx\nno name\n", "a\tx\na\ty\n", "a.src, line 2: no name of a document and tab"),
    ("a\tx\na\ty\n", "a\tx\n\ty\n", "a.tgt, line 2: no name of a document and tab"),
])  # fmt: skip
def test_columns_that_do_not_agree_are_refused(tmp_path, source, target, message):
    with pytest.raises(UserError, match=message):
        prepare(config_of(tmp_path, source, target, documents="column"), tmp_path / "prepared", quiet)


def test_a_text_without_a_boundary_is_one_document_and_that_is_said(tmp_path):
    said = []
    prepare(config_of(tmp_path, with_blank_lines(""), context=2), tmp_path / "prepared", said.append)
    assert any("warning: train has no boundary: its 16 sentences are read as one document" in line for line in said)
    said.clear()
    prepare(config_of(tmp_path, with_blank_lines(), context=2), tmp_path / "prepared", said.append)
    assert not any("no boundary" in line for line in said)


def test_an_example_that_is_too_long_loses_its_first_sentences(tmp_path):
    text = with_blank_lines()
    whole = prepare(config_of(tmp_path, text, context=3), tmp_path / "prepared", quiet)
    lengths = whole.train.lengths("source")
    most = int(lengths.max()) - 1
    short = prepare(config_of(tmp_path, text, context=3, max_length=most), tmp_path / "prepared", quiet)
    assert len(short.train) == len(short.dev) == len(whole.train) == 16
    assert short.train.lengths("source").max() <= most and short.dev.lengths("source").max() <= most
    for before, after in zip(texts_of(whole), texts_of(short), strict=True):
        assert before.endswith(after) and before.split("\n")[-1] == after.split("\n")[-1]
    cut = sum(before != after for before, after in zip(texts_of(whole), texts_of(short), strict=True))
    assert short.manifest["splits"]["train"]["shortened"] == cut > 0
    assert short.manifest["splits"]["train"]["too_long"] == 0


def test_a_sentence_that_is_too_long_by_itself_is_dropped_in_training_only(tmp_path):
    text = "eins\nzwei\n" + "lang " * 20 + "\ndrei\nvier\n"
    data = prepare(config_of(tmp_path, text, context=2, max_length=20, vocab_size=26), tmp_path / "prepared", quiet)
    assert texts_of(data) == ["eins", "eins\nzwei", "drei", "drei\nvier"]
    assert len(texts_of(data, "dev")) == 5 and data.manifest["splits"]["train"]["too_long"] == 1


def test_separators_in_the_text_are_harmless(tmp_path):
    text = "".join(f"ein {SEPARATOR} hund {i} < s e p >\n" + "\n" * (i % 2) for i in range(6))
    data = prepare(config_of(tmp_path, text, context=2), tmp_path / "prepared", quiet)
    found = texts_of(data)
    assert found[0] == f"ein {SEPARATOR} hund 0 < s e p >" and found[1].split("\n")[1] == found[1].split("\n")[
        0
    ].replace("0", "1")
    for i in range(len(data.train)):
        assert (data.train.source[i] == data.tokenizer.separator).sum() == found[i].count("\n")


def test_the_vocabulary_joins_and_splits_sentences(tmp_path):
    data = prepare(config_of(tmp_path, with_blank_lines(), context=2), tmp_path / "prepared", quiet)
    tokenizer = data.tokenizer
    assert tokenizer.separator is not None
    one, other = tokenizer.encode(["der hund", "sieht 1"])
    (both,) = tokenizer.encode(["der hund\nsieht 1"])
    assert both == joined([one, other], tokenizer.separator) == [*one[:-1], tokenizer.separator, *other]
    assert sentences_in(both, tokenizer.separator) == [one[:-1], other]
    assert tokenizer.decode([both]) == ["der hund\nsieht 1"]
    assert tokenizer.pieces([tokenizer.separator]) == [SEPARATOR]
    assert Tokenizer.load(data.path).separator == tokenizer.separator


def test_subword_sampling_keeps_the_sentences(tmp_path):
    config = config_of(tmp_path, with_blank_lines(), context=3, subword_sampling=0.5, batch_tokens=512)
    data = prepare(config, tmp_path / "prepared", quiet)
    plan = training_plan(data, config, seed=1)
    split = plan.epoch(0).split
    assert split is not None
    decoded = data.tokenizer.decode([split.target[i] for i in range(len(split))])
    assert decoded == texts_of(data)
    assert any(list(split.target[i]) != list(data.train.target[i]) for i in range(len(split)))


def test_held_out_text_is_the_same_without_its_prepared_data(tmp_path):
    config = config_of(tmp_path, with_blank_lines(), context=3, max_length=40)
    data = prepare(config, tmp_path / "prepared", quiet)
    trained = {"hash": data.hash, "sources": data.manifest["sources"]}
    there, gone = (
        held_out(config, "dev", data.tokenizer, trained, tmp_path / name, quiet) for name in ("prepared", "x")
    )
    assert there.sources == gone.sources == with_blank_lines().splitlines()
    assert there.counts == gone.counts
    assert all((a == b).all() for i in range(16) for a, b in zip(there.tokens[i], gone.tokens[i], strict=True))


def test_settings_of_documents_have_folders_of_their_own(tmp_path):
    config = config_of(tmp_path, with_blank_lines(), context=2)
    path = prepare(config, tmp_path / "prepared", quiet).path
    assert find_prepared(config, tmp_path / "prepared", quiet) == path
    for other in (replace(config, context=1), replace(config, context=3)):
        assert find_prepared(other, tmp_path / "prepared", quiet) is None


def test_what_has_no_documents_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"grammar has no boundaries between documents, which data\.context = 2"):
        find_corpus(DataConfig(context=2))
    with pytest.raises(UserError, match=r"data\.documents is for your own text only"):
        find_corpus(DataConfig(documents="column"))
    with pytest.raises(UserError, match=r"leave it out with data\.task parsing"):
        find_corpus(DataConfig(documents="column", task="parsing", train_tgt="x.mrg", dev_tgt="x.mrg"))
    with pytest.raises(UserError, match=r"data\.context must be at least 1"):
        DataConfig(context=0)
    assert isinstance(CORPORA["grammar-documents"], OfDocuments)
    single = prepare(config_of(tmp_path, with_blank_lines()), tmp_path / "prepared", quiet)
    given_vocabulary = config_of(tmp_path, with_blank_lines(), context=2, vocabulary=str(single.path / "vocab.model"))
    with pytest.raises(UserError, match=f"is a vocabulary of single sentences, without {SEPARATOR}"):
        prepare(given_vocabulary, tmp_path / "prepared", quiet)
    trees = DataConfig(task="parsing", vocabularies="separate", context=2, corpus="generated-trees")
    with pytest.raises(UserError, match="about single sentences"):
        prepare(trees, tmp_path / "prepared", quiet)


# The generated documents


def test_pronouns_of_the_grammar_need_the_sentence_before_and_nothing_else():
    found = list(documents.contrasts("test", 3000))
    genders: dict[str, Counter[str]] = {}
    for context, source, target, wrong, pronoun in found:
        assert " it " in f" {source[:-1].lower()} " and pronoun in target.lower()[:-1].split()
        assert len({target, *wrong}) == 3 and all(len(one.split()) == len(target.split()) for one in wrong)
        genders.setdefault(source, Counter())[pronoun] += 1
        assert context and " it" not in context[-1][0].removesuffix(".").split()
    several = [counts for counts in genders.values() if counts.total() > 5]
    assert len(several) > 5 and all(len(counts) > 1 for counts in several), "the same sentence has other pronouns"
    kinds = Counter({"er": "m", "ihn": "m", "sie": "f", "es": "n"}[one[-1]] for one in found)
    assert max(kinds.values()) < 0.4 * kinds.total()


def test_the_noun_of_the_sentence_before_tells_the_pronoun():
    """Whatever else is in the documents, the same noun always has a pronoun of the same gender."""
    genders: dict[str, set[str]] = {}
    for context, *_, pronoun in documents.contrasts("train", 3000):
        words = context[-1][0].removesuffix(".").removesuffix(" today").split()
        noun = next(w for w in reversed(words) if w not in ("away", "back"))
        genders.setdefault(noun, set()).add({"ihn": "er"}.get(pronoun, pronoun))
    assert all(len(found) == 1 for noun, found in genders.items() if noun not in ("coat", "table", "clock"))


def test_contrasts_are_those_of_the_pairs():
    lines = list(documents.pairs("dev", 500))
    found = list(documents.contrasts("dev", 500))
    assert len(found) > 150
    for context, source, target, wrong, _ in found:
        at = lines.index((source, target))
        assert (source, target) in lines and not set(wrong) & {german for _, german in lines[at - 1 : at]}
        assert context[-1] in lines


@pytest.mark.slow
def test_generated_documents_are_repeatable_and_in_one_split():
    assert list(documents.pairs("train", 200)) == list(documents.pairs("train", 300))[:200]
    assert list(documents.pairs("train", 200, seed=1)) != list(documents.pairs("train", 200))

    def texts(split: str) -> set[str]:
        return set("\n".join(a for a, _ in documents.pairs(split, 5000)).split("\n\n")[:-1])

    assert not texts("train") & texts("test") and not texts("dev") & texts("test")
    with pytest.raises(UserError, match="unknown split"):
        next(documents.pairs("valid", 1))
