"""The records in the repository contain what experiments/results/README.md says."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from experiments.evaluation import records
from experiments.evaluation.evaluate import evaluate, publish
from experiments.evaluation.records import (
    RESULTS,
    outputs_of,
    read_evaluation,
    read_record,
    results_table,
    write_record,
)
from experiments.translator import Translator
from transformer.config import UserError

OLDER = (RESULTS / "README.md").read_text(encoding="utf-8").split("## Older records")[1].split("\n## ")[0]

FIELDS = (
    "experiment", "note", "parameters", "corpus", "split", "test_set", "language", "sources", "counts", "scores",
    "selection", "checkpoints", "steps", "target_tokens", "train_hours", "dev_ppl", "decode_seconds", "settings",
    "parts", "deviations", "vocabulary", "data", "hardware", "software", "commit", "command", "date", "texts", "sha256",
)  # fmt: skip


def is_older(path: Path) -> bool:
    """Returns whether the README lists the record, or its table, among those without outputs."""
    named = re.findall(r"\]\(([\w-]+)\.\w+\)", OLDER)
    return Path(path.relative_to(RESULTS).parts[0]).stem in named


EVALUATIONS = [path for path in sorted(RESULTS.rglob("*.json")) if path.parent.name != "table1"]


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_record_has_all_that_is_promised(path):
    record = read_evaluation(path)
    assert record["commit"]["train"].isalnum() and record["commit"]["evaluate"].isalnum()  # no "-dirty"
    if is_older(path):
        assert "BLEU-split" not in {score["name"] for score in record["scores"]}
        assert "selection" not in record  # otherwise it is not an older record
        return
    assert not [field for field in FIELDS if field not in record]
    outputs = outputs_of(path).read_bytes()
    assert hashlib.sha256(outputs).hexdigest() == record["texts"].get("published", record["texts"]["output"])
    assert all(score["signature"] for score in record["scores"])


def test_a_published_record_has_its_outputs_beside_it(run, tmp_path):
    result = evaluate(run, Translator.load(run.path), "dev", lambda line: None)
    publish(result, tmp_path / "new" / "mine.json")
    record = read_evaluation(tmp_path / "new" / "mine.json")
    assert not [field for field in FIELDS if field not in record]
    assert outputs_of(tmp_path / "new" / "mine.json").read_text() == "".join(line + "\n" for line in result.outputs)
    assert record["selection"] == "average" and record["checkpoints"] == [20, 30, 40]


def test_the_table_of_results_has_a_column_for_the_score_of_each_task(tmp_path):
    record = read_evaluation(RESULTS / "multi30k.json")
    write_record(tmp_path / "a.json", record)
    scores = [{"name": "F1", "value": 91.3, "signature": ""}, {"name": "recall", "value": 90.1, "signature": ""}]
    write_record(tmp_path / "b.json", record | {"scores": scores})
    head, _, translation, parsing = (line.split(" | ") for line in results_table(tmp_path).splitlines())
    assert head[2:5] == ["BLEU", "chrF", "F1"]
    assert translation[2:5] == ["38.2", "61.8", ""] and parsing[2:5] == ["", "", "91.3"]


def test_what_is_no_evaluation_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not the record of an evaluation"):
        read_evaluation(RESULTS / "table1" / "measured.json")


def test_a_record_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, {"scores": [{"name": "BLEU", "value": 27.3}], "note": "—"})
    assert read_record(path)["scores"][0]["value"] == 27.3
    path.write_text(path.read_text(encoding="utf-8").replace("27.3", "28.4"), encoding="utf-8")
    with pytest.raises(UserError, match=r"record\.json was edited"):
        read_record(path)


def test_new_records_do_not_make_the_code_of_the_next_one_dirty(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    code, record = tmp_path / "experiments/evaluation/records.py", tmp_path / "benchmarks/results/a.json"
    for file in (code, record):
        file.parent.mkdir(parents=True)
        file.write_text("1")
    monkeypatch.setattr(records, "__file__", str(code))
    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    clean = records.commit()
    assert len(clean) == 40
    record.write_text("2")
    assert records.commit() == clean
    code.write_text("2")
    assert records.commit() == f"{clean}-dirty"
    git("add", ".")
    assert records.commit() == f"{clean}-dirty"
