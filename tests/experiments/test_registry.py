"""Custom components: the examples of the documentation, from the command line to a checkpoint and back."""

import shutil
import types
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import transformer.layers
from data.corpora import CORPORA, find_corpus, languages_of
from data.fetch import sha256_of
from experiments.cli.arguments import load_parts_files
from experiments.cli.main import main
from experiments.evaluation.compare import compare
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.metrics import METRICS, score
from experiments.evaluation.records import read_evaluation
from experiments.history import read_metrics
from experiments.registry import REGISTRIES, check_origins, custom_parts, origins_of, run_file
from experiments.task import TASKS, Score, Translated
from experiments.training.loop import check_rates, train
from experiments.translator import Translator
from experiments.workdir import WorkDir
from tests.documents import tables_restored
from tests.examples import EXAMPLES
from transformer.config import DataConfig, UserError
from transformer.optimizer import learning_rate, make_optimizer
from transformer.positions import POSITIONS, Positions
from transformer.train import abstract_model

MODEL = {"positions": "alibi", "attention": "soft-cap", "norm_type": "scale-norm"}
FILES = ("alibi", "soft_cap_attention", "scale_norm", "cosine_schedule", "lion", "focal_loss")


@pytest.fixture(autouse=True)
def tables():
    """Restores the registries after each test."""
    with tables_restored():
        yield


@pytest.fixture(scope="module")
def changed(micro):
    """The small experiment with a custom component for every setting."""
    return replace(
        micro,
        model=replace(micro.model, **MODEL),
        optimizer=replace(micro.optimizer, name="lion", schedule="cosine", warmup_steps=10, scale=0.2),
        train=replace(micro.train, steps=20, loss="focal"),
    )


@pytest.fixture(scope="module")
def trained(changed, tmp_path_factory):
    """A run that uses copies of the examples in a folder, as a user would."""
    folder = tmp_path_factory.mktemp("parts")
    for name in FILES:
        shutil.copy(EXAMPLES / f"{name}.py", folder)
        run_file(folder / f"{name}.py")
    run = train(changed, tmp_path_factory.mktemp("runs") / "changed", lambda line: None)
    return run, folder


def given(folder) -> None:
    for name in FILES:
        run_file(folder / f"{name}.py")


def forget(names=("alibi",)) -> None:
    for table in REGISTRIES:
        for name in names:
            table.pop(name, None)


def test_a_run_of_parts_of_ones_own_is_saved_by_name_and_loads_with_their_files(trained):
    run, folder = trained
    given(folder)
    translator = Translator.load(run.path)
    assert len(translator.translate(["the old man sees the dog"])) == 1
    parts = translator.meta["parts"]
    assert {setting: part["name"] for setting, part in parts.items()} == {
        "model.positions": "alibi",
        "model.attention": "soft-cap",
        "model.norm_type": "scale-norm",
        "optimizer.schedule": "cosine",
        "optimizer.name": "lion",
        "train.loss": "focal",
    }
    assert parts["model.positions"]["file"] == str(folder / "alibi.py")


def test_loading_without_the_part_says_which_file_is_needed(trained):
    run, folder = trained
    given(folder)
    forget()
    with pytest.raises(UserError, match=rf"model\.positions = 'alibi'.*{folder}/alibi\.py.*--parts"):
        Translator.load(run.path)


def test_training_goes_on_only_with_the_part(trained, changed):
    run, folder = trained
    given(folder)
    forget()
    with pytest.raises(UserError, match=rf"model\.positions = 'alibi'.*--parts {folder}/alibi\.py"):
        train(changed, run.path, lambda line: None)


def test_a_rate_that_jumps_when_a_run_goes_on_is_said(changed):
    run_file(EXAMPLES / "cosine_schedule.py")
    meta, said = {"step": 15, "experiment": asdict(changed)}, []
    check_rates(changed, meta, said.append)
    assert not said
    check_rates(replace(changed, train=replace(changed.train, steps=30)), meta, said.append)
    assert len(said) == 1 and "the learning rate jumps from" in said[0]


