"""The band of a preset: which losses are in it, and that sick runs leave it."""

import json
import math
import statistics
from dataclasses import asdict, replace

import pytest

from experiments.evaluation.evaluate import evaluate, publish
from experiments.evaluation.records import read_record, write_record
from experiments.history import curve_of
from experiments.inspection.band import NARROWEST, NARROWEST_SCORE, Band, band_of, interpolated
from experiments.training.loop import train
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.config import Experiment, UserError

LOSSES = [[4.0, 2.0, 1.0], [4.2, 2.4, 1.0], [4.1, 2.2, 1.0]]
SCORES = [[41.0, 60.0, 90.0], [41.0, 64.0, 90.0], [41.0, 62.0, None]]
BAND = Band([[10, 20, 30]] * 3, LOSSES, SCORES, [])


def quiet(line: str) -> None:
    pass


def test_the_band_is_where_one_more_run_is_found():
    low, high = BAND.at(20)
    # Student's t with 2 degrees of freedom: 99% lie within 9.925.
    half = 9.925 * statistics.stdev([2.0, 2.4, 2.2]) * math.sqrt(4 / 3)
    assert (low, high) == pytest.approx((0.0, 2.2 + half), abs=1e-3)  # 2.2 - half is negative: no loss is
    assert BAND.at(30) == pytest.approx((1 - NARROWEST, 1 + NARROWEST))
    # The scores vary ten times as much.
    assert BAND.scores_at(20) == pytest.approx((62 - 10 * half, 62 + 10 * half), abs=1e-2)
    assert BAND.scores_at(10) == pytest.approx((41 - NARROWEST_SCORE, 41 + NARROWEST_SCORE))
    assert Band([[1]] * 2, [[0.0]] * 2, [[99.0], [90.0]], []).scores_at(1) == (0.0, 100.0)


def test_the_band_is_linear_between_validations_and_ends_with_the_shortest_run():
    assert interpolated(15, [10, 20], [4.0, 2.0]) == 3.0 and interpolated(10, [10], [4.0]) == 4.0
    assert interpolated(20, [10, 20], [4.0, 2.0]) == 2.0
    assert BAND.at(9) is None and BAND.at(31) is None
    assert Band([[10, 20], [10, 20, 30]], [[4.0, 2.0], [4.2, 2.4, 1.0]], [], []).at(30) is None
    assert interpolated(20, [10, 20, 30], [1.0, 2.0, None]) == 2.0
    assert interpolated(25, [10, 20, 30], [1.0, 2.0, None]) is None
    assert BAND.scores_at(30) is None and BAND._replace(scores=[]).scores_at(20) is None


def test_only_a_loss_above_the_band_or_a_score_below_it_is_told_with_what_was_changed():
    assert BAND.warning(30, 1.0, 0.0) is None and BAND.warning(30, 0.1, 0.0) is None
    assert BAND.warning(40, 9.0, 0.0) is None and BAND.warning(20, 2.2, 90.0) is None
    told = BAND.warning(30, 1.45, 0.0)
    assert told == (
        "warning: the validation loss is 0.40 above the band at step 30, which is 0.95 to 1.05 in 3 runs of this "
        "preset: see docs/troubleshooting.md"
    )
    changed = BAND._replace(changed=["optimizer.scale"])
    assert "of this preset, but has other settings (optimizer.scale): see" in changed.warning(30, 1.45, 30.0)
    assert BAND.warning(10, 4.1, 38.5) == (
        "warning: the validation score is 0.50 below the band at step 10, which is 39.00 to 43.00 in 3 runs of this "
        "preset: see docs/troubleshooting.md"
    )
    assert "loss" in BAND.warning(10, 9.0, 38.5)


def test_the_curve_of_a_record_has_a_number_for_each_validation():
    rows = [
        {"step": 5, "loss": 3.0},
        {"step": 10, "loss": 2.0, "seconds": 1.0},
        {"step": 10, "dev_loss": 2.12345678, "dev_ppl": 8.4},
        {"step": 10, "dev_bleu": 1.5},
        {"step": 10, "source": "a", "output": "b", "reference": "c"},
        {"step": 12, "dev_loss": 2.0, "dev_ppl": 7.4},
        {"step": 12, "dev_bleu": None},
        {"step": 14, "dev_loss": 1.5, "dev_ppl": 4.5},  # killed before the score
        {"step": 16, "dev_loss": 1.0, "dev_ppl": 2.7},
        {"step": 16, "dev_bleu": 3.0},
    ]
    assert curve_of(rows) == {
        "step": [10, 12, 14, 16],
        "loss": [2.0, 2.0, 2.0, 2.0],
        "dev_bleu": [1.5, None, None, 3.0],
        "dev_loss": [2.1235, 2.0, 1.5, 1.0],
    }


