"""The speedrun: budgets are equal, records belong to their place, and the table is rendered from records only."""

import json
import math
import re
import shutil
import statistics
from dataclasses import asdict, replace
from typing import NamedTuple

import pytest
import scipy.stats

from data.corpora.corpus import SPLITS
from data.dataset import SIDES, prepare
from data.sampling import training_plan
from experiments.evaluation.intervals import (
    Pooled,
    corrected,
    difference,
    equal_variances,
    p_value,
    pooled,
    pooled_p_value,
    unequal,
    welch_difference,
)
from experiments.evaluation.records import RESULTS, read_record, write_record
from experiments.speedrun import effects
from experiments.speedrun.budget import check_text, experiment_of, within_budget
from experiments.speedrun.recipes import RECIPES, find_recipe
from experiments.speedrun.records import folder_of, records_of
from experiments.speedrun.runner import run_recipe
from experiments.speedrun.table import COLUMNS, Line, in_order, p_values, reached, render_track
from experiments.speedrun.tracks import TRACKS, Track
from experiments.tables.render import formatted
from experiments.tables.runner import settings_differing
from transformer.config import Experiment, UserError
from transformer.train import step_flops


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def track(micro):
    base = replace(micro, train=replace(micro.train, steps=40, eval_every=10, keep=2))
    track = Track("A track of this test.", base, "this machine", share=0.1, split="dev")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRACKS, "micro", track)
        yield track


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_changes_settings_and_all_fit_together_with_every_base(name):
    for track in TRACKS.values():
        changed = find_recipe(name).change(track.base)
        no_dropout = track.base.model.dropout == 0.0 and name in ("half-dropout", "double-dropout")
        nothing = no_dropout or (track.files is not None and name == "distilled")  # its corpus is files already
        assert (changed == track.base) == (name == "paper" or nothing)
        if name not in ("paper", "pre-norm") and not nothing:
            assert find_recipe(f"pre-norm+{name}").change(track.base) == find_recipe(name).change(
                find_recipe("pre-norm").change(track.base)
            )


def test_a_sum_has_each_change_and_the_checkpoint_of_its_parts():
    both = find_recipe("rotary+ema")
    assert both.checkpoint == "ema" and find_recipe("wsd").checkpoint == "last"
    changed = both.change(TRACKS["multi30k"].base)
    assert changed.train.ema == 0.999 and changed.model.positions == "rotary"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rotory", "unknown recipe 'rotory'; the recipes are: paper, "),
        ("wsd+", "unknown recipe ''"),
        ("wsd+wsd", "each of them once"),
        ("paper+wsd", "the paper's is in all of them"),
        ("ema+rotary", r"in the order of the list: rotary\+ema"),
        ("wsd+ema", "they score the checkpoints last, ema"),
    ],
)
def test_what_is_no_recipe_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        find_recipe(name)


def test_recipes_that_undo_each_other_or_change_nothing_are_refused(track):
    with pytest.raises(UserError, match=r"more than one of them sets optimizer\.schedule"):
        find_recipe("wsd+schedule-free").change(track.base)
    with pytest.raises(UserError, match=r"more than one of them sets data\.batch_tokens"):
        find_recipe("half-batch+double-batch").change(track.base)  # together they would change nothing
    without = track._replace(base=replace(track.base, model=replace(track.base.model, dropout=0.0)))
    with pytest.raises(UserError, match="half-dropout changes nothing"):
        experiment_of(without, "half-dropout")
    with pytest.raises(UserError, match="one of them changes nothing"):
        experiment_of(without, "rotary+half-dropout")


def flops_of(experiment: Experiment) -> int:
    data = prepare(experiment.data, log=quiet)
    plan = training_plan(data, experiment.data, experiment.train.seed)
    return experiment.train.steps * step_flops(experiment, *plan.shape)


