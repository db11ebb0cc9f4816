"""The output of `explain` and `inspect` agrees with the model and the checkpoint."""

import ast
import re
import shutil
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from experiments import find
from experiments.inspection.inspect import inspect, role_of
from experiments.planning.explain import explain
from experiments.presets.deviations import deviations
from experiments.registry import run_file
from experiments.translator import Translator
from experiments.workdir import WorkDir
from tests.documents import tables_restored
from tests.examples import EXAMPLES
from transformer.config import Experiment, UserError
from transformer.layers import NORMS
from transformer.model import count_parameters


@pytest.mark.parametrize("name", ["demo", "wmt14-en-de-base", "wmt14-en-fr-big", "europarl-en-fr-small"])
def test_an_experiment_can_be_explained_and_the_parts_add_up(name):
    experiment = find(name)
    said = "\n".join(explain(experiment))
    total = count_parameters(experiment.model)
    assert f"total  {total:,} parameters" in said
    each = {
        words: int(count.replace(",", "")) for count, words in re.findall(r"([\d,]+) parameters(?: each)?: (\w+)", said)
    }
    layers = experiment.model.num_layers
    norms = each["bias"] * (5 * layers + 2 * (experiment.model.norm == "pre"))
    positions = int(re.findall(r"3\.5 .*\n +([\d,]+) parameters", said)[0].replace(",", ""))
    assert each["key"] * 3 * layers + each["inner"] * 2 * layers + norms + each["E"] + positions == total


CHANGES = {
    "decoder_layers": 3,
    "attention_dropout": 0.1,
    "activation_dropout": 0.2,
    "norm_epsilon": 1e-5,
    "activation": "gelu",
    "biases": False,
    "initializer": "normal",
    "tied": "none",
    "scale_embeddings": False,
    "output_bias": True,
}


def shallow() -> Experiment:
    """The base model with two layers, whose shapes are found sooner."""
    base = find("wmt14-en-de-base")
    return replace(base, model=replace(base.model, num_layers=2))


@cache
def explained(experiment: Experiment) -> list[str]:
    return "\n".join(explain(experiment)).split("differences from the paper:")


@pytest.mark.parametrize(("setting", "value"), [*CHANGES.items(), ("shared_layers", 2)])
def test_every_setting_of_the_model_is_explained_and_differs_from_the_paper(setting, value):
    base = shallow()
    changed = replace(base, model=replace(base.model, **{setting: value}))
    (before, before_differing), (after, differing) = map(explained, (base, changed))
    assert after != before, "explain does not mention it in its section"
    (line,) = set(differing.splitlines()) - set(before_differing.splitlines())
    assert re.search(r"\(\d(\.\d)+\)$", line)
    assert setting in line or setting in ("biases", "norm_epsilon")


def test_the_parts_of_another_model_add_up():
    base = find("wmt14-en-de-base")
    model = replace(base.model, num_layers=4, shared_layers=2, **CHANGES | {"decoder_layers": 2})
    said = "\n".join(explain(replace(base, model=model)))
    assert "encoder: 4 layers" in said and "decoder: 2 layers" in said
    each = [
        (int(times), int(count.replace(",", "")))
        for times, count in re.findall(r"with the parameters of (\d+), ([\d,]+) parameters each", said)
    ]
    assert [times for times, _ in each] == [2 + 2 * 1, 2 + 1]
    matrices = [int(n.replace(",", "")) for n in re.findall(r"^ +([\d,]+) parameters: \S+ \[", said, re.MULTILINE)]
    assert len(matrices) == 4
    norms = 2 * 512 * (2 * 2 + 3 * 1)
    assert sum(times * count for times, count in each) + sum(matrices) + norms == count_parameters(model)


def test_the_depth_of_the_decoder_differs_only_if_it_is_not_the_papers():
    base = find("wmt14-en-de-base")

    def depth(**changes):
        said = "\n".join(deviations(replace(base, model=replace(base.model, **changes))))
        return re.findall(r"model\.(?:num|decoder)_layers: \d+", said)

    assert depth(decoder_layers=6) == []
    assert depth(num_layers=12) == ["model.num_layers: 12"]
    assert depth(num_layers=12, decoder_layers=6) == ["model.num_layers: 12"]
    assert depth(num_layers=12, decoder_layers=3) == ["model.num_layers: 12", "model.decoder_layers: 3"]


def test_the_tree_says_what_each_embedding_is_for():
    assert "source and target" in role_of("embedding", {"embedding": 0})
    target = {"embedding": 0, "source_embedding": 0}
    assert "target" in role_of("embedding", target) and "logits" in role_of("embedding", target)
    three = target | {"output_embedding": 0}
    assert "logits" not in role_of("embedding", three) and "logits" in role_of("output_embedding", three)
    assert "source" in role_of("source_embedding", three) and role_of("positions", three) == ""


def test_what_differs_is_named_with_its_section(micro):
    said = list(explain(replace(micro, model=replace(micro.model, norm="pre"))))
    assert any("x + f(Norm(x)), and a final Norm" in line for line in said)
    differing = said[said.index("differences from the paper:") + 1 :]
    assert any("model.norm: pre; the paper's" in line for line in differing)
    assert all(re.search(r"\(\d(\.\d)+\)$", line) for line in differing)


def test_only_positions_that_are_added_are_in_the_sum(micro):
    assert any(f"x = E[w] sqrt({micro.model.d_model}) + PE(position); p(next w)" in line for line in explain(micro))
    without = replace(micro, model=replace(micro.model, positions="none"))
    assert any(f"x = E[w] sqrt({micro.model.d_model}); p(next w)" in line for line in explain(without))


