"""Mask-predict, drafts and distillation from the command line's side: a run is trained, translates and is scored."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.cli.flags import Translating
from experiments.cli.translating import loaded
from experiments.evaluation.evaluate import evaluate
from experiments.planning.explain import explain
from experiments.streams import part_of
from experiments.training import distill as distilling
from experiments.training.distill import distill
from experiments.training.loop import train
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.config import Experiment, UserError

LINES = ["The man sees the dog.", "", "A small house and a woman.", "The dog."]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def at_once(micro, tmp_path_factory) -> WorkDir:
    """A run of mask-predict, trained for a few steps."""
    experiment = replace(
        micro,
        name="at-once",
        model=replace(micro.model, architecture="mask-predict", max_positions=40),
        train=replace(micro.train, loss="mask_predict"),
        decode=replace(micro.decode, beam=2, iterations=3),
    )
    return train(experiment, tmp_path_factory.mktemp("runs") / "at-once", log=quiet)


@pytest.fixture(scope="module")
def smaller(micro, run, tmp_path_factory) -> WorkDir:
    """A smaller model with the vocabulary of `run`."""
    experiment = replace(
        micro,
        name="smaller",
        model=replace(micro.model, d_ff=32),
        data=replace(micro.data, vocabulary=str(run.path)),
        train=replace(micro.train, steps=10),
    )
    return train(experiment, tmp_path_factory.mktemp("runs") / "smaller", log=quiet)


def greedy(run: WorkDir) -> Translator:
    translator = Translator.load(run.path, log=quiet)
    translator.experiment = replace(translator.experiment, decode=replace(translator.experiment.decode, beam=1))
    return translator


def test_mask_predict_is_trained_translates_and_is_scored(at_once):
    translator = Translator.load(at_once.path, log=quiet)
    found = translator.n_best(LINES, 2)
    assert found[1][0].text == "" and all(one.finished for each in found for one in each)
    assert len(found[0]) in (1, 2) and found[0][0].score >= found[0][-1].score
    # A sentence is translated as it is alone.
    assert translator.translate(LINES[2:3]) == [found[2][0].text]
    scores = evaluate(at_once, translator, "test", quiet).scores
    assert scores[0].name == "BLEU"


@pytest.mark.slow
def test_mask_predict_may_start_from_a_model_that_predicts_one_token_after_the_other(at_once, micro, run, tmp_path):
    short = replace(at_once.experiment(), name="begun", init=str(run.path), train=replace(micro.train, steps=1))
    short = replace(short, train=replace(short.train, loss="mask_predict"), data=run.experiment().data)
    said: list[str] = []
    train(short, tmp_path / "begun", log=said.append)
    assert any(line.startswith("lengths is not in") for line in said)
    begun = Translator.load(tmp_path / "begun", "last", log=quiet)
    before = Translator.load(run.path, log=quiet)
    moved = abs(begun.params["encoder"][0]["feed_forward"]["inner"]["kernel"]
                - before.params["encoder"][0]["feed_forward"]["inner"]["kernel"]).max()  # fmt: skip
    assert moved < 0.01


def test_explain_says_that_mask_predict_does_not_search(at_once):
    (said,) = [line for line in explain(at_once.experiment()) if line.startswith("6.1")]
    assert said.startswith("6.1    no search: 3 passes through the decoder with 2 lengths in parallel")


def test_the_number_of_iterations_and_lengths_can_be_given(at_once):
    given = Translating(iterations=1, beam=1, checkpoint="last")
    translator = loaded(str(at_once.path), given)
    assert (translator.experiment.decode.iterations, translator.experiment.decode.beam) == (1, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sample": True}, "decode.sample"),
        ({"alpha": 0.3}, "--alpha: not for mask-predict"),
        ({"min_length": 3}, "decode.min_length"),
        ({"iterations": 0}, "decode.iterations must be at least 1"),
    ],
)
def test_settings_of_a_search_are_refused_by_mask_predict(at_once, flags, message):
    with pytest.raises(UserError, match=message):
        loaded(str(at_once.path), Translating(**flags))


def test_iterations_are_refused_by_a_search(run):
    with pytest.raises(UserError, match=r"decode\.iterations is for"):
        loaded(str(run.path), Translating(iterations=3))


def test_what_mask_predict_does_not_do_is_refused(at_once, run):
    translator = Translator.load(at_once.path, log=quiet)
    searching = Translator.load(run.path, log=quiet)
    for call in (
        lambda: Translator.ensemble([("a", translator), ("b", searching)]),
        lambda: Translator.ensemble([("a", searching), ("b", translator)]),
        lambda: translator.n_best(LINES, 1, prefixes=["A"] * 4),
        lambda: translator.score(["A dog."], ["Ein Hund."]),
        lambda: Translator.ensemble([("a", translator), ("b", translator)]),
        lambda: distill(translator, at_once.path / "distilled", quiet),
    ):
        with pytest.raises(UserError, match="not for mask-predict"):
            call()


@pytest.mark.parametrize("length", [1, 5])
def test_a_draft_changes_no_output(run, smaller, length):
    drafted = greedy(run).with_draft(Translator.load(smaller.path, log=quiet), length)
    expected = greedy(run).n_best(LINES, 1, log_probs=True)
    found = drafted.n_best(LINES, 1, log_probs=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours[0].text, ours[0].pieces) == (theirs[0].text, theirs[0].pieces)
        assert ours[0].score == pytest.approx(theirs[0].score, abs=1e-5)
    assert drafted.score(LINES[:1], ["Ein Hund."]) == pytest.approx(greedy(run).score(LINES[:1], ["Ein Hund."]))


@pytest.mark.slow
def test_a_draft_from_the_command_line(run, smaller):
    for draft in (str(smaller.path), f"{smaller.path}:last"):
        translator = loaded(str(run.path), Translating(draft=draft, beam=1, draft_length=2))
        assert translator.translate(LINES) == greedy(run).translate(LINES)
    with pytest.raises(UserError, match="no checkpoint '12345'"):
        loaded(str(run.path), Translating(draft=f"{smaller.path}:12345", beam=1))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"beam": 4}, "a beam of 1, not 4"),
        ({"beam": 1, "sample": True}, "no sampling"),
        ({"beam": 1, "min_length": 4}, "decode.min_length"),
        ({"beam": 1, "draft_length": 0}, "from 1 to 64 pieces"),
    ],
)
def test_what_a_draft_is_not_for(run, smaller, flags, message):
    with pytest.raises(UserError, match=message):
        loaded(str(run.path), Translating(draft=str(smaller.path), **flags))


def test_a_draft_needs_the_same_vocabulary(run, at_once, micro, smaller):
    with pytest.raises(UserError, match="it needs --draft RUN"):
        loaded(str(run.path), Translating(draft_length=2))
    translator, other = greedy(run), Translator.load(smaller.path, log=quiet)
    other.tokenizer = replace_hash(other.tokenizer)
    with pytest.raises(UserError, match="another vocabulary"):
        translator.with_draft(other, 2)
    drafted = translator.with_draft(Translator.load(smaller.path, log=quiet), 2)
    with pytest.raises(UserError, match="cannot be used with a draft"):
        drafted.n_best(LINES, 1, prefixes=["A"] * 4)


def replace_hash(tokenizer):
    class Other:
        sha256 = "another"

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    return Other()


def test_distillation_of_a_text_that_is_gone_is_refused(run, tmp_path, monkeypatch):
    class Emptied:
        sources = staticmethod(lambda *_: {})
        pairs = staticmethod(lambda *_: iter([("", "")]))

    monkeypatch.setattr(distilling, "find_corpus", lambda data: Emptied())
    with pytest.raises(UserError, match="train has no sentence pair any more"):
        distill(greedy(run), tmp_path / "text", quiet)


@pytest.mark.slow
def test_distillation_goes_on_where_it_was_and_its_text_can_be_trained_on(run, micro, tmp_path, monkeypatch):
    monkeypatch.setattr(distilling, "CHUNK", 64)
    translator = greedy(run)
    flags = distill(translator, tmp_path / "text", quiet)
    sources = (tmp_path / "text/train.source").read_text().splitlines()
    targets = (tmp_path / "text/train.target").read_text().splitlines()
    assert len(sources) == len(targets) > 128
    assert targets[:3] == translator.translate(sources[:3])
    data = translator.experiment.data
    for mine, theirs in (("train.source", data.train_src), ("dev.source", data.dev_src), ("dev.target", data.dev_tgt)):
        assert (tmp_path / "text" / mine).read_text() == Path(theirs).read_text()

    # Interrupted in the middle of a line.
    whole = (tmp_path / "text/train.target").read_bytes()
    (tmp_path / "text/train.target").unlink()
    part_of(tmp_path / "text/train.target").write_bytes(whole[: len(whole) // 2])
    said: list[str] = []
    assert distill(translator, tmp_path / "text", said.append) == flags
    assert (tmp_path / "text/train.target").read_bytes() == whole
    assert not part_of(tmp_path / "text/train.target").exists()
    distill(translator, tmp_path / "text", said.append)
    assert said[-1].endswith("is complete")

    # What one model began, another one does not go on with, nor the same one with other flags.
    longer = replace(translator.experiment.decode, extra_length=translator.experiment.decode.extra_length + 1)
    other = greedy(run)
    other.experiment = replace(other.experiment, decode=longer)
    with pytest.raises(UserError, match=r"teacher.json is of another model"):
        distill(other, tmp_path / "text", quiet)

    given = dict(zip(flags.split()[::2], flags.split()[1::2], strict=True))
    files = {name.removeprefix("--data.").replace("-", "_"): value for name, value in given.items()}
    short = replace(
        micro,
        name="pupil",
        data=replace(micro.data, vocabulary=str(run.path), max_unknown=1.0, **files),
        train=replace(micro.train, steps=2),
    )
    assert isinstance(train(short, tmp_path / "pupil", log=quiet).experiment(), Experiment)

    with pytest.raises(UserError, match="cannot write translations to"):
        distill(translator, tmp_path / "text/train.source", quiet)
    (tmp_path / "text/train.source").write_text("Another text.\n")
    with pytest.raises(UserError, match="has another text"):
        distill(translator, tmp_path / "text", quiet)
