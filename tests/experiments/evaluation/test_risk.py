"""Minimum Bayes risk decoding."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

import experiments
from experiments.cli.main import main
from experiments.evaluation.risk import least_risk, utilities, utility_of
from experiments.sentences import Translation

METRICS = {"chrf": CHRF(), "bleu": BLEU(effective_order=True)}
WORDS = ["der Hund", "ein Hund", "der Mann sieht", "ein Haus", "die Frau sieht den Mann", "der Hund sieht das Haus"]


def as_samples(texts):
    return [Translation(text, -float(i), ("</s>",)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("metric", METRICS)
def test_the_choice_has_the_highest_mean_against_all_the_others(metric):
    draw = np.random.default_rng(0)
    for _ in range(20):
        texts = [WORDS[i] for i in draw.integers(len(WORDS), size=7)]
        expected = [
            np.mean([METRICS[metric].sentence_score(a, [b]).score for j, b in enumerate(texts) if j != i])
            for i, a in enumerate(texts)
        ]
        found = utilities(texts, utility_of(metric))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert least_risk(as_samples(texts), utility_of(metric)).text == texts[int(np.argmax(np.round(expected, 6)))]


def test_one_sample_is_chosen_a_majority_wins_and_ties_go_to_the_first():
    chrf = utility_of("chrf")
    assert least_risk(as_samples(["a"]), chrf).text == "a"
    assert (
        least_risk(as_samples(["xyz", "der Hund", "abc", "der Hund", "der Hund"]), chrf)
        == as_samples(["", "der Hund"])[1]
    )
    assert least_risk(as_samples(["abc", "xyz"]), chrf).text == "abc"
    assert least_risk(as_samples(["", ""]), chrf).text == ""


@pytest.mark.slow
def test_translate_prints_the_choice_of_the_samples_that_are_drawn(run, tmp_path, capsys):
    (tmp_path / "in").write_text("The man sees the dog.\n\nA house.\n")

    def translated(*flags):
        start = "translate", run.path, "--input", tmp_path / "in", "--sample", "--temperature", "0.1", "--seed", "3"
        main([str(word) for word in (*start, *flags)])
        return capsys.readouterr().out.split("\n")

    assert translated("--mbr", "1") == translated()
    found = translated("--mbr", "8")
    loaded = experiments.load(run.path, log=lambda line: None)
    decode = replace(loaded.experiment.decode, sample=True, beam=1, temperature=0.1, seed=3)
    loaded.experiment = replace(loaded.experiment, decode=decode)
    drawn: list[list[Translation]] = []
    loaded.n_best(["The man sees the dog.", "", "A house."], 8, choose=lambda best: drawn.append(best) or best[0])
    assert [len(best) for best in drawn] == [8, 1, 8]
    assert any(len({one.text for one in best}) < len(best) for best in drawn)  # all of them count
    assert found == [*(least_risk(best, utility_of("chrf")).text for best in drawn), ""]
    alone = loaded.n_best(["A house."], 8, first=3, choose=partial(least_risk, utility=utility_of("chrf")))
    assert alone[0][0].text == found[2]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mbr", "4"], "needs --sample"),
        (["--mbr", "4", "--sample", "--n-best", "2"], "without --n-best"),
        (["--mbr-metric", "bleu", "--sample"], "needs --mbr N"),
        (["--mbr", "0", "--sample"], "at least 1"),
        (["--mbr-metric", "ter", "--mbr", "2", "--sample"], "chrf"),
    ],
)
def test_flags_that_do_not_go_together(run, capsys, flags, said):
    with pytest.raises(SystemExit) as end:
        main(["translate", str(run.path), *flags])
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("error:") == 1
