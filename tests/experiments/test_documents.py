"""Translation of documents: one line for each line, whatever is in them, and nothing of another document."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.dataset import DATASETS

import experiments
from data.dataset import prepare
from data.grammar import documents as generated
from data.text import BOUNDARY
from experiments import find
from experiments.cli.main import main
from experiments.documents import Both, begun_by, following, history_of, in_context, rounds, without_begin
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.test_sets import find_test_set, own_split, read_files
from experiments.exchange.exchange import export_run
from experiments.inspection.contrast import contrast, own_contrasts, preferred, read_contrasts
from experiments.planning.explain import explain
from experiments.sentences import SKIPPED
from experiments.training.loop import train
from experiments.translator import Translator
from transformer.config import EOS, UserError
from transformer.decode import Hypotheses

quiet = lambda line: None  # noqa: E731


def lines_of(split: str, count: int) -> list[tuple[str, str]]:
    return list(generated.pairs(split, count))


@pytest.fixture(scope="module")
def stories(tmp_path_factory) -> Path:
    """A folder with documents: {train,dev,test}.{en,de}."""
    folder = tmp_path_factory.mktemp("documents")
    for split, count in (("train", 400), ("dev", 12), ("test", 24)):
        for side, language in enumerate(("en", "de")):
            content = "".join(pair[side] + "\n" for pair in lines_of(split, count))
            (folder / f"{split}.{language}").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def document_run(micro, stories, tmp_path_factory):
    """A poor model of documents, with a context of three sentences."""
    files = {
        f"{split}_{side}": str(stories / f"{split}.{language}")
        for split in ("train", "dev", "test")
        for side, language in (("src", "en"), ("tgt", "de"))
    }
    data = replace(micro.data, context=3, max_length=90, **files)
    experiment = replace(micro, data=data, train=replace(micro.train, steps=20, eval_every=10, eval_sentences=3))
    return train(experiment, tmp_path_factory.mktemp("runs") / "of-documents", log=quiet)


@pytest.fixture(scope="module")
def translator(document_run) -> Translator:
    return experiments.load(document_run.path, log=quiet)


@pytest.fixture(scope="module")
def alone(translator) -> Translator:
    """The same parameters as a model of single sentences."""
    experiment = translator.experiment
    single = replace(experiment, data=replace(experiment.data, context=1))
    return Translator(translator.params, single, translator.tokenizer, quiet)


A, B, C, D = "The man sells his hat.", "It is heavy.", "We buy a car.", "This king needs it."


@pytest.mark.slow
def test_the_first_sentence_is_translated_like_a_document_of_one_and_like_a_sentence(translator, alone):
    first, *_ = translator.translate([A, B, C])
    assert [first] == translator.translate([A]) == alone.translate([A])
    assert translator.translate(["", A, "", "", C]) == ["", first, "", "", *alone.translate([C])]


def test_a_document_does_not_notice_the_others(translator):
    one, other = [A, B, C, D, B], [C, D]
    expected = [*translator.translate(one), "", *translator.translate(other), "", *translator.translate([A])]
    assert translator.translate([*one, "", *other, "", A]) == expected
    assert translator.translate([*other, "", A, "", *one]) == [*expected[6:8], "", expected[-1], "", *expected[:5]]


def test_context_changes_something(translator, alone):
    """Otherwise the other tests would show nothing. A poor model repeats itself, so its scores are compared."""
    assert translator.score([A, B], ["x", "y"])[1] != alone.score([A, B], ["x", "y"])[1]
    assert translator.score([A, B], ["x", "y"])[0] == pytest.approx(alone.score([A], ["x"])[0], abs=1e-4)


def test_lines_in_pieces_are_translated_like_lines_at_once(translator):
    lines = [A, B, "", C, D, A, B]
    whole = translator.translate(lines)
    for cut in range(len(lines)):
        first = translator.translate(lines[:cut])
        before = following([], lines[:cut], first)
        rest = [best[0].text for best in translator.n_best(lines[cut:], 1, first=cut + 1, before=before)]
        assert [*first, *rest] == whole, cut


def test_the_search_finds_what_forced_scoring_gives(translator):
    """The hidden part of an output is that of the sentences before, and the rest is scored the same either way."""
    lines = [A, B, C, D]
    found = [best[0] for best in translator.n_best(lines, 1, log_probs=True)]
    before = [[(lines[k], found[k].text) for k in range(i)] for i in range(len(lines))]
    scored = translator.log_probs(lines, [one.pieces for one in found], before=before)
    for one, values in zip(found, scored, strict=True):
        assert one.log_probs == pytest.approx(values, abs=1e-3)
        assert len(one.pieces) == len(one.log_probs)
        penalty = ((5 + len(values)) / 6) ** translator.experiment.decode.alpha
        assert one.score == pytest.approx(sum(values) / penalty, abs=1e-3), "that of the sentence, not of those before"
    in_order = translator.log_probs(lines, [one.text for one in found])
    again = translator.log_probs(lines, [one.text for one in found], before=before)
    assert all(a == pytest.approx(b, abs=1e-4) for a, b in zip(in_order, again, strict=True))


def test_a_blank_pair_separates_documents_in_scores(translator):
    texts = ["x", "y", "", "z"]
    first, second, blank, third = translator.score([A, B, "", C], texts)
    assert blank == 0.0 and [third] == pytest.approx(translator.score([C], ["z"]), abs=1e-4)
    assert [first, second] == pytest.approx(translator.score([A, B], ["x", "y"]), abs=1e-4)


INPUTS = {
    "nothing": b"",
    "one blank line": b"\n",
    "blank lines around": b"\n\nThe man sleeps.\nIt is heavy.\n\n\n",
    "several between": b"The man sleeps.\n\n \n\t\nIt is heavy.\n",
    "CRLF": b"The man sleeps.\r\n\r\nIt is heavy.\r\nWe buy it.\r\n",
    "no line end at the end": b"The man sleeps.\nIt is heavy.",
    "separators": b"The <sep> man.\n<sep>\n <sep> <sep>\n\nIt </s> is.\n",
    "what is not UTF-8": b"The man sleeps.\n\xff\xfe!\nIt is heavy.\n",
    "a line that is too long": b"The man.\n" + b"man " * 300 + b"\nIt is heavy.\nWe buy it.\n",
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("flags", [(), pytest.param(("--n-best", "2", "--json"), marks=pytest.mark.slow)])
def test_there_is_a_line_for_each_line(document_run, tmp_path, name, flags):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(INPUTS[name])
    run = [str(document_run.path), "--input", str(source), "--output", str(output), "--max-tokens", "200", *flags]
    main(["translate", *run])
    lines = INPUTS[name].split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    found = output.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(found) == len(lines) and all(line.endswith("\n") for line in found)
    if not flags:
        assert all(line == "\n" for line, given in zip(found, lines, strict=True) if not given.strip())


def test_the_groups_of_the_command_line_make_no_difference(document_run, translator, tmp_path, monkeypatch, capsys):
    lines = [A, B, C, "", D, A, "", B, C, D]
    source = tmp_path / "in"
    source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    for size in (1, 3, 4096):
        monkeypatch.setattr("experiments.streams.CHUNK", size)
        main(["translate", str(document_run.path), "--input", str(source)])
        assert capsys.readouterr().out.splitlines() == translator.translate(lines), size


def test_a_predicted_separator_makes_no_other_line(translator):
    """Whatever the model predicts after the sentences before: it is the text of this sentence."""
    separator = translator.tokenizer.separator
    one, other = (ids[:-1] for ids in translator.tokenizer.encode(["der Mann", "ist"]))
    tokens = np.array([[*one, separator, separator, *other, separator, EOS]])
    (found,) = translator.translations(Hypotheses(tokens, np.zeros(1), None), A)
    assert found.text == "der Mann ist"
    hidden = Hypotheses(tokens, np.zeros(1), -np.ones(tokens.shape))
    (found,) = translator.translations(hidden, A, hidden=len(one) + 2)
    assert found.text == "ist" and len(found.log_probs) == len(other) + 2


def test_an_n_best_list_is_sorted_by_the_scores_of_the_sentence(translator):
    for best in translator.n_best([A, B, C], 4):
        ended = [one.finished for one in best]
        assert ended == sorted(ended, reverse=True)
        for group in ([one.score for one in best if one.finished], [one.score for one in best if not one.finished]):
            assert group == sorted(group, reverse=True)
    tokens = np.array([[9, 5, EOS, 0], [9, 6, 7, 8], [9, 7, EOS, 0], [9, 0, 0, 0]])
    log_probs = np.array([[-9.0, -3, -1, 0], [-9, -1, -1, -1], [-9, -1, -1, 0], [0, 0, 0, 0]])
    found = Hypotheses(tokens, np.array([-1.0, -2, -3, -np.inf]), log_probs)
    ranked, drawn = (without_begin(found, 1, 0.0, ranked) for ranked in (True, False))
    assert ranked.scores.tolist() == [-2, -4, -3, -np.inf] and drawn.scores.tolist() == [-4, -3, -2, -np.inf]
    assert ranked.tokens.tolist()[:2] == [[7, EOS, 0], [5, EOS, 0]]


def test_prefixes_are_those_of_the_sentence(translator):
    found = translator.translate([A, B, C], prefixes=["Der Mann", "", "Wir"])
    assert found[0].startswith("Der Mann") and found[2].startswith("Wir")
    with pytest.raises(UserError, match="constraints are for models of single sentences"):
        translator.translate([A], constraints=[["Mann"]])


def test_a_skipped_line_ends_its_document(translator):
    short = Translator(translator.params, translator.experiment, translator.tokenizer, quiet)
    short.max_tokens = 40
    found = short.n_best([A, "man " * 60, B], 1, bad_lines="skip")
    assert found[1][0] is SKIPPED and found[2][0].text == translator.translate([B])[0]


def test_what_comes_before_is_as_long_as_in_training():
    pairs = [Both([5] * 9, [6] * 9), Both([7] * 4, [8] * 4)]
    assert begun_by(pairs, [9, EOS], (), longest=17, slack=5) == pairs
    assert begun_by(pairs, [9, EOS], (), longest=16, slack=5) == pairs[1:]
    assert begun_by(pairs, [9, EOS], (), longest=6, slack=5) == []
    assert begun_by(pairs, [9, EOS], [9] * 4, longest=18, slack=5) == pairs[1:]
    long = [Both([5], [6] * 9)]
    assert begun_by(long, [9, EOS], (), longest=90, slack=8) == long and begun_by(long, [9], (), 90, slack=7) == []
    assert in_context(pairs[1:], [9, EOS], [3], 10, 11) == ([7, 7, 7, 7, 10, 9, EOS], [8, 8, 8, 8, 11, 3])


def test_rounds_follow_the_places_in_the_documents():
    x, blank = [5, EOS], [EOS]
    sources = [x, x, blank, x, [], x, x, x]
    assert rounds(sources) == [[0, 2, 3, 4, 5], [1, 6], [7]]
    assert [list(each) for each in history_of(sources)] == [[], [0], [], [], [], [], [5], [5, 6]]
    assert rounds([]) == [[]]


def test_what_follows_a_boundary_has_nothing_before_it():
    assert following([("z", "Z")], ["a", "b"], ["A", "B"]) == [("z", "Z"), ("a", "A"), ("b", "B")]
    assert following([("z", "Z")], ["a", " ", "b"], ["A", "", "B"]) == [("b", "B")]
    assert following([("z", "Z")], ["a"], [None]) == []


# Scores


@pytest.mark.slow
def test_a_score_is_of_the_lines_that_are_sentences(document_run, translator):
    result = evaluate(document_run, translator, "test", quiet)
    pairs = [pair for pair in lines_of("test", 24) if pair != BOUNDARY]
    assert list(zip(result.sources, result.references, strict=True)) == pairs
    assert result.outputs == [
        line for line in translator.translate(own_split(translator, "test", quiet).sources) if line
    ]
    record = json.loads(result.record.read_text(encoding="utf-8"))
    assert record["counts"]["documents"] == lines_of("test", 24).count(BOUNDARY) + 1
    assert any(line.startswith("several sentences in a sequence: up to 3") for line in record["deviations"])


def test_test_sets_in_files_have_boundaries(translator, stories, tmp_path):
    files = stories / "test.en", stories / "test.de"
    data = translator.experiment.data
    plain = read_files(*files, translator.tokenizer, None, data=data)
    assert plain.sources == own_split(translator, "test", quiet).sources
    named = tmp_path / "named.en", tmp_path / "named.de"
    number = 0
    lines: tuple[list[str], list[str]] = ([], [])
    for pair in lines_of("test", 24):
        number += pair == BOUNDARY
        for side in (0, 1):
            lines[side].extend([f"{number}\t{pair[side]}\n"] if pair != BOUNDARY else [])
    for path, content in zip(named, lines, strict=True):
        path.write_text("".join(content), encoding="utf-8")
    column = replace(data, documents="column")
    found = read_files(*named, translator.tokenizer, None, data=column)
    assert (found.sources, found.references) == (plain.sources, plain.references)
    single = read_files(*named, translator.tokenizer, None, data=replace(column, context=1))
    assert single.sources == [line for line in plain.sources if line]
    assert single.counts["read"] == len(single.sources) == found.counts["read"]


def test_sets_of_sacrebleu_have_the_boundaries_of_their_documents(translator, tmp_path, monkeypatch):
    monkeypatch.setattr(DATASETS["wmt14/full"], "_outdir", str(tmp_path))
    fields = {"src": "a b c", "ref": "A B C", "docid": "1 1 2", "genre": "n n n", "origlang": "en en en"}
    for field, lines in fields.items():
        (tmp_path / f"wmt14_full.en-de.{field}").write_text("\n".join(lines.split()) + "\n")
    languages = experiments.evaluation.test_sets.Languages("en", "de")
    assert find_test_set("wmt14/full", translator, languages, quiet).sources == ["a", "b", "", "c"]
    monkeypatch.setattr(DATASETS["wmt14/full"], "fieldnames", lambda pair: ["src", "ref"])
    with pytest.raises(UserError, match="wmt14/full has no boundaries between documents"):
        find_test_set("wmt14/full", translator, languages, quiet)


def test_what_cannot_be_done_with_documents_is_refused(document_run, translator, tmp_path, capsys):
    for kind in ("marian", "ctranslate2"):
        with pytest.raises(UserError, match=f"the {kind} format is for single sentences"):
            export_run(translator, tmp_path / kind, print, kind)
    output = str(tmp_path / "out")
    (tmp_path / "in").write_text("A.\n")
    same = ["translate", str(document_run.path), "--input", str(tmp_path / "in"), "--output", output, "--resume"]
    for command, message in (
        (same, "--resume goes on with single sentences"),
        (["serve", str(document_run.path)], "`serve` translates single sentences"),
    ):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 2 and message in capsys.readouterr().err


def test_before_needs_a_model_of_documents(alone, translator):
    with pytest.raises(UserError, match="a model of single sentences"):
        alone.n_best([B], 1, before=[(A, "x")])
    assert translator.n_best([B], 1, before=[(A, "x")])


def test_explain_names_the_deviation():
    told = list(explain(find("documents")))
    assert any("s_1 <sep> s_2 ... EOS" in line for line in told)
    assert any("several sentences in a sequence: up to 2" in line for line in told)
    assert not any("sequence: up to" in line or "<sep>" in line for line in explain(find("documents-alone")))


# The contrastive test

EXAMPLES = [
    {"source": B, "target": "Er ist schwer.", "contrastive": ["Sie ist schwer.", "Es ist schwer."],
     "context": [[A, "Der Mann verkauft seinen Hut."]], "group": "er"},
    {"source": B, "target": "Es ist schwer.", "contrastive": ["Er ist schwer."]},
]  # fmt: skip


def write_examples(path: Path, examples=EXAMPLES) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in examples), encoding="utf-8")
    return path


def test_a_contrast_is_judged_by_the_scores_in_its_context(document_run, translator, alone, tmp_path):
    test = read_contrasts(write_examples(tmp_path / "pronouns.jsonl"))
    chosen = preferred(translator, test.examples)
    for choice, one in zip(chosen, test.examples, strict=True):
        candidates = [one.target, *one.contrastive]
        context = [list(one.context)] * len(candidates)
        totals = [sum(each) for each in translator.log_probs([B] * len(candidates), candidates, before=context)]
        assert totals[choice] == pytest.approx(max(totals), abs=1e-5)
    no_context = [one._replace(context=[]) for one in test.examples]
    assert preferred(alone, test.examples) == preferred(alone, no_context) == preferred(translator, no_context)

    result = contrast(document_run, translator, test, quiet)
    record = json.loads(result.record.read_text(encoding="utf-8"))
    assert result.total.examples == 2 and result.chance == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    (score,) = record["scores"]
    assert score["name"] == "accuracy" and score["value"] == 50.0 * sum(choice == 0 for choice in chosen)
    assert "sentences before:2" in score["signature"] and "chance:41.67" in score["signature"]
    assert record["details"]["group"]["er"]["examples"] == 1 and list(record["details"]["group"]) == ["", "er"]
    assert record["sources"]["contrast.pairs"]["sha256"] == test.files["contrast.pairs"]["sha256"]


def test_a_wrong_translation_that_is_as_probable_is_no_success(translator, monkeypatch, tmp_path):
    examples = read_contrasts(write_examples(tmp_path / "x.jsonl")).examples
    monkeypatch.setattr(translator, "log_probs", lambda *given, **more: [[-1.0]] * 5)
    assert preferred(translator, examples) == [2, 1]
    monkeypatch.setattr(translator, "log_probs", lambda *given, **more: [[-1.0]] * 4 + [[math.nan]])
    with pytest.raises(UserError, match="example 2 has no log-probability"):
        preferred(translator, examples)


def test_the_corpus_has_a_contrastive_test_of_its_own(translator):
    grammar = replace(translator.experiment, data=replace(find("documents").data, vocab_size=200))
    own = own_contrasts(Translator(translator.params, grammar, translator.tokenizer, quiet), quiet)
    assert len(own.examples) > 300 and {one.group for one in own.examples} == {"er", "ihn", "sie", "es"}
    with pytest.raises(UserError, match="files has no contrastive test of its own"):
        own_contrasts(translator, quiet)


def contrapro(folder: Path, size: int) -> tuple[Path, tuple[Path, Path]]:
    """Writes the examples as ContraPro does."""
    given = [
        {"src segment": one["source"], "ref segment": one["target"], "src pronoun": "It", "ref pronoun": "er",
         "errors": [{"contrastive": wrong} for wrong in one["contrastive"]]}
        for one in EXAMPLES
    ]  # fmt: skip
    (folder / "contrapro.json").write_text(json.dumps(given, indent=1), encoding="utf-8")
    files = folder / "contrapro.context.en", folder / "contrapro.context.de"
    for path, language in zip(files, ("en", "de"), strict=True):
        lines = [f"{language} {i} {k}" if (i, k) != (0, 0) else "" for i, n in enumerate((3, 2)) for _ in range(n)
                 for k in range(size)]  # fmt: skip
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder / "contrapro.json", files


def test_contrapro_is_read_with_its_context(tmp_path):
    path, files = contrapro(tmp_path, 2)
    plain = read_contrasts(path)
    assert [one.target for one in plain.examples] == ["Er ist schwer.", "Es ist schwer."]
    assert plain.examples[0].group == "it:er" and plain.examples[0].context == []
    with_it = read_contrasts(path, files)
    assert with_it.examples[0].context == [("en 0 1", "de 0 1")], "a blank line is no sentence"
    assert with_it.examples[1].context == [("en 1 0", "de 1 0"), ("en 1 1", "de 1 1")]
    assert with_it.name != plain.name and len(with_it.files) == 3
    files[0].write_text("one line\n")
    with pytest.raises(UserError, match=r"have 1 and 10 lines: the same number is expected, for each of 5"):
        read_contrasts(path, files)


@pytest.mark.parametrize(("line", "message"), [
    ("{", "line 1: not JSON"),
    ("3", "line 1: not a JSON object"),
    ('{"source": "a", "target": "b"}', "line 1: no 'contrastive'"),
    ('{"source": "a", "target": "b", "contrastive": ["c"], "pronoun": "er"}', "line 1: unexpected 'pronoun'"),
    ('{"source": "a", "target": "b", "contrastive": ["b"]}', "line 1: a contrastive translation is the right one"),
    ('{"source": "a", "target": "b", "contrastive": [" "]}', "line 1: every sentence is a line of text"),
    ('{"source": "a", "target": "b", "contrastive": ["c"], "context": ["x"]}', "'context' is a list of pairs"),
    ("", "has no contrasts"),
    ('[{"src segment": "a"}]', "example 1 is not one of ContraPro"),
])  # fmt: skip
def test_what_is_no_contrastive_test_is_refused(tmp_path, line, message):
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_contrasts(path)


def test_the_command_prints_the_accuracy_and_publishes_the_record(document_run, tmp_path, capsys):
    pairs, record = write_examples(tmp_path / "pronouns.jsonl"), tmp_path / "results" / "mine.json"
    main(["contrast", str(document_run.path), "--pairs", str(pairs), "--record", str(record)])
    out = capsys.readouterr().out
    assert out.startswith("accuracy ") and "of 2 examples" in out and "by chance   41.67" in out
    assert len(record.with_name("mine.output.txt").read_text(encoding="utf-8").splitlines()) == 2
    for flags, message in (
        (["--context-source", str(pairs)], "has both sides"),
        (["--context-source", str(pairs), "--context-target", str(pairs)], "it needs --pairs FILE"),
    ):
        with pytest.raises(SystemExit):
            main(["contrast", str(document_run.path), *flags])
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_pronouns_are_guessed_without_context_and_known_with_it(tmp_path, monkeypatch):
    """Models half as wide as those of the presets learn the grammar in a minute."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "prepared"))
    accuracy = {}
    for name in ("documents", "documents-alone"):
        preset = find(name)
        small = replace(
            preset,
            model=replace(preset.model, d_model=64, d_ff=256, d_k=16, d_v=16),
            data=replace(preset.data, train_pairs=10_000, batch_tokens=1024),
            optimizer=replace(preset.optimizer, warmup_steps=100, scale=0.5),
            train=replace(preset.train, steps=250, eval_every=250, keep=1, eval_sentences=8),
        )
        run = train(small, tmp_path / name, log=quiet)
        translator = Translator.load(run.path, log=quiet)
        accuracy[name] = contrast(run, translator, own_contrasts(translator, quiet), quiet).total
    assert accuracy["documents"].percent > 95, accuracy
    low, high = accuracy["documents-alone"].interval()
    assert high < 50 and low < 40, "a third of the pronouns, and no more than the most frequent one"


def test_preparing_the_presets_gives_the_same_vocabulary_but_for_the_separator(tmp_path):
    one, two = (find(name).data for name in ("documents-alone", "documents"))
    small = {"train_pairs": 500, "vocab_size": 200, "max_unknown": 1.0}
    alone, both = (prepare(replace(each, **small), tmp_path, quiet) for each in (one, two))
    assert both.tokenizer.separator == 4 and alone.tokenizer.separator is None
    assert len(alone.dev) == len(both.dev) and alone.text("dev", "source") == [
        x for x in both.text("dev", "source") if x
    ]