def test_a_file_is_named_as_it_was_when_it_was_run(tmp_path, micro):
    """Also if the component is not a class or function of the file; two files with the same name are distinct."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "schedule.py"
        file.write_text(
            "from functools import partial\nfrom transformer.optimizer import SCHEDULES, inverse_sqrt\n"
            f"SCHEDULES['{name}'] = partial(inverse_sqrt)\n"
        )
        before = sha256_of(file)
        run_file(file)
        file.unlink()
        experiment = replace(micro, optimizer=replace(micro.optimizer, schedule=name))
        expected = {"name": name, "file": str(file), "sha256": before}
        assert custom_parts(experiment) == {"optimizer.schedule": expected}


@pytest.mark.slow
def test_checkpoints_of_two_versions_of_a_part_are_not_averaged(trained, changed, tmp_path):
    run, folder = trained
    given(folder)
    shutil.copytree(run.path, tmp_path / "run")
    other = tmp_path / "alibi.py"
    other.write_text((folder / "alibi.py").read_text().replace("(-8 *", "(-4 *"))
    run_file(other)
    train(replace(changed, train=replace(changed.train, steps=22)), tmp_path / "run", lambda line: None)
    with pytest.raises(UserError, match=r"differs in the file of model\.positions"):
        Translator.load(tmp_path / "run")
    assert Translator.load(tmp_path / "run", "last").steps == [22]


def test_a_record_has_the_parts_of_training_and_of_scoring(trained, tmp_path):
    run, folder = trained
    given(folder)
    run_file(EXAMPLES / "ter.py")
    shutil.copytree(run.path, tmp_path / "run")
    copied = WorkDir(tmp_path / "run")
    parts = read_evaluation(evaluate(copied, Translator.load(copied.path), "test", lambda line: None).record)["parts"]
    assert parts["train"]["model.positions"] == {
        "name": "alibi",
        "file": "alibi.py",
        "sha256": sha256_of(folder / "alibi.py"),
    }
    assert parts["evaluate"]["metric.TER"]["file"] == "docs/examples/ter.py"
    METRICS["broken"] = lambda text: 1 / 0
    with pytest.raises(UserError, match="the metric 'broken' failed: ZeroDivisionError"):
        evaluate(copied, Translator.load(copied.path), "test", lambda line: None)
    assert "TER" in {score["name"] for score in read_evaluation(copied.evaluation / "test.json")["scores"]}


def test_a_file_that_was_changed_is_said(trained, tmp_path):
    run, folder = trained
    given(folder)
    other = tmp_path / "alibi.py"
    other.write_text((folder / "alibi.py").read_text().replace("(-8 *", "(-4 *"))
    run_file(other)
    said = []
    Translator.load(run.path, log=said.append)
    assert any("warning" in line and "model.positions = 'alibi'" in line for line in said)


def test_a_part_of_a_notebook_is_named_as_such(micro):
    imports = "from transformer.positions import POSITIONS, Positions"
    exec(f"{imports}\nclass Mine(Positions): pass\nPOSITIONS['mine'] = Mine", {"__name__": "__main__"})
    assert custom_parts(replace(micro, model=replace(micro.model, positions="mine"))) == {
        "model.positions": {"name": "mine"}
    }


def test_a_name_that_gets_another_meaning_is_compiled_anew(run):
    loaded = Translator.load(run.path)
    sentence = ["the old man sees the dog"]
    mine = replace(loaded.experiment, model=replace(loaded.experiment.model, positions="mine"))
    translators = []
    for size in (1.0, 5.0):

        class Mine(Positions):
            def __call__(self, positions, size=size):
                return size * positions[:, None] + np.zeros(mine.model.d_model)

        POSITIONS["mine"] = Mine
        translators.append(Translator(loaded.params, mine, loaded.tokenizer))
    # The first run keeps the component that the name had when it was trained.
    scores = [translator.score(sentence, sentence) for translator in translators]
    assert scores[0] != scores[1]


@pytest.mark.slow
def test_the_command_line_takes_files_anywhere(text, data_flags, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alibi = str(EXAMPLES / "alibi.py")
    sizes = ["--model.vocab-size", "220", "--model.d-model", "16", "--model.num-layers", "1", "--model.d-ff", "16"]
    flags = [*data_flags(text), "--data.vocab-size", "200", "--data.batch-tokens", "512", "--train.steps", "4", *sizes]
    main(["--parts", alibi, "train", "small", "--workdir", "run", "--model.positions", "alibi", *flags])
    forget()
    with pytest.raises(SystemExit):
        main(["translate", "run"])
    assert f"--parts {alibi}" in capsys.readouterr().err
    (tmp_path / "in.txt").write_text("the dog\n")
    main(["translate", "run", f"--parts={alibi}", "--input", "in.txt", "--output", "out.txt"])
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 1


SQUARED = """
import jax
import transformer.layers

class Squared(transformer.layers.FeedForward):
    def __call__(self, x):
        return self.outer(jax.nn.relu(self.inner(x)) ** 2)