def test_damaged_metrics_are_reported_before_anything_is_translated(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 3.0}\n{"step": \n{"step": 9, "loss": 2.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
        evaluate(WorkDir(tmp_path), None, "dev", quiet)


@pytest.fixture
def written(micro, tmp_path):
    """A folder with two records as `evaluate` writes them, without what a band does not read."""
    record = {"scores": [{}], "sources": {}, "experiment": micro.name, "checkpoints": [], "data": {}}
    for seed in (0, 1):
        settings = asdict(replace(micro, train=replace(micro.train, seed=seed)))
        curve = {"step": [10, 20], "dev_loss": [3.0, 2.0 + seed], "dev_bleu": [1.0, 9.0]}
        write_record(tmp_path / f"micro-seed{seed}.json", record | {"settings": settings, "curve": curve})
    return tmp_path


def test_a_band_names_every_setting_that_could_change_a_loss(written, micro):
    harmless = replace(micro.train, steps=900, ema=0.9, keep=1)
    assert band_of(replace(micro, train=harmless, note="a note"), written).changed == []
    smooth = replace(micro, train=replace(micro.train, label_smoothing=0.3), freeze="encoder")
    assert band_of(smooth, written).changed == ["freeze", "train.label_smoothing"]


def test_scores_are_compared_if_the_same_sentences_were_translated_in_the_same_way(written, micro):
    same = replace(micro, train=replace(micro.train, steps=900), decode=replace(micro.decode, beam=1, batch_size=7))
    assert band_of(same, written).scores == [[1.0, 9.0]] * 2
    for changes in ({"train": replace(micro.train, best="score")}, {"decode": replace(micro.decode, extra_length=1)}):
        band = band_of(replace(micro, **changes), written)
        assert band.scores == [] and band.losses == [[3.0, 2.0], [3.0, 3.0]]


@pytest.mark.parametrize("path", ["vocabulary", "train_src"])
def test_other_text_or_another_vocabulary_has_no_band(written, micro, path):
    assert band_of(replace(micro, data=replace(micro.data, **{path: "elsewhere"})), written) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"curve": {"step": [], "loss": []}},
        {"curve": {"step": [], "dev_loss": []}},
        {"curve": {"step": [1, 2], "dev_loss": [3.0]}},
        {"curve": {}},
        {"curve": None},
    ],
)
def test_a_record_without_a_curve_is_named(written, micro, changes):
    record = read_record(written / "micro-seed1.json")
    write_record(written / "micro-seed1.json", record | changes)
    with pytest.raises(UserError, match=r"micro-seed1\.json has no curve of validation losses"):
        band_of(micro, written)


@pytest.fixture(scope="module")
def recorded(micro, run, tmp_path_factory):
    """A folder with the records of two seeds of micro."""
    folder = tmp_path_factory.mktemp("bands")
    for seed in (0, 1):
        other = replace(micro, train=replace(micro.train, seed=seed, steps=10))
        trained = train(other, folder / f"run{seed}", quiet)
        publish(
            evaluate(trained, Translator.load(trained.path, log=quiet), "dev", quiet), folder / f"micro-seed{seed}.json"
        )
    return folder


@pytest.mark.slow
def test_the_band_is_read_from_records_and_is_of_the_same_data_only(recorded):
    micro = Experiment.from_dict(read_record(recorded / "micro-seed0.json")["settings"])  # with the paths as recorded
    band = band_of(micro, recorded)
    assert band.steps == [[10], [10]] and band.changed == []
    other_rate = replace(micro, optimizer=replace(micro.optimizer, scale=3.0), mesh=replace(micro.mesh))
    assert band_of(other_rate, recorded).changed == ["optimizer.scale"]
    assert band_of(replace(micro, data=replace(micro.data, batch_tokens=300)), recorded) is None
    assert band_of(replace(micro, name="other"), recorded) is None
    (recorded / "micro-seed1.json").rename(recorded / "kept.json")
    assert band_of(micro, recorded) is None
    (recorded / "kept.json").rename(recorded / "micro-seed1.json")
    record = json.loads((recorded / "micro-seed1.json").read_text())
    (recorded / "micro-seed2.json").write_text(json.dumps(record | {"steps": 7}))
    with pytest.raises(UserError, match="was edited"):
        band_of(micro, recorded)
