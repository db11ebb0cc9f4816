"""The ways to decode of transformer/variants, from text to text: in Python, and from the command line."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import experiments
from data.tokenizer import train_tokenizer
from experiments.cli.main import main
from experiments.planning.explain import explain
from experiments.sentences import Translation, first_of_each_text
from experiments.translator import Translator, contains
from experiments.words import copied
from experiments.workdir import WorkDir
from transformer.config import EOS, UNK, DecodeConfig, UserError


@pytest.fixture(scope="module")
def translator(run) -> Translator:
    """The model with some outputs that end: EOS is made similar to the piece that it generates most often."""
    loaded = experiments.load(run.path)
    pieces = loaded.n_best(["A"], 1)[0][0].pieces
    (often,) = loaded.tokenizer.ids([max(pieces, key=pieces.count)])
    embedding = loaded.params["embedding"]
    params = loaded.params | {"embedding": embedding.at[EOS].set(0.7 * embedding[often])}
    return Translator(params, loaded.experiment, loaded.tokenizer, log=lambda line: None)


@pytest.fixture(scope="module")
def sentences(text, translator) -> list[str]:
    """Eight sentences of one padded width, so that each search is compiled once."""
    lines = (text / "train.en").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if 16 < len(translator.encode([line])[0]) <= 32][:8]


def with_decode(translator, log=lambda line: None, **changes) -> Translator:
    decode = replace(translator.experiment.decode, extra_length=8, **changes)
    experiment = replace(translator.experiment, decode=decode)
    return Translator(translator.params, experiment, translator.tokenizer, log=log, graph=translator.graph)


SAMPLING = {"sample": True, "beam": 1, "temperature": 1.3, "seed": 5}


@pytest.mark.slow
def test_samples_depend_on_line_and_seed_and_not_on_the_batch(translator, sentences):
    drawn = with_decode(translator, **SAMPLING).n_best(sentences, 3)
    again = with_decode(translator, batch_size=5, **SAMPLING).n_best(sentences, 3)
    assert [[one.pieces for one in each] for each in again] == [[one.pieces for one in each] for each in drawn]
    later = with_decode(translator, **SAMPLING).translate(sentences)
    assert later == [each[0].text for each in drawn]
    (alone,) = with_decode(translator, **SAMPLING).n_best([sentences[7]], 1, first=8)
    assert alone[0].text == drawn[7][0].text
    elsewhere = with_decode(translator, **SAMPLING).n_best([sentences[7]] * 2, 1, first=8)
    assert elsewhere[1][0].text != elsewhere[0][0].text == drawn[7][0].text
    assert with_decode(translator, **SAMPLING | {"seed": 6}).translate(sentences) != later


def test_samples_are_distinct_and_scored_as_given_translations_are(translator, sentences):
    # A low temperature draws the same text several times.
    few = with_decode(translator, **SAMPLING | {"temperature": 0.05}).n_best(sentences[:4], 6)
    assert all(len({one.text for one in each}) == len(each) for each in few)
    assert any(len(each) < 6 for each in few)
    many = with_decode(translator, **SAMPLING).n_best(sentences, 4)
    found = [(source, one) for source, each in zip(sentences, many, strict=True) for one in each]
    scores = translator.score([source for source, _ in found], [one.pieces for _, one in found])
    np.testing.assert_allclose(scores, [one.score for _, one in found], atol=1e-4)


def test_samples_have_no_ids_without_a_piece(translator, sentences):
    # The embedding has 220 rows for 200 pieces. At a high temperature every row is about as likely.
    drawn = with_decode(translator, **SAMPLING | {"temperature": 50.0, "forbid_unk": True}).n_best(sentences, 4)
    assert not any("<unk>" in one.pieces for each in drawn for one in each)
    free = with_decode(translator, **SAMPLING | {"temperature": 50.0})
    assert any("<unk>" in one.pieces for each in free.n_best(sentences, 8) for one in each)


@pytest.mark.parametrize("changes", [{"beam": 1}, {"beam": 3}, SAMPLING], ids=["greedy", "beam", "sampling"])
def test_a_translation_begins_with_its_prefix_whatever_the_batch(translator, sentences, changes):
    prefixes = ["Der Mann", "", "Die", *["Ein Hund und"] * 5]
    whole, single = with_decode(translator, **changes), with_decode(translator, batch_size=1, **changes)
    found = whole.n_best(sentences, 1, prefixes=prefixes)
    for (one,), prefix in zip(found, prefixes, strict=True):
        pieces = translator.tokenizer.pieces(translator.encode([prefix])[0][:-1])
        assert list(one.pieces[: len(pieces)]) == pieces and one.text.startswith(prefix)
    assert single.translate(sentences, prefixes=prefixes) == [one.text for (one,) in found]
    assert found[1][0].text == whole.translate(sentences)[1]
    exact = [("▁", "D"), *[()] * 7]
    assert whole.n_best(sentences, 1, prefixes=exact)[0][0].pieces[:2] == ("▁", "D")


@pytest.mark.slow
def test_constraints_are_met_or_warned_of_and_leave_other_sentences_alone(translator, sentences):
    said: list[str] = []
    wide = with_decode(translator, said.append, beam=6)
    constraints = [["der Hund", "Haus"], [], ["Frau"], [""], ["Hund Mann Frau Haus " * 5], *[["Mann"]] * 3]
    found = wide.n_best(sentences, 6, constraints=constraints)
    ended = 0
    for number, (each, phrases) in enumerate(zip(found, constraints, strict=True), start=1):
        for one in each:
            ids = translator.tokenizer.ids(one.pieces)
            met = all(contains(ids, translator.encode([phrase])[0][:-1]) for phrase in phrases)
            ended += one.finished and bool(phrases)
            assert met or not one.finished
            assert not met or all(phrase in one.text for phrase in phrases)
            if one is each[0]:
                assert met != any(
                    line.startswith(f"warning: line {number}:") and "constraints" in line for line in said
                )
    assert ended
    plain = wide.n_best(sentences, 6)
    for i in (1, 3):
        assert [one.pieces for one in found[i]] == [one.pieces for one in plain[i]]
    order = np.random.default_rng(0).permutation(len(sentences))
    shuffled = wide.n_best([sentences[i] for i in order], 6, constraints=[constraints[i] for i in order])
    assert [each[0].text for each in shuffled] == [found[i][0].text for i in order]
    assert "warning: line 5: its translation was cut off before it contained all constraints" in said


def other(translator) -> Translator:
    """A model of the same vocabulary with other parameters."""
    params = jax.tree.map(lambda x: x[::-1] if x.ndim == 1 else -x, translator.params)
    params |= {"embedding": translator.params["embedding"]}
    return Translator(params, translator.experiment, translator.tokenizer)


@pytest.mark.slow
def test_an_ensemble_translates_scores_and_refuses_what_is_of_one_model(translator, sentences):
    both = Translator.ensemble([("a", translator), ("b", other(translator))])
    both.log = lambda line: None
    found = both.n_best(sentences[:4], 3)
    pairs = [(source, one) for source, each in zip(sentences, found, strict=False) for one in each]
    scores = both.score([source for source, _ in pairs], [one.pieces for _, one in pairs])
    np.testing.assert_allclose(scores, [one.score for _, one in pairs], atol=1e-4)
    swapped = Translator.ensemble([("b", other(translator)), ("a", translator)])
    pair = [sentences[0]], ["Der Hund."]
    np.testing.assert_allclose(swapped.score(*pair), both.score(*pair), rtol=1e-5)
    assert found != translator.n_best(sentences[:4], 3)
    with pytest.raises(UserError, match="an ensemble has no"):
        both.attention(sentences[0])


def test_runs_are_loaded_as_an_ensemble_if_their_vocabulary_is_the_same(run, sentences, tmp_path):
    alone = with_decode(experiments.load(run.path))
    one = with_decode(experiments.load([run.path]))
    assert one.n_best(sentences, 2) == alone.n_best(sentences, 2)
    twice = with_decode(experiments.load([run.path, run.path]))
    assert isinstance(twice.params, tuple) and twice.translate(sentences) == alone.translate(sentences)
    copy = WorkDir(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    tokenizer = train_tokenizer(["some other text", "with other pieces"], copy.vocabulary, "bpe", 30)
    stranger = Translator(alone.params, alone.experiment, tokenizer)
    with pytest.raises(UserError, match="a and b have different vocabularies"):
        Translator.ensemble([("a", alone), ("b", stranger)])
    rows = replace(alone.experiment, model=replace(alone.experiment.model, vocab_size=230))
    with pytest.raises(UserError, match="220 and 230 rows"):
        Translator.ensemble([("a", alone), ("b", Translator(alone.params, rows, alone.tokenizer))])


def test_an_unknown_piece_is_the_source_word_that_attention_points_at():
    surfaces = ["▁the", "▁Schn", "ee", "▁", "☃☃", "▁", "Łó", "d"]
    source = ["▁the", "▁Schn", "ee", "▁", "<unk>", "▁", "<unk>", "d", "</s>"]
    assert copied(["▁der", "▁", "<unk>", "</s>"], surfaces, source, [0, 0, 2, 1]) == ["▁der", "▁", "Schnee", "</s>"]
    assert copied(["<unk>", "<unk>", "d"], surfaces, source, [4, 6, 0]) == ["☃☃", "Łó", "d"]
    assert copied(["<unk>", "<unk>"], surfaces, source, [7, 5]) == ["Łód", "Łód"]


@pytest.mark.slow
def test_replaced_unknown_pieces_are_copied_from_the_source(run, sentences):
    said: list[str] = []
    translator = experiments.load(run.path, log=lambda line: None)
    # The model generates <unk> wherever it would have generated its most frequent piece.
    pieces = [piece for best in translator.n_best(sentences, 1) for piece in best[0].pieces]
    (often,) = translator.tokenizer.ids([max(pieces, key=pieces.count)])
    embedding = translator.params["embedding"]
    params = translator.params | {"embedding": embedding.at[UNK].set(1.1 * embedding[often])}
    unsure = Translator(params, translator.experiment, translator.tokenizer, graph=translator.graph)
    before = with_decode(unsure, beam=1).n_best(sentences, 1)
    after = with_decode(unsure, said.append, beam=1, replace_unk=True).n_best(sentences, 1)
    assert [each[0].pieces for each in after] == [each[0].pieces for each in before]
    held = [i for i, (one,) in enumerate(before) if "<unk>" in one.pieces]
    assert held and not any("⁇" in line for line in said)
    assert all("⁇" not in one.text for (one,) in after)
    for i in held[:2]:
        (one,) = after[i]
        assert "⁇" in before[i][0].text
        seen = unsure.attention(sentences[i], one.pieces)
        weights = seen.weights.cross[-1].mean(axis=0)[:, :-1]
        words = sentences[i].split()
        starts = np.cumsum([piece.startswith("▁") for piece in seen.source[:-1]]) - 1
        expected = [
            words[starts[weights[t].argmax()]] if piece == "<unk>" else piece for t, piece in enumerate(one.pieces)
        ]
        assert one.text == translator.tokenizer.join(expected)
    assert [one.text for (one,) in after if "<unk>" not in one.pieces] == [
        one.text for (one,) in before if "<unk>" not in one.pieces
    ]


def test_texts_that_become_the_same_are_given_once_in_order():
    a, b, again = (Translation(text, score, ()) for text, score in (("a", -1.0), ("b", -2.0), ("a", -3.0)))
    assert first_of_each_text([a, b, again]) == [a, b]


def test_surfaces_keep_what_pieces_do_not_know(translator):
    line = "The ☃☃ man"
    surfaces = translator.tokenizer.surfaces(line)
    assert "".join(surfaces).replace("▁", " ").strip() == line and "☃☃" in surfaces
    assert len(surfaces) == len(translator.tokenizer.encode([line])[0]) - 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_p": 0.0}, "decode.top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": 1.1}, "decode.top_p must be above 0 and at most 1"),
        ({"temperature": 0.0}, "decode.temperature must be above 0 and finite, not 0.0: .*greedy search"),
        ({"temperature": -1.0}, "decode.temperature must be above 0"),
        ({"top_k": -1}, "decode.top_k must be from 0 to"),
        ({"min_length": -1}, "decode.min_length must be from 0 to"),
        ({"no_repeat_ngram": -2}, "decode.no_repeat_ngram must be from 0 to"),
        ({"beam": 2}, "decode.sample .* needs a beam of 1, not 2"),
        ({"sample": False, "top_k": 5}, "decode.top_k affects only sampling"),
        ({"sample": False, "seed": 5}, "decode.seed affects only sampling"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        DecodeConfig(**{"sample": True, "beam": 1} | settings)


def test_more_candidates_than_pieces_are_refused(micro):
    assert replace(micro, decode=DecodeConfig(sample=True, beam=1, top_k=200))
    with pytest.raises(UserError, match=r"decode.top_k is 201, but the vocabulary has only 200 pieces"):
        replace(micro, decode=DecodeConfig(sample=True, beam=1, top_k=201))


def test_what_cannot_be_met_is_refused_by_line(translator):
    def refused(match, *changes, sentences=("A dog.", "A man."), **given):
        with pytest.raises(UserError, match=match):
            with_decode(translator, **dict(*changes)).translate(list(sentences), **given)

    refused(r"prefix line 2 has \d+ tokens; the translation of its line has at most \d+", prefixes=["", "Hund " * 30])
    refused("2 lines but 1 prefix: give one each", prefixes=["Der"])
    refused("2 lines but 3 lines of constraints", constraints=[[], [], []])
    refused("prefix line 1 ends in </s>", prefixes=[("▁", "</s>"), ""])
    refused("line 1 is blank, .* cannot have a prefix", sentences=["", "A"], prefixes=["Der", ""])
    refused("line 1 is blank, .* cannot have constraints", sentences=["", "A"], constraints=[["Der"], []])
    refused("constraints need beam search", {"beam": 1}, constraints=[["Hund"], []])
    refused("constraints need beam search", SAMPLING, constraints=[["Hund"], []])
    refused("constraint line 2 has characters that are not in the vocabulary", constraints=[[], ["☃"]])
    refused("constraint line 1 is not a list of phrases", constraints=["Hund", []])
    with pytest.raises(UserError, match="cannot draw 0 samples"):
        with_decode(translator, **SAMPLING).n_best(["A dog."], 0)


@pytest.mark.slow
def test_the_command_line_decodes_as_python_does(run, capsys, tmp_path, sentences):
    source, prefix, phrases, short = (tmp_path / name for name in ("source", "prefix", "phrases", "short"))
    source.write_text("".join(line + "\n" for line in sentences), encoding="utf-8")
    prefix.write_text("Der\n" * 8, encoding="utf-8")
    phrases.write_text("Hund\tMann\n" + "\n" * 7, encoding="utf-8")
    short.write_text("Der\n", encoding="utf-8")
    same = ("translate", str(run.path), "--input", str(source))

    def said(*flags, command=same) -> tuple[int, str, str]:
        code = 0
        try:
            main([*command, *map(str, flags)])
        except SystemExit as error:
            code = error.code
        found = capsys.readouterr()
        return code, found.out, found.err

    loaded = experiments.load(run.path, log=lambda line: None)
    decode = replace(loaded.experiment.decode, beam=1, sample=True, top_k=9, seed=3)
    loaded.experiment = replace(loaded.experiment, decode=decode)
    drawn = loaded.translate(sentences)
    code, out, _ = said("--sample", "--top-k", 9, "--seed", 3)
    assert code == 0 and out.splitlines() == drawn
    code, out, _ = said("--prefix", prefix, "--beam", 1)
    assert code == 0 and all(line.startswith("Der") for line in out.splitlines())
    code, out, _ = said("--constraints", phrases, "--beam", 8)
    assert code == 0 and "Hund" in out.splitlines()[0] and "Mann" in out.splitlines()[0]
    code, out, _ = said("--beam", 1, command=("translate", f"{run.path},{run.path}", "--input", str(source)))
    assert (code, out) == said("--beam", 1)[:2]

    for flags, message in (
        (("--sample", "--beam", 4), "needs a beam of 1"),
        (("--temperature", 0.5), "affects only sampling"),
        (("--sample", "--temperature", 0), "decode.temperature must be above 0"),
        (("--sample", "--top-k", 201), "has only 200 pieces"),
        (("--prefix", short), f"the input has 8 lines but {short} has 1"),
        (("--constraints", short), f"the input has 8 lines but {short} has 1"),
        (("--constraints", phrases, "--sample"), "constraints need beam search"),
        (("--prefix", prefix, "--interactive"), "without --i"),
        (("--sample=yes",), "--sample expects no value, not 'yes': type --sample for True or --no-sample for False"),
    ):
        code, out, err = said(*flags)
        assert code == 2 and message in err.splitlines()[-1] and not out, flags
        assert err.count("error") <= 1
    code, out, err = said(command=("attention", f"{run.path},{run.path}", "A house."))
    assert code == 2 and "is an ensemble: only `translate`, `serve`, `score` and `evaluate`" in err and not out


def test_explain_names_the_ways_that_are_not_the_papers(micro):
    lines = list(explain(replace(micro, decode=DecodeConfig(beam=1, sample=True, top_k=5, no_repeat_ngram=3))))
    first = next(i for i, line in enumerate(lines) if line.startswith("6.1"))
    assert lines[first].startswith("6.1    sampled, temperature 1;")
    assert lines[first + 1] == "       top-k 5; no 3-gram twice"
    told = [line.strip(" -").partition(":")[0] for line in lines if line.endswith("(6.1)")]
    assert {"decode.beam", "decode.sample", "decode.top_k", "decode.no_repeat_ngram"} <= set(told)
    plain = list(explain(replace(micro, decode=DecodeConfig())))
    assert plain[
        plain.index("6.1    beam of 4; log P / ((5 + length) / 6)^0.6; at most 50 tokens longer than the source") + 1
    ].startswith("       parameters:")
