"""Tables are rendered from records only."""

import json
import math
import shutil
from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats

from experiments.evaluation.intervals import Interval, beside_control, interval
from experiments.evaluation.records import RESULTS, read_record, write_record
from experiments.presets.paper import TABLE2, TABLE3
from experiments.presets.parsing import TABLE4
from experiments.presets.scales import SCALES
from experiments.presets.wmt14 import EXPERIMENTS as WMT14
from experiments.tables.render import agreement, counted_flops, order, percent, render_table, render_table1
from experiments.tables.runner import experiments_of, fill, records_of, settings_differing
from transformer.config import UserError


@pytest.fixture(scope="module")
def filled(micro, tmp_path_factory):
    """Two rows of Table 3, with two seeds of base, and one row of Table 2, of the micro experiment."""
    folder = tmp_path_factory.mktemp("tables")
    quick = replace(
        micro,
        name="micro-en-de-base",
        model=replace(micro.model, num_heads=4),
        train=replace(micro.train, steps=2, eval_every=1, keep=2),
        decode=replace(micro.decode, extra_length=2),
    )
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "micro", {"en-de": quick, "en-fr": replace(quick, name="micro-en-fr-base")})
        places = folder / "runs", folder / "results"
        fill(3, "micro", 1, ["base", "E"], *places, lines.append)
        fill(3, "micro", 2, ["base"], *places, lines.append)
        fill(2, "micro", 1, ["en-de-base"], *places, lines.append)
        yield folder / "results", lines


def copy_of(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.slow
def test_what_has_a_record_is_not_trained_again(filled):
    results, lines = filled
    started = [line for line in lines if line.startswith("--- ")]
    assert started == ["--- base, seed 0", "--- E, seed 0", "--- base, seed 1", "--- en-de-base, seed 0"]
    assert sorted(p.stem for p in (results / "table3-micro").glob("*.json")) == ["E-seed0", "base-seed0", "base-seed1"]


@pytest.mark.slow
def test_the_base_of_table_3_is_the_base_of_table_2(filled):
    results, lines = filled
    after = lines[lines.index("--- en-de-base, seed 0") :]
    assert not any("compiling" in line for line in after)
    one, two = (
        read_record(results / name) for name in ("table3-micro/base-seed0.json", "table2-micro/en-de-base-seed0.json")
    )
    assert (one["checkpoints"], two["checkpoints"]) == ([2], [1, 2])
    assert (one["split"], two["split"]) == ("dev", "test")


@pytest.mark.slow
def test_rendered_tables_have_a_line_for_every_row_and_numbers_where_records_are(filled, tmp_path):
    folder = copy_of(filled[0], tmp_path)
    markdown, csv, picture = render_table(3, "micro", folder)
    text = markdown.read_text()
    assert "not the paper's numbers" in text
    assert [cells[0] for cells in cells_of(text)] == [row.name for row in TABLE3]
    seeds = [read_record(folder / "table3-micro" / f"base-seed{seed}.json")["dev_ppl"] for seed in (0, 1)]
    assert str(interval(seeds)) in text and "±" in str(interval(seeds))
    e = read_record(folder / "table3-micro" / "E-seed0.json")
    assert f"| {e['dev_ppl']:.2f} |" in text and f"| {e['parameters']:,} |" in text
    assert csv.read_text().count("\n") == len(TABLE3) + 1
    assert picture.read_bytes().startswith(b"\x89PNG")

    table = {tuple(cells[:2]): cells for cells in cells_of(render_table(2, "micro", folder)[0].read_text())}
    record = read_record(folder / "table2-micro" / "en-de-base-seed0.json")
    assert f"{counted_flops(record):.1e}" in table["en-de", "Transformer (base)"]
    assert table["en-fr", "Transformer (big)"][2:5] == ["41.8", "", ""]
    assert table["en-de", "ByteNet"][2] == "23.75"


def cells_of(markdown):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("| ")
    ][2:]


@pytest.mark.parametrize(("table", "rows"), [(2, 13 + len(TABLE2)), (3, len(TABLE3)), (4, len(TABLE4))])
def test_a_table_without_records_is_empty_and_good(table, rows, tmp_path):
    markdown = render_table(table, "small", tmp_path)[0].read_text()
    assert "No record yet" in markdown
    assert len(cells_of(markdown)) == rows


