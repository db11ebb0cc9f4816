"""`export --format safetensors` and `import` of what it wrote."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.exchange.arrays import library, named, read_arrays, write_arrays
from experiments.exchange.exchange import export_run, import_folder
from experiments.training.start import carried_over, parent_of
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.config import UserError


def quiet(line):
    pass


@pytest.fixture(scope="module")
def model(run):
    return Translator.load(run.path, "20,40", quiet)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_run(model, tmp_path_factory.mktemp("exchange") / "exported", quiet)


@pytest.fixture
def folder(exported, tmp_path):
    """A copy, to damage."""
    return shutil.copytree(exported, tmp_path / "exported")


def test_a_model_comes_back_as_a_run(model, exported, text, tmp_path):
    back = Translator.load(import_folder(exported, tmp_path / "new", quiet), log=quiet)
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    assert back.experiment == model.experiment
    assert (back.steps, back.selection, back.tokenizer.sha256) == ([20, 40], "20,40", model.tokenizer.sha256)
    sentences = (text / "dev.en").read_text().splitlines()
    assert back.n_best(sentences, 2) == model.n_best(sentences, 2)


def test_another_run_can_start_from_it(exported, model, tmp_path):
    parent = parent_of(str(import_folder(exported, tmp_path / "new", quiet)), "average")
    other = Translator.load(parent.run.path, log=quiet)
    zeros = jax.tree.map(jax.numpy.zeros_like, model.params)
    carried = carried_over(model.experiment, zeros, other, model.tokenizer, parent, quiet)
    jax.tree.map(np.testing.assert_array_equal, carried, model.params)


def test_training_cannot_resume_from_it(exported, model, tmp_path):
    new = import_folder(exported, tmp_path / "new", quiet)
    with pytest.raises(UserError, match="no optimizer state to resume from"):
        WorkDir(new).claim(model.experiment, model.tokenizer)


def test_the_arrays_have_the_names_of_the_model(exported, model):
    arrays, _ = read_arrays(exported / "model.safetensors")
    assert arrays.keys() == named(model.params).keys()
    assert {"embedding", "encoder.0.self_attention.query.kernel", "decoder.0.residuals.2.norm.scale"} < arrays.keys()


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_array(change):
    def damage(folder):
        path = folder / "model.safetensors"
        arrays, metadata = read_arrays(path)
        change(arrays, metadata)
        write_arrays(path, arrays, metadata)

    return damage


def change_setting(section, name, value):
    def damage(folder):
        path = folder / "config.json"
        settings = json.loads(path.read_text())
        settings[section][name] = value
        path.write_text(json.dumps(settings))

    return damage


def with_setting_everywhere(folder):
    """Both the configuration and the metadata lie about the width."""
    change_setting("model", "d_ff", 65)(folder)

    def change(arrays, metadata):
        meta = json.loads(metadata["meta"])
        meta["experiment"]["model"]["d_ff"] = 65
        metadata["meta"] = json.dumps(meta)

    change_array(change)(folder)


DAMAGE = {
    "truncated": (truncate, "model.safetensors cannot be read"),
    "no parameters": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
    "no vocabulary": (lambda folder: (folder / "vocab.model").unlink(), "vocab.model: cannot be read"),
    "not safetensors": (lambda folder: (folder / "model.safetensors").write_bytes(b"{}"), "cannot be read"),
    "another activation": (change_setting("model", "activation", "gelu"), "says model.activation = gelu"),
    "another width": (with_setting_everywhere, r"its decoder.0.feed_forward.inner.bias is \[64\], .* is \[65\]"),
    "another format": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "bart", "d_model": 512}'),
        "config.json: model_type = 'bart': of the models of transformers, `import` reads marian",
    ),
    "an unknown setting": (change_setting("model", "depth", 3), "unknown setting 'model.depth'"),
    "one less": (change_array(lambda arrays, _: arrays.pop("embedding")), "its embedding is missing"),
    "one more": (change_array(lambda arrays, _: arrays.update(x=arrays["embedding"])), r"its x is \[220, 32\], .*miss"),
    "integers": (change_array(lambda arrays, _: arrays.update(embedding=np.zeros((220, 32), int))), "type int64"),
    "nan": (change_array(lambda arrays, _: arrays.update(embedding=arrays["embedding"] * np.nan)), "not finite"),
    "no metadata": (change_array(lambda _, metadata: metadata.clear()), "was not written by"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(damage, folder, tmp_path):
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        import_folder(folder, tmp_path / "new", quiet)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]  # nothing is left


def test_nothing_is_overwritten(exported, model, tmp_path):
    (tmp_path / "mine").write_text("")
    for act in (lambda: export_run(model, tmp_path, quiet), lambda: import_folder(exported, tmp_path, quiet)):
        with pytest.raises(UserError, match="exists: choose another --output"):
            act()


def test_a_missing_library_is_named_with_the_command_that_installs_it():
    with pytest.raises(UserError, match="needs no_such_library: python -m pip install no_such_library"):
        library("no_such_library")
