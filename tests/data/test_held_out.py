"""Held-out data is identified by its hash, wherever it is, and does not need the training data of the run."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.dataset import PreparedData, find_prepared, prepare
from data.held_out import HeldOut, held_out
from tests.text import write_text
from transformer.config import DataConfig, UserError


def quiet(message: object) -> None:
    pass


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Corpus files in the current folder, with relative paths."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path, {"train": 200, "dev": 12, "test": 15})
    for name in ("test.en", "test.de"):
        with Path(name).open("a", encoding="utf-8") as file:
            file.write("\u200b\nq€\n")  # a blank pair, and characters that training has not seen
    names = {f"{split}_{side}": f"{split}.{end}" for split in ("train", "dev", "test") for side, end in SIDES}
    return DataConfig(**names, vocab_size=150, max_length=64, max_unknown=1.0)


SIDES = (("src", "en"), ("tgt", "de"))


@pytest.fixture
def prepared(config: DataConfig) -> PreparedData:
    return prepare(config, Path("data"), quiet)


def read(config: DataConfig, data: PreparedData, split: str, data_dir: str) -> HeldOut:
    return held_out(config, split, data.tokenizer, data.manifest, Path(data_dir), quiet)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_text_is_the_same_prepared_or_not(config: DataConfig, prepared: PreparedData, split: str) -> None:
    ready, anew = (read(config, prepared, split, data_dir) for data_dir in ("data", "elsewhere"))
    assert ready._replace(tokens=None) == anew._replace(tokens=None)  # type: ignore[arg-type]
    assert ready.counts == prepared.manifest["splits"][split]
    assert list(ready.files) == [f"{split}.source", f"{split}.target"]
    assert len(ready.tokens) == len(anew.tokens) == len(ready.sources) == (12 if split == "dev" else 16)
    for pair, other in zip(
        map(ready.tokens.__getitem__, range(12)), map(anew.tokens.__getitem__, range(12)), strict=True
    ):
        for ids, same in zip(pair, other, strict=True):
            np.testing.assert_array_equal(ids, same)
    if split == "test":
        assert ready.counts["blank"] == 1 and ready.counts["source_uncovered"]["€"] == 1


def test_only_the_wanted_text_has_to_be_there(config: DataConfig, prepared: PreparedData) -> None:
    for name in ("train.en", "train.de", "dev.en", "dev.de"):
        Path(name).unlink()
    assert len(read(config, prepared, "test", "elsewhere").sources) == 16
    with pytest.raises(UserError, match=r"dev\.en: no such file, and elsewhere \(\$DATA_DIR\) does not contain"):
        read(config, prepared, "dev", "elsewhere")
    for name in ("test.en", "test.de"):
        Path(name).unlink()
    assert len(read(config, prepared, "dev", "data").sources) == 12  # the prepared data is sufficient


def test_text_that_changed_is_named(config: DataConfig, prepared: PreparedData) -> None:
    shutil.copy("dev.de", "test.de")
    with pytest.raises(UserError, match=r"test\.de \(test\.target\) is not the text that this run was trained with"):
        read(config, prepared, "test", "elsewhere")
    (prepared.path / "dev.target.txt").write_bytes((prepared.path / "dev.target.txt").read_bytes().swapcase())
    with pytest.raises(UserError, match=r"dev\.target\.txt is damaged"):
        read(config, prepared, "dev", "data")


def test_a_file_that_is_gone_is_what_it_was(config: DataConfig, prepared: PreparedData) -> None:
    """That of the run that resumes, or else what was prepared under this path; another one may be a typing error."""
    sources = prepared.manifest["sources"]
    for name in ("train.en", "test.de"):
        Path(name).unlink()
    for known, given in ((sources, config), (None, config), (sources, replace(config, train_src="moved.en"))):
        said: list[str] = []
        assert find_prepared(given, Path("data"), quiet, known) == prepared.path
        assert prepare(given, Path("data"), said.append, known).path == prepared.path
        [line] = said
        assert f"{given.train_src} does not exist (nor 1 other text file): using the data prepared earlier" in line
    for known, given in ((None, replace(config, train_src="moved.en")), (sources, replace(config, vocab_size=149))):
        said = []
        assert find_prepared(given, Path("data"), said.append, known) is None
        with pytest.raises(
            UserError, match=rf"{given.train_src}: no such file, and data \(\$DATA_DIR\) .*--data.train-src"
        ):
            prepare(given, Path("data"), said.append, known)
        assert not said  # nothing is used
    with pytest.raises(UserError, match=r"train\.en: no such file, and elsewhere"):
        prepare(config, Path("elsewhere"), quiet, sources)
    assert not Path("elsewhere").exists()


def test_a_file_of_the_same_name_in_another_folder_is_not_what_it_was(
    config: DataConfig, prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path("data").resolve()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UserError, match=r"train\.en: no such file"):
        prepare(config, data, quiet)


def test_a_file_that_is_gone_is_not_that_of_a_text_that_changed(config: DataConfig, prepared: PreparedData) -> None:
    """The files that are still there have to be those that the data was prepared from."""
    Path("train.en").unlink()
    shutil.copy("dev.de", "test.de")
    with pytest.raises(UserError, match=r"train\.en: no such file"):
        prepare(config, Path("data"), quiet, prepared.manifest["sources"])


def test_what_was_prepared_is_found_by_its_text(config: DataConfig, prepared: PreparedData) -> None:
    """Other paths are accepted if the text is the same; the same paths are refused if it has changed."""
    shutil.copy("train.en", "copy.en")
    assert find_prepared(replace(config, train_src="./copy.en"), Path("data")) == prepared.path
    Path("train.en").write_text(Path("train.en").read_text().upper())
    assert find_prepared(config, Path("data")) is None