@pytest.mark.parametrize("table", [2, 3])
def test_a_picture_says_its_scale_and_its_unit_and_has_a_line_for_base_where_there_is_one(table, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("experiments.inspection.figures.save", lambda figure, path: figures.append(figure) or path)
    shutil.copytree(RESULTS / f"table{table}-smoke", tmp_path / f"table{table}-smoke")
    render_table(table, "smoke", tmp_path)
    (axis,) = figures[0].axes
    assert f"Table {table}, scale smoke" in axis.get_title() and "smaller model" in axis.get_title()
    assert axis.get_ylabel() == ("BLEU" if table == 2 else "validation perplexity / that of base")
    values = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert values.get("base") == (None if table == 2 else [1.0, 1.0])
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert len(labels) == len(TABLE2 if table == 2 else TABLE3) == len(set(labels)) and "big: big" not in labels
    papers = [m.bleu for pair in ("en-de", "en-fr") for m in TABLE2 if m.pair == pair]
    assert values["paper, BLEU-split" if table == 2 else "paper"] == (
        papers if table == 2 else [row.ppl / TABLE3[0].ppl for row in TABLE3]
    )
    plt.close(figures[0])


@pytest.mark.slow
def test_an_edited_record_is_refused_by_name(filled, tmp_path):
    folder = copy_of(filled[0], tmp_path)
    path = folder / "table3-micro" / "E-seed0.json"
    path.write_text(path.read_text().replace('"dev_ppl": ', '"dev_ppl": 1'))
    with pytest.raises(UserError, match=r"E-seed0\.json was edited"):
        render_table(3, "micro", folder)


def change(path, edit):
    record = json.loads(path.read_text())
    edit(record)
    write_record(path, record)


@pytest.mark.slow
def test_records_of_different_protocols_do_not_mix(filled, tmp_path):
    folder = copy_of(filled[0], tmp_path)
    change(folder / "table3-micro" / "E-seed0.json", lambda record: record.update(vocabulary="another"))
    with pytest.raises(UserError, match=r"base-seed0\.json and .*E-seed0\.json were not scored by the same protocol"):
        records_of(3, "micro", folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r["settings"]["decode"].update(beam=1), "beam is 1, not 4"),
        (lambda r: r["settings"]["decode"].update(no_repeat_ngram=3), "no_repeat_ngram is 3, not 0"),
        (lambda r: r.update(mbr={"samples": 4, "metric": "chrf"}), "mbr is {'samples': 4, 'metric': 'chrf'}, not None"),
        (lambda r: r.update(split="test"), "split is test, not dev"),
        (lambda r: r.update(steps=1), "steps is 1, not 2"),
        (lambda r: r.update(checkpoints=[1, 2]), "checkpoints is 2, not 1"),
        (lambda r: r.update(selection="2"), "selection is 2, not last"),
        (lambda r: r["settings"]["train"].update(seed=5), "is a record of seed 5, not of seed 0"),
        (lambda r: r.update(scores=[]), "is not the record of an evaluation"),
        (lambda r: r.pop("settings"), "is not the record of an evaluation: it has no settings"),
    ],
)
def test_a_record_that_the_table_s_protocol_did_not_make_is_refused(filled, tmp_path, edit, said):
    folder = copy_of(filled[0], tmp_path)
    change(folder / "table3-micro" / "E-seed0.json", edit)
    with pytest.raises(UserError, match=rf"E-seed0\.json .*{said}"):
        records_of(3, "micro", folder)