transformer.layers.FeedForward = Squared
"""


@pytest.mark.slow
def test_a_class_that_was_replaced_by_assignment_is_known_to_the_checkpoint(run, micro, tmp_path, monkeypatch):
    """It is in no registry, and has the same parameters as the class that it replaced."""
    original = transformer.layers.FeedForward
    monkeypatch.setattr(transformer.layers, "FeedForward", original)  # put back after the test
    file = tmp_path / "squared.py"
    file.write_text(SQUARED)
    run_file(file)
    short = replace(micro, train=replace(micro.train, steps=1))
    mine = train(short, tmp_path / "run", lambda line: None)
    with pytest.raises(UserError, match=r"FeedForward as .*, which is Squared of .*squared\.py now"):
        Translator.load(run.path)
    said = []
    assert Translator.load(mine.path, log=said.append).meta["made_of"]["encoder.*.feed_forward"]["file"] == str(file)
    assert not said
    transformer.layers.FeedForward = original
    needed = rf"trained with Squared of {file} as .*\.feed_forward, .* now: --parts {file}"
    with pytest.raises(UserError, match=needed):
        Translator.load(mine.path)
    with pytest.raises(UserError, match=needed):
        train(replace(short, train=replace(micro.train, steps=2)), mine.path, lambda line: None)
    file.write_text(SQUARED.replace("** 2", "** 3"))
    run_file(file)
    Translator.load(mine.path, log=said.append)
    assert len(said) == 1 and "warning" in said[0] and str(file) in said[0] and "changed" in said[0]


class Instance:
    def __call__(self, length):
        return length


def plain(length):
    return length


@pytest.mark.parametrize(
    "value",
    [plain, jax.jit(plain), partial(plain), Instance(), Positions],
    ids=["function", "jitted", "partial", "instance", "class"],  # their repr contains memory addresses
)
def test_functions_and_methods_that_were_replaced_are_known(micro, monkeypatch, value):
    model = abstract_model(micro.model)
    before = origins_of(model)
    assert all(each.keys() == {"class"} and each["class"].startswith("transformer.") for each in before.values())
    monkeypatch.setattr("transformer.model.causal_mask", value)
    monkeypatch.setattr("transformer.attention.MultiHeadAttention.project", value)
    found = {place: each for place, each in origins_of(model).items() if before.get(place) != each}
    if value is Positions:  # a class of this code
        assert not found
        return
    assert list(found) == ["transformer.attention.MultiHeadAttention.project", "transformer.model.causal_mask"]
    assert all(each["file"] == __file__ for each in found.values())
    check_origins({}, model, print)  # a checkpoint from before this was recorded
    check_origins({"made_of": before | found}, model, print)
    with pytest.raises(UserError, match=r"the original as transformer.* now: start again without"):
        check_origins({"made_of": before}, model, print)
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"now: --parts {__file__}"):
        check_origins({"made_of": before | found}, model, print)


@pytest.mark.parametrize(
    "content, message",
    [
        ("1 / 0", "cannot be run: ZeroDivisionError"),
        ("def f(:", "cannot be run: SyntaxError"),
        ("from transformer.positions import *\nPOSITIONS['learned'] = 1", "'learned' is built in"),
    ],
)
def test_a_file_that_fails_is_one_line(tmp_path, content, message):
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(UserError, match=message):
        run_file(tmp_path / "bad.py")


@pytest.mark.parametrize("arguments", [["--parts"], ["--parts", "missing.py"], ["list", "--parts", "."]])
def test_what_is_no_file_is_refused(arguments):
    with pytest.raises(UserError, match="--parts"):
        load_parts_files(arguments)


def test_an_experiment_of_ones_own_is_listed(capsys):
    main(["list", "--parts", str(EXAMPLES / "my_experiment.py")])
    assert "narrow" in capsys.readouterr().out


def test_a_corpus_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.tsv").write_text("".join(f"line {i}\tZeile {i}\n" for i in range(300)))
    run_file(EXAMPLES / "tabbed_corpus.py")
    corpus = CORPORA.find("tabbed")
    assert [len(list(corpus.pairs(split, None, tmp_path, print))) for split in ("train", "dev", "test")] == [294, 3, 3]
    assert next(iter(corpus.pairs("test", 1, tmp_path, print))) == ("line 99", "Zeile 99")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "other"}, "has the name 'other'"),
        ({"languages": "german"}, "languages"),
        ({"pairs": None}, "no `pairs`"),
    ],
    ids=["name", "languages", "pairs"],
)
def test_a_corpus_that_is_none_is_refused_before_it_is_read(change, said):
    members = {"name": "mine", "licence": "", "languages": "en-de", "sources": print, "pairs": print} | change
    CORPORA["mine"] = types.SimpleNamespace(**{name: value for name, value in members.items() if value is not None})
    for asked in (find_corpus, languages_of):
        with pytest.raises(UserError, match=said):
            asked(DataConfig(corpus="mine"))


@pytest.mark.slow
def test_a_task_of_ones_own_is_trained_scored_compared_and_needs_its_file(micro, tmp_path):
    run_file(EXAMPLES / "number_words.py")
    data = DataConfig(corpus="number-words", task="number-words", vocab_size=80, train_pairs=200, batch_tokens=512)
    few = replace(micro.train, steps=4, eval_every=2, best="score")
    experiment = replace(micro, data=data, train=few, decode=replace(micro.decode, beam=1))
    lines: list[str] = []
    runs = [
        train(replace(experiment, train=replace(few, seed=seed)), tmp_path / f"run{seed}", lines.append)
        for seed in (0, 1)
    ]
    assert any(line.startswith("step 4: accuracy 0.00 on") for line in lines)
    assert "dev_accuracy" in {name for row in read_metrics(runs[0].metrics) for name in row}
    for run in runs:
        assert [score.name for score in evaluate(run, Translator.load(run.path), "dev", lines.append).scores] == [
            "accuracy"
        ]
    assert any("accuracy" in line for line in compare(*([str(run.path)] for run in runs), "dev"))
    record = read_evaluation(runs[0].evaluation / "dev.json")
    assert Path(record["parts"]["train"]["data.task"]["file"]).name == "number_words.py"
    forget(("number-words",))
    run_file(EXAMPLES / "tabbed_corpus.py")
    CORPORA["number-words"] = CORPORA["tabbed"]  # the task alone is missing
    with pytest.raises(UserError, match=r"data\.task = 'number-words'.*--parts .*number_words\.py"):
        Translator.load(runs[0].path)


def test_the_example_of_a_task_writes_numbers_in_words(tmp_path):
    run_file(EXAMPLES / "number_words.py")
    corpus = CORPORA.find("number-words")
    pairs = {split: dict(corpus.pairs(split, None, tmp_path, print)) for split in ("train", "dev", "test")}
    words = {digits: text for each in pairs.values() for text, digits in each.items()}
    assert len(words) == sum(map(len, pairs.values())) == 9999
    assert min(map(len, pairs.values())) > 450 and not set(pairs["train"]) & set(pairs["test"])
    assert words["105"] == "one hundred and five" and words["9999"] == "nine thousand nine hundred and ninety nine"
    metric = TASKS.find("number-words").metrics(None)["accuracy"]
    assert metric.corpus_score(["1", "2 ", "3"], [["1", "2", "4"]]).score == pytest.approx(200 / 3)


def test_a_metric_of_ones_own_is_scored_beside_the_others():
    run_file(EXAMPLES / "ter.py")
    text = Translated(["v w x y z"], ["a b c d e"], ["a b c d f"])
    scores = {score.name: score for score in score(text)[0]}
    assert scores["TER"].value == pytest.approx(20.0) and "case" in scores["TER"].signature
    assert "BLEU" in scores
    METRICS["copied"] = lambda text: (sum(a == b for a, b in zip(text.sources, text.outputs, strict=True)), "lines")
    assert score(text)[0][-1] == Score("copied", 0.0, "lines")


@pytest.mark.parametrize("found", [1, (1, 2, 3), (float("nan"), "s"), ("12", "s"), "ab", (1.0, None)], ids=str)
def test_a_metric_that_gives_no_number_is_named_and_the_others_are_kept(found):
    METRICS["broken"] = lambda text: found
    scores, failed = score(Translated(["a"], ["a b c d"], ["a b c d"]))
    assert len(scores) == len(METRICS.built_in) - 1 and len(failed) == 1 and "'broken'" in failed[0]


def test_a_schedule_and_an_optimizer_of_ones_own(micro):
    run_file(EXAMPLES / "cosine_schedule.py")
    run_file(EXAMPLES / "lion.py")
    experiment = replace(micro, optimizer=replace(micro.optimizer, schedule="cosine", name="lion", warmup_steps=10))
    rates = [float(learning_rate(step, experiment)) for step in (1, 10, 25, 40)]
    peak = (32 * 10) ** -0.5
    np.testing.assert_allclose(rates, [peak / 10, peak, peak / 2, 0], atol=1e-7)
    params = {"matrix": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    made = make_optimizer(experiment)
    grads = {"matrix": np.array([[3.0, -2.0], [0.0, 1e-3]], np.float32), "bias": np.array([-1.0, 5.0], np.float32)}
    updates, _ = made.update(grads, made.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, jax.tree.map(np.sign, grads))