def test_a_part_of_ones_own_is_explained_by_its_docstring(micro):
    with tables_restored():
        run_file(EXAMPLES / "alibi.py")
        said = "\n".join(explain(replace(micro, model=replace(micro.model, positions="alibi"))))
        assert "model.positions = 'alibi'" in said and "is not built in" in said and "alibi.py" in said


@pytest.mark.parametrize(
    ("setting", "name", "words"),
    [
        ("model.positions", "rotary", "Rotary position embeddings"),
        ("model.norm_type", "rms", "layer normalization without subtracting the mean"),
        ("model.attention", "qk-norm", "cosines times a scale g per head"),
        ("model.feed_forward", "gated", "(activation(x W_1 + b_1) * (x V + c)) W_2"),
        ("train.loss", "r_drop", "KL divergences"),
        ("optimizer.schedule", "wsd", "decays linearly to zero"),
        ("optimizer.schedule", "constant", "which stays"),
        ("optimizer.name", "muon", "Muon for the matrices of layers; Adam for embeddings"),
        ("optimizer.name", "schedule_free", "x is the average of all z"),
    ],
)
def test_a_built_in_part_that_is_not_the_papers_is_explained(micro, setting, name, words):
    section, field = setting.split(".")
    said = list(explain(replace(micro, **{section: replace(getattr(micro, section), **{field: name})})))
    assert any(f"{setting} = {name!r}: " in line and words in line for line in said)
    assert any(f"{setting}: {name}; the paper's" in line for line in said)
    assert any("beta_1 = 0.9" in line for line in said) and any("warmup 20 steps" in line for line in said)


def test_an_unknown_part_lists_what_there_is(micro):
    with pytest.raises(UserError, match=r"unknown model\.attention 'dense'; there are: .*softmax"):
        list(explain(replace(micro, model=replace(micro.model, attention="dense"))))


def test_the_tree_holds_what_the_checkpoint_holds(run, micro):
    said = list(inspect(run, "last"))
    params = Translator.load(run.path, "last").params
    assert f"{count_parameters(micro.model):,} parameters" in "\n".join(said)
    embedding = next(line for line in said if line.startswith("embedding"))
    assert "220 x 32" in embedding and "tied" in embedding
    norm = np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]).astype(np.float64))
    total = next(line for line in said if " arrays, norm " in line)
    assert float(re.search(r"arrays, norm ([\d.]+)", total)[1]) == pytest.approx(norm, rel=1e-3)
    assert sum(line.strip().startswith("kernel") for line in said) == 4 * 3 + 2 * 2
    assert any(line.startswith("step          40 of 40") for line in said)


def test_a_part_is_explained_by_its_own_words(micro):
    with tables_restored():
        for name in ("alibi", "soft_cap_attention"):
            run_file(EXAMPLES / f"{name}.py")
        NORMS["none"] = lambda config, *, rngs: lambda x: x
        model = replace(micro.model, positions="alibi", attention="soft-cap", norm_type="none")
        said = "\n".join(explain(replace(micro, model=model)))
    for name in ("alibi", "soft_cap_attention"):
        first = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())).splitlines()[0]
        assert first in said
    assert "Base class of positional encodings" not in said


def test_inspect_shows_nothing_that_was_not_saved(run, tmp_path):
    """Undamaged arrays of another checkpoint are detected."""
    shutil.copytree(run.path, tmp_path / "run")
    copied = WorkDir(tmp_path / "run")
    shutil.rmtree(copied.checkpoints / "40" / "params")
    with pytest.raises(UserError, match="40 cannot be read"):
        list(inspect(copied, "40"))
    shutil.copytree(copied.checkpoints / "30" / "params", copied.checkpoints / "40" / "params")
    with pytest.raises(UserError, match="not what was saved"):
        list(inspect(copied, "40"))


def test_inspect_names_what_is_not_there(run):
    with pytest.raises(UserError, match="no checkpoint '7'"):
        list(inspect(run, "7"))
    for several in ("30,40", "average"):
        with pytest.raises(UserError, match="one checkpoint"):
            list(inspect(run, several))


@pytest.mark.slow
def test_a_checkpoint_that_needs_a_part_is_inspected_without_it(micro, tmp_path):
    from experiments.training.loop import train

    with tables_restored():
        run_file(EXAMPLES / "alibi.py")
        changed = replace(micro, model=replace(micro.model, positions="alibi"), train=replace(micro.train, steps=2))
        run = train(changed, tmp_path / "run", lambda line: None)
    said = list(inspect(run, "last"))
    assert any(line.startswith("custom part") and "alibi.py" in line for line in said)


def test_a_parser_is_compared_with_the_papers_parser():
    wsj = find("wsj")
    (dtype, *others) = deviations(wsj)
    assert dtype == "model.dtype: bfloat16; the paper's wsj: float32 (5.2)"
    assert not [line for line in others if "en-de" in line or "37,000" in line]
    assert len([line for line in others if line.endswith("the paper does not say (6.3)")]) == 3
    narrow = replace(wsj, model=replace(wsj.model, num_layers=2), decode=replace(wsj.decode, beam=4))
    assert "model.num_layers: 2; the paper's wsj: 4 (3.1)" in deviations(narrow)
    assert "decode.beam: 4; the paper's wsj: 21 (6.1)" in deviations(narrow)
    tagged = replace(wsj, data=replace(wsj.data, task="tagged-parsing"))
    assert "data.task: tagged-parsing; the paper's wsj: parsing (6.3)" in deviations(tagged)
    assert any("a word is its tag;" in line for line in deviations(tagged))
    assert not any("XX" in line for line in deviations(tagged))
    assert any("a word is XX whatever its tag;" in line for line in others)