@pytest.mark.slow
def test_a_run_that_is_not_the_table_s_is_not_scored_for_it(filled, tmp_path):
    """It is complete, but with another number of checkpoints to average."""
    folder = copy_of(filled[0], tmp_path)
    runs = filled[0].parent / "runs"
    other = experiments_of(2, "micro")["en-de-base"]
    other = replace(other, train=replace(other.train, keep=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "micro", {"en-de": other, "en-fr": other})
        with pytest.raises(UserError, match=r"micro-en-de-base was trained with other settings .*\(train\.keep\)"):
            fill(2, "micro", 1, ["en-de-base"], runs, tmp_path / "new", lambda line: None)
    assert not (tmp_path / "new").exists() and folder.exists()


@pytest.fixture(scope="module")
def parsers(micro, tmp_path_factory):
    """Both rows of Table 4, of parsers that were hardly trained."""
    folder = tmp_path_factory.mktemp("parsers")
    smoke = SCALES["smoke"]["wsj"]
    few = replace(
        smoke,
        name="micro-wsj",
        data=replace(smoke.data, train_pairs=100, source_vocab_size=100),
        model=replace(smoke.model, source_vocab_size=100, num_layers=1),
        train=replace(smoke.train, steps=2, eval_every=1, keep=2),
        decode=replace(smoke.decode, extra_length=10, beam=1, alpha=0.0),
    )
    more = replace(few, name="micro-wsj-semi", data=replace(few.data, train_pairs=200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "trees", {"wsj": few, "wsj-semi": more})
        fill(4, "trees", 1, ["wsj", "wsj-semi"], folder / "runs", folder / "results", lambda line: None)
        yield folder / "results"


@pytest.mark.slow
def test_table_4_has_the_paper_s_parsers_and_ours(parsers, tmp_path):
    folder = copy_of(parsers, tmp_path)
    markdown = render_table(4, "trees", folder)[0].read_text()
    rows = cells_of(markdown)
    assert [(row[0], row[1], float(row[2])) for row in rows] == [parser[:3] for parser in TABLE4]
    ours = {parser.row: row for parser, row in zip(TABLE4, rows, strict=True) if parser.row}
    for name, trees in (("wsj", "100"), ("wsj-semi", "200")):
        record = read_record(folder / "table4-trees" / f"{name}-seed0.json")
        assert ours[name][3] == f"{record['scores'][0]['value']:.2f}" and ours[name][8] == trees
        assert record["scores"][0]["margin"] >= 0 and record["repaired"] >= 0
    assert all(row[3] == "" for parser, row in zip(TABLE4, rows, strict=True) if not parser.row)


@pytest.mark.slow
def test_rows_of_table_4_are_scored_on_the_same_trees(parsers, tmp_path):
    folder = copy_of(parsers, tmp_path)
    path = folder / "table4-trees" / "wsj-semi-seed0.json"
    change(path, lambda record: record["sources"]["test.target"].update(sha256="another"))
    with pytest.raises(UserError, match=r"wsj-seed0\.json and .*wsj-semi-seed0\.json|same protocol"):
        records_of(4, "trees", folder)


@pytest.mark.slow
def test_seeds_of_a_row_are_trained_on_the_same_trees(parsers, tmp_path):
    folder = copy_of(parsers, tmp_path) / "table4-trees"
    shutil.copy(folder / "wsj-semi-seed0.json", folder / "wsj-semi-seed1.json")
    change(folder / "wsj-semi-seed1.json", lambda record: record["settings"]["train"].update(seed=1))
    assert len(records_of(4, "trees", folder.parent)["wsj-semi"]) == 2
    change(folder / "wsj-semi-seed1.json", lambda record: record["data"].update(hash="another"))
    with pytest.raises(
        UserError, match=r"wsj-semi-seed1\.json and .*wsj-semi-seed0\.json were not trained on the same"
    ):
        records_of(4, "trees", folder.parent)


def test_a_treebank_that_is_not_there_is_asked_for_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "prepared"))
    smoke, paper = SCALES["smoke"]["wsj"], SCALES["paper"]["wsj-semi"]
    monkeypatch.setitem(SCALES, "micro", {"wsj": smoke, "wsj-semi": paper})
    lines: list[str] = []
    with pytest.raises(UserError, match=r"wsj-semi is licensed by the Linguistic Data Consortium .* --from-dir"):
        fill(4, "micro", 1, ["wsj", "wsj-semi"], tmp_path / "runs", tmp_path / "results", lines.append)
    assert not lines and not (tmp_path / "runs").exists()


def test_a_run_by_other_kernels_or_devices_is_the_same_row():
    base = experiments_of(3, "small")["base"]
    other = replace(base, model=replace(base.model, kernels=False), mesh=replace(base.mesh, fsdp=2))
    assert settings_differing(asdict(other), base) == []
    assert settings_differing(asdict(replace(base, model=replace(base.model, dropout=0.3))), base) == ["model.dropout"]


@pytest.mark.slow
def test_a_record_of_something_else_is_refused_by_name(filled, tmp_path):
    folder = copy_of(filled[0], tmp_path)
    shutil.copy(folder / "table3-micro" / "E-seed0.json", folder / "table3-micro" / "A-1-seed0.json")
    with pytest.raises(UserError, match=r"A-1-seed0\.json is not a record of micro-en-de-A-1: .*model\.positions"):
        records_of(3, "micro", folder)


