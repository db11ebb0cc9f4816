import math
import subprocess
import sys

import pytest

from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.metrics import bleu, check_language, score, scores_told
from experiments.evaluation.records import read_record, results_table, write_record
from experiments.task import Translated
from experiments.translator import Translator
from transformer.config import UserError


def sacrebleu_command(reference, hypothesis, metric):
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        str(reference),
        "-i",
        str(hypothesis),
        "-m",
        metric,
        "-b",
        "-w",
        "4",
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_scores_equal_the_sacrebleu_command_on_the_same_files(run, tmp_path):
    result = evaluate(run, Translator.load(run.path), "test", lambda line: None)
    scores = {score.name: score for score in result.scores}
    for value, metric in ((scores["BLEU"], "bleu"), (scores["chrF2"], "chrf")):
        command = sacrebleu_command(run.evaluation / "test.reference.txt", run.evaluation / "test.output.txt", metric)
        assert round(value.value, 4) == command
    assert "tok:13a" in result.scores[0].signature and "case:mixed" in result.scores[0].signature


def test_a_perfect_translation_scores_100_and_case_counts():
    lines = ["Der Mann, der den Hund sieht, ist alt.", "Das ist ein schönes Haus."]
    assert score(Translated([], lines, lines))[0][0].value == pytest.approx(100)
    assert score(Translated([], [line.lower() for line in lines], lines))[0][0].value < 90


def test_an_output_that_is_too_short_pays_for_its_length_and_not_for_what_it_lacks():
    half, whole = ["one two three four"], ["one two three four five six seven eight"]
    scores = {score.name: score.value for score in score(Translated(whole, half, whole, "en"))[0]}
    for name in ("BLEU", "BLEU-intl", "BLEU-lc"):
        assert scores[name] == pytest.approx(100 * math.exp(1 - 8 / 4))  # all n-grams are right: the brevity penalty


def test_a_record_holds_all_that_its_number_rests_on(run):
    import json

    result = evaluate(run, Translator.load(run.path), "dev", lambda line: None)
    record = json.loads(result.record.read_text(encoding="utf-8"))
    for key in (
        "experiment", "scores", "checkpoints", "steps", "target_tokens", "train_flops", "step_seconds", "train_hours",
        "train_hardware", "dev_ppl", "settings", "vocabulary", "data", "hardware", "software", "commit", "command",
        "date",
    ):  # fmt: skip
        assert record[key], key
    assert record["scores"][0]["signature"] == result.scores[0].signature
    assert record["checkpoints"] == [20, 30, 40] and record["split"] == "dev"


def test_the_table_has_a_row_for_each_record_and_nothing_else(run, tmp_path):
    result = evaluate(run, Translator.load(run.path), "test", lambda line: None)
    assert results_table(tmp_path).count("\n") == 2
    (tmp_path / "one.json").write_bytes(result.record.read_bytes())
    last = results_table(tmp_path).splitlines()[-1]
    assert "[micro]" in last and f"| {result.scores[0].value:.1f} |" in last
    # The hardware beside the hours is that of the training. Records without it are older: they have one for both.
    record = read_record(result.record)
    here = record["hardware"]
    for trained, shown in ((here | {"device": "8 x H100", "cores": 1}, "8 x H100, 1 core"), (None, here["device"])):
        write_record(tmp_path / "one.json", record | {"train_hardware": trained})
        assert shown in results_table(tmp_path).splitlines()[-1].split(" | ")[-1]


def bleu_of(outputs, references, language):
    scores = {score.name: score for score in score_all(outputs, references, language)}
    return scores["BLEU"]


def score_all(outputs, references, language):
    return score(Translated([], outputs, references, language))[0]


def test_a_zero_beside_a_bleu_that_is_none_is_explained():
    references = ["Die Katze sieht den alten Hund .", "Das Kind liest ein Buch ."]
    for outputs, explained in (
        (["Die Katze sah den Hund .", "Das Kind liest das ."], True),  # a matching trigram, but no 4-gram
        (["Die Katze sieht den Hund .", "Das Kind liest das ."], False),
        (["gar nichts", "davon"], False),  # BLEU is 0 too
    ):
        found = score_all(outputs, references, "de")
        lines = scores_told(found)
        assert lines[: len(found)] == list(map(str, found))
        assert ["no four tokens in a row" in line for line in lines[len(found) :]] == [True] * explained
    assert scores_told(score_all(["a b"], ["a c"], "fr"))[-1].startswith("chrF2")  # no such score


@pytest.mark.parametrize("language", ["zh", "zh-Hant", "yue"])
def test_chinese_is_counted_by_characters(language):
    references = ["这是一个很好的例子。", "我们明天去北京。"]
    found = bleu_of(["这是一个好例子。", "我们明天去上海。"], references, language)
    assert "tok:zh" in found.signature and 20 < found.value < 100
    assert bleu_of(references, references, language).value == pytest.approx(100)
    names = [s.name for s in score_all(references, references, language)]
    assert names == ["BLEU", "BLEU-lc", "chrF2"]  # "intl" would not split it


def test_words_that_nothing_separates_are_not_scored_in_silence():
    text = ["这是一个很好的例子。", "我们明天去北京。"]
    assert "--data.languages" in check_language(text, None)
    assert "into de" in check_language(text, "de")
    assert check_language(text, "zh") is None
    assert check_language(["Das ist gut.", "这"], "de") is None
    assert check_language(["어제 비가 왔다."], None) is None  # Korean has spaces


@pytest.mark.parametrize(("language", "package"), [("ja", "MeCab"), ("ko", "mecab_ko")])
def test_a_tokenizer_that_is_not_installed_is_named(language, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith("sacrebleu.tokenizers.tokenizer_")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UserError, match=rf'into {language}.*pip install "sacrebleu\[{language}\]"'):
        bleu(language)


def test_languages_without_spaces_are_counted_in_the_pieces_of_flores(monkeypatch):
    asked = []
    monkeypatch.setattr("experiments.evaluation.metrics.BLEU", lambda **settings: asked.append(settings))
    for language in ("th", "lo", "km-KH", "my"):
        bleu(language)
    assert {settings["tokenize"] for settings in asked} == {"flores200"}
