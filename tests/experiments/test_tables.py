"""A table is made of records, and of nothing else."""

import json
from dataclasses import replace

import pytest

from experiments.paper import TABLE3
from experiments.records import read_record, write_record
from experiments.scales import SCALES
from experiments.tables import experiment_of, fill_table3, interval, records_of, render_table3
from transformer.config import UserError


@pytest.fixture(scope="module")
def filled(micro, tmp_path_factory):
    """Two rows of Table 3 on the micro experiment, two seeds of base."""
    folder = tmp_path_factory.mktemp("tables")
    quick = replace(
        micro,
        model=replace(micro.model, num_heads=2),
        train=replace(micro.train, steps=2, eval_every=2, keep=1),
        decode=replace(micro.decode, extra_length=2),
    )
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", quick)
        fill_table3("smoke", 1, ["base", "E"], folder / "runs", folder / "results", lines.append)
        fill_table3("smoke", 2, ["base"], folder / "runs", folder / "results", lines.append)
        yield folder / "results", lines


def copy_of(results, tmp_path):
    (tmp_path / "table3-smoke").mkdir()
    for path in (results / "table3-smoke").glob("*.json"):
        (tmp_path / "table3-smoke" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_what_has_a_record_is_not_trained_again(filled):
    results, lines = filled
    started = [line for line in lines if line.startswith("--- ")]
    assert started == ["--- base (base), seed 0", "--- E (learned positions), seed 0", "--- base (base), seed 1"]
    assert sorted(p.stem for p in (results / "table3-smoke").iterdir()) == ["E-seed0", "base-seed0", "base-seed1"]


def test_the_rendered_table_has_a_line_for_every_row_and_numbers_where_records_are(filled, tmp_path):
    folder = copy_of(filled[0], tmp_path)
    markdown, csv, picture = render_table3("smoke", folder)
    text = markdown.read_text()
    assert "not the paper's numbers" in text
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [cells[0] for cells in table] == [row.name for row in TABLE3]
    seeds = [read_record(folder / "table3-smoke" / f"base-seed{seed}.json")["dev_ppl"] for seed in (0, 1)]
    assert str(interval(seeds)) in text and "±" in str(interval(seeds))
    e = read_record(folder / "table3-smoke" / "E-seed0.json")
    assert f"| {e['dev_ppl']:.2f} |" in text and f"| {e['parameters']:,} |" in text
    assert csv.read_text().count("\n") == len(TABLE3) + 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_table_without_records_is_empty_and_good(tmp_path):
    markdown = render_table3("small", tmp_path)[0].read_text()
    assert "No record yet" in markdown and "| E | learned positions |  | 4.92 |  |" in markdown


def test_an_edited_record_is_refused_by_name(filled, tmp_path):
    folder = copy_of(filled[0], tmp_path)
    path = folder / "table3-smoke" / "E-seed0.json"
    path.write_text(path.read_text().replace('"dev_ppl": ', '"dev_ppl": 1'))
    with pytest.raises(UserError, match=r"E-seed0\.json was edited"):
        render_table3("smoke", folder)


def test_records_of_different_protocols_do_not_mix(filled, tmp_path):
    folder = copy_of(filled[0], tmp_path)
    path = folder / "table3-smoke" / "E-seed0.json"
    record = json.loads(path.read_text())
    record["settings"]["decode"]["beam"] = 1
    write_record(path, record)
    with pytest.raises(UserError, match=r"base-seed0\.json and .*E-seed0\.json were not scored by the same protocol"):
        records_of(folder / "table3-smoke")


def test_each_row_and_seed_is_an_experiment_of_its_own():
    experiments = [experiment_of(row, "small", seed) for row in TABLE3 for seed in (0, 1)]
    settings = [(e.model, e.train) for e in experiments]
    assert all(a != b for i, a in enumerate(settings) for b in settings[:i])


def test_interval():
    assert str(interval([2.0])) == "2.00"
    assert str(interval([1.0, 3.0])) == "2.00 ± 12.71"  # t of one degree of freedom, 12.706, times 1