@pytest.mark.parametrize("scale", SCALES)
def test_each_row_is_an_experiment_of_its_own(scale):
    experiments = list(experiments_of(3, scale).values())
    assert all(a.model != b.model or a.train != b.train for i, a in enumerate(experiments) for b in experiments[:i])
    assert all(a.name != b.name for i, a in enumerate(experiments) for b in experiments[:i])


def test_a_scale_without_the_bases_of_a_table_is_refused():
    for table in (2, 4):
        with pytest.raises(UserError, match="the scale long is not for this table: it has only en-de"):
            experiments_of(table, "long")


def test_the_presets_are_the_rows_of_table_2():
    assert sorted(e.name for e in WMT14) == sorted(e.name for e in experiments_of(2, "paper").values())
    assert {e.name: e for e in WMT14} == {e.name: e for e in experiments_of(2, "paper").values()}
    assert experiments_of(3, "paper")["big"] == experiments_of(2, "paper")["en-de-big"]
    big = {e.name: e for e in WMT14}["wmt14-en-fr-big"]
    assert (big.model.dropout, big.train.keep, big.train.eval_every, big.train.steps) == (0.1, 20, 600, 300_000)


def test_the_order_of_rows_is_compared_by_rank_alone():
    paper = {row.name: row.ppl for row in TABLE3}
    assert "Kendall's tau = 1.00" in order(paper, {name: 3 * ppl + 1 for name, ppl in paper.items()})[0]
    assert "Kendall's tau = -1.00" in order(paper, {name: -ppl for name, ppl in paper.items()})[0]
    assert order(paper, {"base": 1.0, "big": 2.0}) == []


def test_interval():
    assert str(interval([2.0])) == "2.00"
    assert str(interval([1.0, 3.0])) == "2.00 ± 12.71"  # the t quantile for one degree of freedom, 12.706, times 1


def test_intervals_beside_a_control_are_those_of_a_t_test_and_wider_for_more_comparisons():
    control, other = [1.0, 2.0, 4.0], [7.0, 8.0]
    one = beside_control(control, {"other": other, "single": [5.0]})
    test = scipy.stats.ttest_ind(other, control, equal_var=True).confidence_interval()
    assert set(one) == {"other"} and one["other"].mean == pytest.approx(7.5 - 7 / 3)
    assert one["other"].half == pytest.approx((test.high - test.low) / 2)
    # Simulated: with 5 comparisons, all intervals together contain the truth in 95% of all experiments or a few more.
    rng, names, hits = np.random.default_rng(0), "abcde", 0
    for _ in range(1000):
        found = beside_control(list(rng.normal(size=3)), {name: list(rng.normal(size=3)) for name in names})
        hits += all(abs(difference.mean) <= difference.half for difference in found.values())
    assert 940 <= hits <= 990
    assert beside_control([1.0], {"other": other}) == {} and beside_control(control, {"single": [5.0]}) == {}


def test_changes_of_perplexity_are_counted_by_their_direction_in_the_paper():
    changes = {
        "A-1": Interval(math.log(1.1), 0.05, 3),  # higher, as in the paper
        "C-5": Interval(math.log(1.2), 0.05, 3),  # higher, and lower in the paper
        "D-1": Interval(0.04, 0.05, 3),  # not told apart from base
        "E": Interval(0.2, 0.05, 3),  # equal to base in the paper
    }
    (told,) = agreement(changes, "Bartlett.")
    assert "in all rows. Bartlett. 3 rows of the paper's" in told and "2 of them differ from base here" in told
    assert "1 in the same direction: A-1; 1 in the other: C-5." in told
    assert percent(changes["A-1"]) == "+10.0% (+4.6% to +15.6%)"
    assert agreement({}, "") == [] and percent(None) == ""


@pytest.mark.parametrize("path", sorted(RESULTS.glob("table*.md")), ids=lambda path: path.stem)
def test_the_tables_in_the_repository_are_their_records(path, tmp_path):
    number, _, scale = path.stem.removeprefix("table").partition("-")
    shutil.copytree(path.with_suffix(""), tmp_path / path.stem)
    made = render_table1(tmp_path) if number == "1" else render_table(int(number), scale, tmp_path)
    for file in made[:2]:
        assert file.read_text() == path.with_suffix(file.suffix).read_text()