def test_recipes_have_equal_flops_and_equally_many_validations(track):
    paper = within_budget(track, "paper", 0, None, quiet)
    assert (paper.train.steps, paper.train.eval_every) == (4, 1)  # a tenth of 40 steps with 4 validations
    assert flops_of(paper) == pytest.approx(0.1 * flops_of(track.base))
    half = within_budget(track._replace(share=1.0), "double-batch", 0, None, quiet)
    assert half.train.steps < 25 and half.train.eval_every == -(-half.train.steps // 4)
    assert flops_of(half) == pytest.approx(flops_of(track.base), rel=0.5 / half.train.steps)
    short = within_budget(track._replace(share=1.0, stop_at=30.0), "quarter-length", 0, None, quiet)
    assert (short.train.steps, short.train.eval_every) == (10, 3)
    with pytest.raises(UserError, match="at equal FLOPs on this track"):
        experiment_of(track, "quarter-length")


def test_the_steps_of_each_seed_are_those_of_its_own_batches(track, monkeypatch):
    """With sampled subwords, the shape of a batch depends on the seed."""

    class Plan(NamedTuple):
        shape: tuple[int, int, int]

    def plan(data, config, seed):
        return Plan((8, 8, 8 + seed if config.subword_sampling else 8))

    monkeypatch.setattr("experiments.speedrun.budget.training_plan", plan)
    for seed in (0, 8):
        experiment = within_budget(track._replace(share=1.0), "bpe-dropout", seed, None, quiet)
        theirs, ours = (step_flops(experiment, 8, 8, width) for width in (8, 8 + seed))
        assert experiment.train.seed == seed and experiment.train.steps == round(40 * theirs / ours)


def test_only_the_paper_s_recipe_ignores_the_target(track):
    with_target = track._replace(stop_at=30.0)
    assert experiment_of(with_target, "paper").train.stop_at == 0.0
    with pytest.raises(UserError, match="what the recipe `paper` reaches: train it first"):
        experiment_of(track._replace(stop_at=None), "pre-norm")
    base = experiment_of(track._replace(stop_at=None), "paper").train
    assert (base.stop_at, base.best) == (0.0, "score")  # its score is that of the whole validation text
    settings = experiment_of(with_target, "pre-norm").train
    assert (settings.stop_at, settings.best) == (30.0, "score")


def test_the_text_of_a_track_is_asked_for_by_name(tmp_path):
    track = TRACKS["europarl-1h"]
    with pytest.raises(UserError, match=r"--text FOLDER, with europarl-v7\.fr-en, newstest2013, newstest2014"):
        check_text(track, "paper", None)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        check_text(track, "paper", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"europarl-v7\.fr-en\.en does not exist"):
        within_budget(track, "paper", 0, tmp_path, quiet)
    with pytest.raises(UserError, match="downloads its corpus"):
        check_text(TRACKS["multi30k"], "paper", tmp_path)
    for name in track.files:
        for language in ("en", "fr"):
            (tmp_path / f"{name}.{language}").touch()
    data = experiment_of(track, "paper", tmp_path).data
    assert (data.train_tgt, data.test_src) == (
        str(tmp_path / "europarl-v7.fr-en.fr"),
        str(tmp_path / "newstest2014.en"),
    )


def test_distillation_asks_for_the_text_that_distill_writes(tmp_path):
    track = TRACKS["multi30k-quarter"]
    for text in (None, tmp_path):
        with pytest.raises(UserError, match=r"distillation needs --text FOLDER, .* with teacher\.json"):
            check_text(track, "wsd+distilled", text)
    (tmp_path / "teacher.json").touch()
    check_text(track, "wsd+distilled", tmp_path)
    with pytest.raises(UserError, match=r"train\.source does not exist"):
        within_budget(track, "distilled", 0, tmp_path, quiet)
    with pytest.raises(UserError, match="tracks that download their corpus"):
        check_text(TRACKS["europarl-1h"], "distilled", tmp_path)
    for name in ("multi30k", "wmt14-base"):  # the teacher would be a gift
        with pytest.raises(UserError, match="those of a teacher are not counted"):
            check_text(TRACKS[name], "distilled", tmp_path)
    for split in SPLITS:
        for side in SIDES:
            (tmp_path / f"{split}.{side}").touch()
    changed = experiment_of(track, "wsd+distilled", tmp_path)
    assert (changed.data.train_tgt, changed.data.languages) == (str(tmp_path / "train.target"), "en-de")
    assert not settings_differing(asdict(changed), experiment_of(track, "wsd+distilled"))  # without paths


@pytest.fixture(scope="module")
def runs(track, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("speedrun"), []
    places = None, folder / "runs", folder / "results"
    run_recipe("micro", "paper", 2, *places, lines.append)
    run_recipe("micro", "pre-norm", 1, *places, lines.append)
    return folder, lines


@pytest.fixture
def filled(runs, tmp_path):
    """A copy of the folder of the runs, which a test may damage."""
    shutil.copytree(runs[0], tmp_path / "copy")
    return tmp_path / "copy", runs[1]


@pytest.mark.slow
def test_a_recipe_is_trained_scored_and_rendered(filled):
    folder, lines = filled
    started = [line for line in lines if line.startswith("--- ")]
    assert started == ["--- micro, paper, seed 0", "--- micro, paper, seed 1", "--- micro, pre-norm, seed 0"]
    again: list[str] = []
    run_recipe("micro", "paper", 2, None, folder / "runs", folder / "results", again.append)
    assert again == []

    records = records_of("micro", folder / "results")
    assert {name: len(made) for name, made in records.items()} == {"paper": 2, "pre-norm": 1}
    one, other = records["paper"]
    assert one["steps"] == 4 and one["train_flops"] == other["train_flops"] == pytest.approx(
        0.1 * flops_of(TRACKS["micro"].base)
    )
    assert one["curve"]["step"] == [1, 2, 3, 4] and min(one["curve"]["dev_loss"]) > 0 and one["split"] == "dev"
    markdown, csv, picture, more, _ = render_track("micro", folder / "results")
    assert more.name == "micro-effects.md" and "| pre-norm | paper | 1 and 2 |" in more.read_text()
    cells = [line.split(" | ") for line in markdown.read_text().splitlines() if line.startswith("| p")]
    assert [len(line) for line in cells] == [len(COLUMNS) - 3] * 2  # no run ends at a target
    assert "A track of this test." in markdown.read_text() and csv.read_text().count("\n") == 3
    assert picture.read_bytes().startswith(b"\x89PNG")

    # A record that is moved to another seed or recipe is refused.
    place = folder_of("micro", folder / "results")
    (place / "paper-seed7.json").write_bytes((place / "paper-seed0.json").read_bytes())
    with pytest.raises(UserError, match="seed is 0, not 7"):
        records_of("micro", folder / "results")
    (place / "paper-seed7.json").rename(place / "pre-norm-seed7.json")
    with pytest.raises(UserError, match=r"is not a record of pre-norm on micro: it differs in model\.norm"):
        records_of("micro", folder / "results")
    (place / "pre-norm-seed7.json").rename(place / "unheard-seed7.json")
    with pytest.raises(UserError, match="no recipe and seed with this name"):
        records_of("micro", folder / "results")

    (place / "unheard-seed7.json").rename(place / "paper-seed00.json")
    with pytest.raises(UserError, match="no recipe and seed with this name"):
        records_of("micro", folder / "results")

    # Seeds are in the order of numbers.
    (place / "paper-seed00.json").unlink()
    for seed in (2, 10):
        record = json.loads((place / "paper-seed0.json").read_text())
        record["settings"]["train"]["seed"] = seed
        write_record(place / f"paper-seed{seed}.json", record)
    found = records_of("micro", folder / "results")["paper"]
    assert [record["settings"]["train"]["seed"] for record in found] == [0, 1, 2, 10]


@pytest.mark.parametrize("name", TRACKS)
def test_the_tables_in_the_repository_are_their_records(name, tmp_path):
    there = folder_of(name, RESULTS)
    if there.exists():
        shutil.copytree(there, folder_of(name, tmp_path))
    made = {path.name: path for path in render_track(name, tmp_path)}
    assert set(made) == {
        path.name for path in there.parent.glob(f"{name}*.*") if path.stem.removesuffix("-effects") == name
    }
    for file, path in made.items():
        if path.suffix != ".png":
            assert path.read_text() == (there.parent / file).read_text()


def made(date: str, flops: list[int], bleu: list[float], reached: float = 30.0) -> list[dict]:
    return [
        {
            "date": f"{date}T0{hour}",
            "train_flops": cost,
            "dev_ppl": 1000 / score,
            "vocabulary": "1a",
            "selection": "average",
            "scores": [{"name": "BLEU", "value": score}],
            "curve": {"step": [1, 2], "dev_bleu": [None, reached]},
        }
        for hour, (cost, score) in enumerate(zip(flops, bleu, strict=True))
    ]


def test_records_are_compared_with_the_record_before_and_the_newest_is_first(track):
    track = track._replace(stop_at=30.0)
    records = {
        "muon": made("2026-12-03", [50, 52, 51], [30.0, 30.0, 30.0]),
        "wsd": made("2026-12-02", [90, 92, 91], [30.0, 30.0, 30.0]),
        "ema": made("2026-12-01", [70, 72, 71], [30.0, 30.0, 30.0]),
        "paper": made("2026-12-04", [100, 100, 100], [30.0, 30.0, 30.0]),
    }
    ordered = in_order(track, records)
    assert [line.recipe for line in ordered] == ["muon", "wsd", "ema", "paper"]
    # wsd is no record: what comes after it is compared with ema.
    assert [line.record for line in ordered] == [True, False, True, True]
    assert [line.before for line in ordered] == [records["ema"], records["ema"], records["paper"], []]
    # Neither what has too few seeds is a record, nor what did not reach the target.
    few, short = made("2026-12-01", [70, 72], [30.0] * 2), made("2026-12-01", [70, 72, 71], [30.0] * 3, reached=29.9)
    for ema in (few, short):
        newest, *_ = in_order(track, records | {"ema": ema})
        assert newest == ("muon", records["muon"], records["wsd"], True)
    assert [reached(track, each) for each in (few, short)] == [2, 0]
    assert reached(track._replace(stop_at=0.0, target=30.0), made("2026-12-01", [1, 1], [29.9, 30.0])) == 1
    # A fourth seed, made later, changes no history: whether it is cheaper, costs more, or misses the target.
    for cost, score in ((1, 30.0), (900, 30.0), (71, 29.0)):
        later = records["ema"] + made("2026-12-09", [cost], [30.0], reached=score)
        ordered = in_order(track, records | {"ema": later})
        assert [line.recipe for line in ordered] == ["muon", "wsd", "ema", "paper"]
        assert [line.record for line in ordered] == [True, False, True, True]
    # Without three seeds of the paper's recipe there is nothing to be compared with.
    for paper in ({"paper": records["paper"][:2]}, {}):
        others = {name: records[name] for name in ("muon", "wsd", "ema")}
        assert not any(line.record or line.before for line in in_order(track, others | paper))
    # Two recipes are compared with the paper's: the smaller p-value is doubled.
    paper, better = made("2026-12-04", [1, 1], [30.0, 31.0]), made("2026-12-04", [1, 1], [39.0, 40.0])
    lines = [Line("ema", better, []), Line("paper", paper, []), Line("wsd", paper, []), Line("muon", paper[:1], [])]
    alone = p_value([39.0, 40.0], [30.0, 31.0])
    assert p_values(lines, paper) == pytest.approx([2 * alone, None, 1.0, None])
    best_first = in_order(track._replace(stop_at=0.0), records | {"wsd": made("2026-12-02", [90], [31.0])})
    assert best_first[0].recipe == "wsd" and not any(line.before or line.record for line in best_first)


def test_p_values_are_those_of_welch_and_say_when_they_say_nothing():
    assert p_value([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1.0)
    # From the formula: t = (2 - 12) / sqrt(1/3 + 4/3), with 2.94 degrees of freedom.
    assert p_value([1.0, 2.0, 3.0], [10.0, 12.0, 14.0]) == pytest.approx(0.00467, abs=2e-4)
    assert p_value([1.0], [1.0, 2.0]) is None
    assert p_value([1.0, 1.0], [2.0, 2.0]) is None and p_value([2.0, 2.0], [2.0, 2.0]) == 1.0
    assert [formatted(p) for p in (None, 0.0001, 0.25)] == ["", "< 0.001", "0.250"]
    # From the same formula: the 97.5% quantile of Student's t with 2.94 degrees of freedom is 3.219.
    found = welch_difference([1.0, 2.0, 3.0], [10.0, 12.0, 14.0])
    assert (found.mean, found.half) == pytest.approx((-10.0, 3.219 * (5 / 3) ** 0.5), abs=2e-3)
    assert found.signed() == "-10.00 ± 4.16"
    assert welch_difference([1.0], [3.0, 4.0]).signed() == "-2.50"
    assert welch_difference([2.0, 2.0], [1.0, 1.0]).signed() == "+1.00"


def test_tests_with_a_pooled_deviation_are_those_of_student_corrected_by_holm():
    ours, theirs = [1.0, 2.0, 4.0], [7.0, 8.0]
    spread = pooled([ours, theirs, [100.0]])
    assert spread and spread.freedom == 3
    student = scipy.stats.ttest_ind(ours, theirs, equal_var=True)
    assert pooled_p_value(ours, theirs, spread) == pytest.approx(student.pvalue)
    margin = student.confidence_interval()
    assert difference(ours, theirs, spread).half == pytest.approx((margin.high - margin.low) / 2)
    # The smallest of three p-values is multiplied by 3, the next by 2, and none is smaller than one before it.
    assert corrected([0.5, 0.01, None, 0.011]) == pytest.approx([0.5, 0.03, None, 0.03])
    assert corrected([0.4, 0.6]) == [0.8, 0.8] and corrected([None]) == [None] and corrected([0.9, 0.8]) == [1.0, 1.0]
    # With deviations of their own: Welch's test.
    own = unequal(Pooled(statistics.stdev(ours), 2), Pooled(statistics.stdev(theirs), 1), 3, 2)
    welch = scipy.stats.ttest_ind(ours, theirs, equal_var=False)
    assert pooled_p_value(ours, theirs, own) == pytest.approx(welch.pvalue)
    assert difference(ours, theirs, own).half == pytest.approx(welch_difference(ours, theirs).half)
    assert pooled([[1.0], [2.0]]) is None and pooled([[3.0, 3.0]]) is None  # no deviation is known
    assert equal_variances([[1.0, 1.1, 0.9]] * 3).endswith("p = 1.")
    assert "too narrow" in equal_variances([[1.0, 1.001, 0.999], [1.0, 9.0, -9.0]])
    assert equal_variances([[1.0, 2.0], [3.0]]) == ""


def test_the_effect_of_a_part_is_the_difference_from_the_same_recipe_without_it():
    records = {
        "paper": made("2026-12-01", [1, 1, 1], [30.0, 31.0, 32.0]),
        "pre-norm": made("2026-12-01", [1, 1, 1], [32.5, 33.0, 33.5]),
        "pre-norm+rotary": made("2026-12-01", [1], [34.0]),
        "pre-norm+rotary+wsd": made("2026-12-01", [1], [33.5]),
        "swiglu+wsd": made("2026-12-01", [1], [20.0]),
    }
    lines = effects.lines_of(records)
    assert [line[:3] for line in lines] == [
        ["pre-norm", "paper", "3 and 3"],
        ["rotary", "pre-norm", "1 and 3"],
        ["wsd", "pre-norm+rotary", "1 and 1"],
    ]
    assert [line[5].split(" ± ")[0] for line in lines] == ["+2.00", "+1.00", "-0.50"]
    assert [line[3].split()[0] for line in lines[1:]] == ["-2.9%", "+1.5%"]
    # With pre-norm, a deviation of 0.5 with 2 degrees of freedom, of which the quantile is 4.303.
    assert lines[1][5] == f"+1.00 ± {4.3027 * 0.5 * (1 + 1 / 3) ** 0.5:.2f}"
    # Post-norm varies twice as much, and only with the paper's recipe does it count.
    assert lines[0][5] == welch_difference([32.5, 33.0, 33.5], [30.0, 31.0, 32.0]).signed()
    assert "0.50 BLEU with pre-norm (2 degrees of freedom), 1.00 BLEU with post-norm (2" in effects.notes(records)[0]
    alone = {name: found[:1] for name, found in records.items()}
    assert effects.lines_of(alone)[0][3:] == ["-7.7%", "", "+2.50", ""] and "not known yet" in effects.notes(alone)[0]
    assert effects.lines_of({"paper": records["paper"]}) == []


def test_perplexities_are_compared_only_between_equal_tokens_and_decays():
    records = {
        "pre-norm": made("2026-12-01", [1, 1, 1], [32.5, 33.0, 33.5]),
        "pre-norm+rotary": made("2026-12-01", [1], [34.0]),
        "pre-norm+wsd": made("2026-12-01", [1], [35.0]),
        "pre-norm+half-vocabulary": made("2026-12-01", [1], [36.0]),
    }
    records["pre-norm+wsd"][0]["selection"] = "last"
    records["pre-norm+half-vocabulary"][0]["vocabulary"] = "2b"
    lines = {line[0]: line for line in effects.lines_of(records)}
    assert list(lines) == ["half-vocabulary", "wsd", "rotary"]
    assert [lines[part][3:5] for part in ("wsd", "half-vocabulary")] == [["", ""]] * 2
    # They do not count among the comparisons that p is corrected for. BLEU is compared, three times.
    for column, values, part, comparisons in (
        (4, effects.log_ppl, "rotary", 1),
        (6, effects.bleu, "half-vocabulary", 3),
    ):
        ours, theirs = values(records[f"pre-norm+{part}"]), values(records["pre-norm"])
        assert lines[part][column] == formatted(comparisons * pooled_p_value(ours, theirs, pooled([theirs])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": "last"}, "selection is last, not average"),
        ({"mbr": {"samples": 4}}, "mbr is"),
        ({"train_flops": None}, "is not a record of one run with its costs"),
        ({"curve": {}}, "is not a record of one run"),
        ({"dev_ppl": None}, "is not a record of one run"),
        ({"scores": [{"name": "chrF2", "value": 1.0, "signature": ""}]}, "is not a record of one run"),
        ({"steps": 3}, "steps is 3, not 4"),
        ({"checkpoints": [4]}, r"checkpoints is \[4\], not \[3, 4\]"),
        ({"checkpoints": [2, 4]}, r"checkpoints is \[2, 4\], not \[3, 4\]"),
        ({"curve": {"step": [1, 2], "dev_loss": [1.0], "dev_bleu": [1.0, 2.0]}}, "is not a record of one run"),
        ({"dev_ppl": math.inf}, "is not a record of one run"),
    ],
)
def test_a_record_of_another_protocol_is_refused(filled, changes, message):
    folder, _ = filled
    path = folder_of("micro", folder / "results") / "paper-seed0.json"
    record = read_record(path)
    write_record(path, json.loads(json.dumps(record)) | changes)
    with pytest.raises(UserError, match=message):
        records_of("micro", folder / "results")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pre-norm-seed0", {"train_flops": 1}, "does not have the budget of its track"),
        ("pre-norm-seed0", {"texts": {"source": "00", "reference": "00"}}, "the scored text differs"),
        (
            "pre-norm-seed0",
            {"scores": [{"name": "BLEU", "value": 1.0, "signature": ""}]},
            "signature of a score differs",
        ),
        ("pre-norm-seed0", {"data": {"hash": "00", "sources": {}}}, "the training text differs"),
        (
            "paper-seed1",
            {"curve": {"step": [2, 4], "dev_bleu": [1, 1], "dev_loss": [1, 1]}, "checkpoints": [2, 4]},
            "had another budget",
        ),
    ],
)
def test_a_record_of_another_budget_or_text_than_the_others_is_refused(filled, name, changes, message):
    folder, _ = filled
    path = folder_of("micro", folder / "results") / f"{name}.json"
    record = read_record(path)
    write_record(path, json.loads(json.dumps(record)) | changes)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        records_of("micro", folder / "results")


@pytest.mark.slow
def test_a_record_of_another_validation_text_is_refused_and_one_of_another_sacrebleu_is_not(filled):
    folder, _ = filled
    place = folder_of("micro", folder / "results")
    record = read_record(place / "pre-norm-seed0.json")
    sources = record["data"]["sources"]
    other = {**sources, "dev.target": {**sources["dev.target"], "sha256": "00"}}
    write_record(place / "pre-norm-seed0.json", record | {"data": record["data"] | {"sources": other}})
    with pytest.raises(UserError, match=r"pre-norm-seed0\.json.*the validation text differs"):
        records_of("micro", folder / "results")
    newer = [
        score | {"signature": re.sub("version:[^|]*", "version:99", score["signature"])} for score in record["scores"]
    ]
    assert newer != record["scores"]
    write_record(place / "pre-norm-seed0.json", record | {"scores": newer})
    assert set(records_of("micro", folder / "results")) == {"paper", "pre-norm"}


@pytest.mark.slow
def test_what_does_not_belong_is_reported_before_the_training(filled, track, monkeypatch):
    folder, _ = filled
    place = folder_of("micro", folder / "results")
    lines: list[str] = []
    (place / "paper-seed1.json").write_text("{")
    with pytest.raises(UserError, match=r"paper-seed1\.json"):
        run_recipe("micro", "rotary", 1, None, folder / "runs", folder / "results", lines.append)
    # Checkpoints of another budget are not trained further: its schedule would change midway.
    shutil.rmtree(place)
    monkeypatch.setitem(TRACKS, "micro", track._replace(share=0.2))
    with pytest.raises(
        UserError, match=r"paper-seed0 was begun with other settings \(train\.eval_every, train\.steps\)"
    ):
        run_recipe("micro", "paper", 1, None, folder / "runs", folder / "results", lines.append)
    assert not any(line.startswith("step ") for line in lines)


@pytest.mark.slow
def test_validations_are_as_frequent_as_on_the_track_and_the_budget_is_that_of_the_paper_s_recipe(filled):
    folder, _ = filled
    place = folder_of("micro", folder / "results")
    record = read_record(place / "pre-norm-seed0.json")
    train = record["settings"]["train"]
    often = record | {"settings": record["settings"] | {"train": train | {"eval_every": 2}}}
    write_record(place / "pre-norm-seed0.json", often)
    with pytest.raises(UserError, match=r"pre-norm-seed0\.json was validated every 2 steps, not 1"):
        records_of("micro", folder / "results")
    # Without a record of the paper's recipe, the budget is not known: any number of steps is read.
    for path in place.glob("paper-*.json"):
        path.unlink()
    longer = record | {
        "steps": 8,
        "settings": record["settings"] | {"train": train | {"steps": 8, "eval_every": 2}},
        "curve": record["curve"] | {"step": [2, 4, 6, 8]},
        "checkpoints": [6, 8],
    }
    write_record(place / "pre-norm-seed0.json", longer)
    assert list(records_of("micro", folder / "results")) == ["pre-norm"]


@pytest.mark.slow
def test_a_run_that_reached_the_target_has_fewer_steps_and_checkpoints(filled, track, monkeypatch):
    folder, _ = filled
    place = folder_of("micro", folder / "results")
    for path in place.glob("paper-*.json"):
        path.unlink()
    monkeypatch.setitem(TRACKS, "micro", track._replace(stop_at=1.0))
    record = read_record(place / "pre-norm-seed0.json")
    train = record["settings"]["train"] | {"best": "score", "stop_at": 1.0}
    curve = {name: values[:1] for name, values in record["curve"].items()} | {"dev_bleu": [1.0]}
    stopped = record | {
        "settings": record["settings"] | {"train": train},
        "steps": 1,
        "checkpoints": [1],
        "curve": curve,
    }
    write_record(place / "pre-norm-seed0.json", stopped)
    assert [made["steps"] for made in records_of("micro", folder / "results")["pre-norm"]] == [1]
    write_record(place / "pre-norm-seed0.json", stopped | {"curve": curve | {"dev_bleu": [0.9]}})
    with pytest.raises(UserError, match="steps is 1, not 4"):
        records_of("micro", folder / "results")
