import subprocess
import sys

import pytest

from experiments.evaluate import evaluate
from experiments.records import results_table
from experiments.scoring import Translated, score
from experiments.translator import Translator


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


def test_a_record_holds_all_that_its_number_rests_on(run):
    import json

    result = evaluate(run, Translator.load(run.path), "dev", lambda line: None)
    record = json.loads(result.record.read_text(encoding="utf-8"))
    for key in (
        "experiment", "scores", "checkpoints", "steps", "target_tokens", "train_hours", "dev_ppl", "settings",
        "vocabulary", "data", "hardware", "software", "commit", "command", "date",
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
