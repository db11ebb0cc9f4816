"""Prepared data: the tokens decode to the text, and damaged or incomplete data is never opened."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import dataset, encoding
from data.corpora import CORPORA
from data.dataset import PreparedData, check_unknown, default_data_dir, find_prepared, open_prepared, prepare
from data.folders import remove_abandoned
from data.tokens import Tokens, TokenWriter
from transformer.config import DataConfig, UserError

ROOT = Path(__file__).parents[2]
MIRROR = Path(os.environ.get("DATA_MIRROR") or ROOT.parent / "shared" / "corpora")

WORDS = [
    "the",
    "a",
    "man",
    "dog",
    "red",
    "blue",
    "runs",
    "jumps",
    "over",
    "under",
    "big",
    "small",
    "tree",
    "house",
]


def _line(i: int) -> str:
    return " ".join(WORDS[(i * k + k * k) % len(WORDS)] for k in range(1, 3 + i % 9))


def _config(folder: Path, train: list[tuple[str, str]] | None = None, **changes) -> DataConfig:
    folder.mkdir(parents=True, exist_ok=True)
    text = {
        "train": [(_line(i), _line(i + 1).upper()) for i in range(300)] if train is None else train,
        "dev": [(_line(i), _line(i + 3).upper()) for i in range(1000, 1020)],
        "test": [(_line(i), _line(i + 3).upper()) for i in range(2000, 2010)],
    }
    paths = {}
    for split, pairs in text.items():
        for column, side in enumerate(("src", "tgt")):
            path = folder / f"{split}.{side}"
            path.write_text("".join(pair[column] + "\n" for pair in pairs), encoding="utf-8")
            paths[f"{split}_{side}"] = str(path)
    return DataConfig(**{**paths, "vocab_size": 100, "max_length": 64, **changes})


def _quiet(message: object) -> None:
    pass


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return _config(tmp_path / "text")


@pytest.fixture
def prepared(config: DataConfig, tmp_path: Path) -> PreparedData:
    return prepare(config, tmp_path / "data", _quiet)


def _folders(data_dir: Path) -> list[str]:
    return sorted(path.name for path in data_dir.iterdir() if path.name != "downloads")


def test_the_text_comes_back_from_the_tokens(prepared: PreparedData) -> None:
    assert len(prepared.train), len(prepared.dev) == (300, 20)
    for split, first in (("train", 0), ("dev", 1000), ("test", 2000)):
        pairs = getattr(prepared, split)
        shift = 1 if split == "train" else 3
        for i in (0, len(pairs) - 1):
            decoded = prepared.tokenizer.decode(pairs[i])
            assert decoded == [_line(first + i), _line(first + i + shift).upper()]
    assert prepared.text("test", "target") == [_line(i + 3).upper() for i in range(2000, 2010)]
    assert prepared.train.lengths("source").tolist() == [len(s) for s, _ in map(prepared.train.__getitem__, range(300))]


def test_the_manifest_says_what_is_there(prepared: PreparedData) -> None:
    manifest = json.loads((prepared.path / "manifest.json").read_text())
    assert manifest == prepared.manifest
    tokens = int(prepared.dev.lengths("target").sum())
    assert manifest["splits"]["dev"] | {"source_tokens": 0} == {
        "read": 20, "blank": 0, "too_long": 0, "kept": 20, "source_tokens": 0, "target_tokens": tokens,
        "source_unknown": 0, "target_unknown": 0, "source_uncovered": {}, "target_uncovered": {},
    }  # fmt: skip
    assert manifest["vocab_sha256"] == prepared.tokenizer.sha256
    assert set(manifest["files"]) | {"manifest.json"} == {p.name for p in prepared.path.iterdir()}
    assert len(manifest["sources"]) == 6
    assert manifest["hash"] == prepared.hash
    assert prepared.path.name == f"files-bpe100-{prepared.hash[:8]}"


def test_preparing_again_only_opens(config: DataConfig, prepared: PreparedData, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in prepared.path.iterdir()}
    again = prepare(config, tmp_path / "data", _quiet)
    assert again.path == prepared.path
    assert {p: p.stat().st_mtime_ns for p in again.path.iterdir()} == before


def test_preparing_elsewhere_gives_the_same_bytes(prepared: PreparedData, tmp_path: Path) -> None:
    other = prepare(_config(tmp_path / "moved"), tmp_path / "data2", _quiet)
    assert other.path.name == prepared.path.name
    assert other.manifest["files"] == prepared.manifest["files"]


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 63},
        {"vocab_size": 99},
        {"vocab_type": "unigram", "vocab_size": 60},
        {"train_pairs": 299},
    ],
)
def test_what_decides_the_content_decides_the_folder(
    config: DataConfig, prepared: PreparedData, tmp_path: Path, change: dict
) -> None:
    assert prepare(replace(config, **change), tmp_path / "data", _quiet).path != prepared.path
    assert prepare(replace(config, batch_tokens=999), tmp_path / "data", _quiet).path == prepared.path


@pytest.mark.parametrize("of_a_run", [False, True])
def test_a_vocabulary_that_is_brought_along_is_used_as_it_is(of_a_run: bool, tmp_path: Path) -> None:
    other = prepare(_config(tmp_path / "other", vocab_size=60), tmp_path / "prepared", _quiet)
    given = other.path if of_a_run else other.path / "vocab.model"
    lines: list[str] = []
    config = _config(
        tmp_path / "mine", [("red", "BLUE house"), ("big dog", "MAN")], vocab_size=60, vocabulary=str(given)
    )
    mine = prepare(config, tmp_path / "prepared", lines.append)
    assert mine.tokenizer.to_bytes() == other.tokenizer.to_bytes()
    assert mine.manifest["vocabulary"] == mine.manifest["vocab_sha256"] == other.tokenizer.sha256
    assert mine.tokenizer.decode([mine.train.source[1]]) == ["big dog"]
    assert any("using the vocabulary of 60 pieces" in line for line in lines)
    assert prepare(config, tmp_path / "prepared", _quiet).path == mine.path
    same_text = replace(_config(tmp_path / "other", vocab_size=60), vocabulary=str(given))
    assert prepare(same_text, tmp_path / "prepared", _quiet).path != other.path


def test_a_vocabulary_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    other = prepare(_config(tmp_path / "other", vocab_size=60), tmp_path / "prepared", _quiet)
    (tmp_path / "text.model").write_text("no model")
    for path, size, message in (
        (other.path / "vocab.model", 64, r"has 60 pieces: set --data\.vocab-size 60"),
        (tmp_path / "text.model", 60, r"text\.model: this is not a sentencepiece model"),
        (tmp_path / "none.model", 60, r"none\.model: cannot be read \(No such file"),
        (tmp_path / "other", 60, r"vocab\.model: cannot be read \(No such file"),
    ):
        with pytest.raises(UserError, match=message):
            config = _config(tmp_path / "mine", vocab_size=size, vocabulary=str(path))
            prepare(config, tmp_path / "prepared", _quiet)


def _separate(folder: Path, **changes) -> DataConfig:
    return _config(folder, **{"vocabularies": "separate", "vocab_size": 60, "source_vocab_size": 70, **changes})


def test_each_side_can_have_its_own_vocabulary(tmp_path: Path) -> None:
    data = prepare(_separate(tmp_path / "text"), tmp_path / "prepared", _quiet)
    source, target = data.tokenizer.source, data.tokenizer
    assert (source.size, target.size) == (70, 60)
    assert source.characters.isdisjoint("ABC") and target.characters.isdisjoint("abc")  # one side is in upper case
    assert source.decode([data.train.source[7]]) == [_line(7)]
    assert target.decode([data.train.target[7]]) == [_line(8).upper()]
    assert {"vocab.model", "source.model"} < data.manifest["files"].keys()


def test_separate_vocabularies_can_be_given(tmp_path: Path) -> None:
    first = prepare(_separate(tmp_path / "text"), tmp_path / "prepared", _quiet)
    again = prepare(_separate(tmp_path / "text", vocabulary=str(first.path)), tmp_path / "again", _quiet)
    assert again.tokenizer.sha256 == first.tokenizer.sha256 == again.manifest["vocabulary"]
    for changes, message in (
        ({"source_vocab_size": 71}, "has 70 pieces for the source: set --data.source-vocab-size 70"),
        (
            {"vocabularies": "shared", "source_vocab_size": None},
            "has two vocabularies: set --data.vocabularies separate",
        ),
        ({"vocabulary": str(first.path / "vocab.model")}, "has one vocabulary: set --data.vocabularies shared"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(_separate(tmp_path / "text", **{"vocabulary": str(first.path), **changes}), tmp_path / "no", _quiet)


def test_shared_and_separate_vocabularies_have_a_folder_each(tmp_path: Path) -> None:
    sizes = (
        {"source_vocab_size": 70},
        {"source_vocab_size": 60},
        {"vocabularies": "shared", "source_vocab_size": None},
    )
    configs = [_separate(tmp_path / "text", **changes) for changes in sizes]
    folders = [prepare(config, tmp_path / "prepared", _quiet).path for config in configs]
    assert len(set(folders)) == 3
    Path(configs[0].train_src).unlink()  # type: ignore[arg-type]
    assert [find_prepared(config, tmp_path / "prepared", _quiet) for config in configs] == folders


def test_a_vocabulary_of_one_side_that_is_too_large_is_named(tmp_path: Path) -> None:
    for side, flag in (("source_vocab_size", "source-vocab-size"), ("vocab_size", "vocab-size")):
        with pytest.raises(UserError, match=rf"is too large for this text: at most \d+ \(--data.{flag}\)"):
            prepare(_separate(tmp_path / "text", **{side: 5000}), tmp_path / "prepared", _quiet)


def test_blank_and_long_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    train = [(_line(i), _line(i)) for i in range(200)]
    train[3] = ("", "x")
    train[4] = ("x", " \t ")
    train[5] = (" ".join(WORDS * 5), "short")
    config = _config(tmp_path / "text", train, max_length=40, max_unknown=1.0)
    Path(config.dev_src).write_text("\n" + " ".join(WORDS * 5) + "\n")  # type: ignore[arg-type]
    Path(config.dev_tgt).write_text("not blank\nlong\n")  # type: ignore[arg-type]
    prepared = prepare(config, tmp_path / "data", _quiet)
    counts = prepared.manifest["splits"]
    assert [counts["train"][k] for k in ("read", "blank", "too_long", "kept")] == [200, 2, 1, 197]
    assert prepared.train.lengths("source").max() <= 40
    assert [counts["dev"][k] for k in ("read", "blank", "too_long", "kept")] == [2, 1, 0, 1]
    assert prepared.dev.lengths("source")[0] > 40  # dev and test sentences are never dropped for their length
    assert prepared.text("dev", "target") == ["long"]


def test_text_that_would_be_read_as_unknown_is_refused_and_the_characters_are_named(tmp_path: Path) -> None:
    """Adds a character to each line that the vocabulary cannot contain, and one that only the test set has."""
    config = _config(tmp_path / "text", [(_line(i), _line(i + 1).upper() + " ▅") for i in range(300)])
    with pytest.raises(UserError, match=r"train target: \d+\.\d% of the tokens are <unk>.*'▅' 300 times.*--data\."):
        prepare(config, tmp_path / "data", _quiet)
    Path(config.test_src).write_text("the dog é▁é\n" * 10)  # type: ignore[arg-type]
    said: list[str] = []
    prepared = prepare(replace(config, max_unknown=0.5), tmp_path / "data", said.append)
    counts = prepared.manifest["splits"]
    assert counts["train"]["source_uncovered"] == {} and counts["train"]["target_uncovered"] == {"▅": 300}
    assert counts["train"]["target_unknown"] == 300
    assert counts["test"]["source_uncovered"] == {"é": 20, "▁": 10} and counts["test"]["source_unknown"] == 20
    assert len([line for line in said if "warning: test source" in line and "'é' 20 times" in line]) == 1
    assert not [line for line in said if "train source" in line]
    with pytest.raises(UserError, match="max_unknown"):  # it has been written, and is refused nevertheless
        prepare(config, tmp_path / "data", _quiet)


@pytest.mark.parametrize("vocabularies", ["shared", "separate"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_the_flag_that_is_named_is_that_of_the_vocabulary_of_the_side(vocabularies: str, side: str) -> None:
    config = DataConfig(vocabularies=vocabularies)  # type: ignore[arg-type]
    few = {f"{each}_tokens": 10 for each in ("source", "target")} | {"source_unknown": 0, "target_unknown": 0}
    counts = (
        {"source_uncovered": {}, "target_uncovered": {}} | few | {f"{side}_unknown": 9, f"{side}_uncovered": {"é": 9}}
    )
    with pytest.raises(UserError, match=f"dev {side}: 90") as refused:
        check_unknown({"dev": counts}, config)
    own = (vocabularies, side) == ("separate", "source")
    assert ("(--data.source-vocab-size)" in str(refused.value)) == own != ("(--data.vocab-size)" in str(refused.value))


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    config = _config(tmp_path / "text", [(" ".join(WORDS), " ".join(WORDS))] * 50, max_length=3, vocab_size=60)
    with pytest.raises(UserError, match="no sentence pair is left in train: 50 read, 0 blank, 50 longer than 3"):
        prepare(config, tmp_path / "data", _quiet)
    assert not (tmp_path / "data").exists()  # a command that fails leaves no empty folder


@pytest.mark.parametrize("pair", [("one\ntwo", "eins"), ("one", "eins", "un"), (b"one", "eins"), None], ids=str)
def test_what_is_no_pair_of_lines_is_refused_by_number(pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("a b c", "d e f")] * 40 + [pair]
    corpus = SimpleNamespace(
        name="mine", licence="", languages="en-de", sources=lambda *_: {}, pairs=lambda split, *_: iter(pairs)
    )
    monkeypatch.setitem(CORPORA, "mine", corpus)
    with pytest.raises(UserError, match="pair 41 of train"):
        prepare(DataConfig(corpus="mine", vocab_size=14), tmp_path, log=lambda line: None)


def test_processes_give_what_one_process_gives(
    config: DataConfig, prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_PARALLEL_FROM", 100)
    monkeypatch.setattr(encoding, "_CHUNK", 37)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    other = prepare(config, tmp_path / "parallel", _quiet)
    assert other.manifest["files"] == prepared.manifest["files"]


def test_the_data_dir_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("DATA_DIR")
    assert default_data_dir() == Path("prepared")


# Never half-written


def test_a_failed_prepare_leaves_nothing(config: DataConfig, tmp_path: Path) -> None:
    Path(config.test_tgt).write_bytes(b"\xff\n" * 10)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"test\.tgt, line 1: byte 0xff"):
        prepare(config, tmp_path / "data", _quiet)
    assert not (tmp_path / "data").exists()  # a command that fails leaves no empty folder


def test_a_full_disk_is_named(config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TokenWriter, "write", full)
    with pytest.raises(UserError, match=f"cannot prepare data in {tmp_path / 'data'}: the disk is full"):
        prepare(config, tmp_path / "data", _quiet)
    assert not (tmp_path / "data").exists()  # a command that fails leaves no empty folder


def test_a_data_dir_that_is_a_file_is_named(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot prepare data in {tmp_path / 'file'}"):
        prepare(config, tmp_path / "file", _quiet)


KILLED = """
import sys, time
from pathlib import Path
from data.dataset import prepare
from transformer.config import DataConfig

def log(message):
    if message.startswith("train:"):
        print("half", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    prepare(DataConfig(**eval(sys.argv[1])), Path(sys.argv[2]), log)
"""


def test_a_killed_prepare_leaves_no_folder_of_the_final_name(config: DataConfig, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    settings = repr(vars(config))
    command = [sys.executable, str(script), settings, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        (alive,) = _folders(data_dir)
        remove_abandoned(data_dir)
        assert _folders(data_dir) == [alive]  # its process is alive
        process.send_signal(signal.SIGKILL)
    assert alive.startswith(".")
    assert alive.endswith(".tmp")
    prepared = prepare(config, data_dir, _quiet)
    assert _folders(data_dir) == [prepared.path.name]


# Damage


def _damage_manifest(path: Path, **changes: object) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({k: v for k, v in (manifest | changes).items() if v is not None}))


def test_damage_is_refused_by_the_name_of_the_file(prepared: PreparedData) -> None:
    path = prepared.path
    cases = [
        ("train.source.tokens.npy", lambda old: old[:-2], r"train.source.tokens.npy has [\d,]+ bytes, not [\d,]+"),
        ("dev.target.txt", lambda old: old + b"x", r"dev.target.txt has [\d,]+ bytes"),
        ("train.source.tokens.npy", lambda old: b"x" * len(old), "train.source.tokens.npy cannot be read"),
        ("dev.source.offsets.npy", lambda old: old[:-8] + b"\0" * 8, "dev.source.offsets.npy does not fit"),
        ("vocab.model", lambda old: old[:-1] + b"x", "vocab.model"),
        ("manifest.json", lambda old: old[:-20], "manifest.json is damaged"),
        ("manifest.json", lambda old: b"[]", "manifest.json is damaged"),
        ("manifest.json", lambda old: b"\xff", "manifest.json is damaged"),
    ]
    for name, damage, message in cases:
        whole = (path / name).read_bytes()
        (path / name).write_bytes(damage(whole))
        with pytest.raises(UserError, match=message):
            open_prepared(path)
        (path / name).write_bytes(whole)
    open_prepared(path)
    (path / "test.source.txt").unlink()
    with pytest.raises(UserError, match=r"test\.source\.txt is missing"):
        open_prepared(path)


def test_other_formats_and_other_folders_are_refused(prepared: PreparedData, tmp_path: Path) -> None:
    _damage_manifest(prepared.path, format=0)
    with pytest.raises(UserError, match=f"has format 0, not {dataset.FORMAT}"):
        open_prepared(prepared.path)
    _damage_manifest(prepared.path, format=dataset.FORMAT, vocab_sha256=None)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        open_prepared(prepared.path)
    with pytest.raises(UserError, match="no such file, so this is not prepared data"):
        open_prepared(tmp_path)


def test_no_pickle_is_ever_loaded(prepared: PreparedData) -> None:
    name = "train.source.offsets.npy"
    np.save(prepared.path / name, np.array([print], dtype=object), allow_pickle=True)
    size = (prepared.path / name).stat().st_size
    files = prepared.manifest["files"] | {name: {"bytes": size, "sha256": ""}}
    _damage_manifest(prepared.path, files=files)
    with pytest.raises(UserError, match=r"train\.source\.offsets\.npy cannot be read"):
        open_prepared(prepared.path)


# Token files


@given(st.lists(st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=9), max_size=5), min_size=1, max_size=4))
def test_tokens_come_back_from_the_disk(tmp_path_factory: pytest.TempPathFactory, chunks) -> None:
    sentences = [sentence for chunk in chunks for sentence in chunk]
    folder = tmp_path_factory.mktemp("tokens")
    with TokenWriter(folder, "train", "source") as writer:
        for chunk in chunks:
            flat = np.array([token for sentence in chunk for token in sentence], np.uint16)
            writer.write(flat, np.array([len(sentence) for sentence in chunk], np.int64))
    if not sum(map(len, sentences)):
        return  # an empty file cannot be mapped; prepare refuses such a corpus
    tokens = Tokens.open(folder, "train", "source", 2**16)
    assert [list(tokens[i]) for i in range(len(tokens))] == sentences
    indices = np.array([*range(len(sentences)), 0])
    rows = np.arange(len(indices)) // 2 + 1  # two to a row; the first row stays empty
    packed = tokens.packed(indices, rows, rows[-1] + 1, 18)
    for number, row in enumerate(packed):
        real = [token for i in indices[rows == number] for token in sentences[i]]
        assert list(row) == real + [0] * (18 - len(real))


def test_a_row_too_narrow_is_an_error(prepared: PreparedData) -> None:
    with pytest.raises(ValueError, match="a row has 3 tokens, more than 1"):
        prepared.train.batch(np.array([0]), np.array([0]), 1, 1, 64)
    with pytest.raises(IndexError):
        prepared.train[300]


# Real and embedded corpora


@pytest.mark.skipif(not (MIRROR / "multi30k").is_dir(), reason="no mirror with Multi30k")
@pytest.mark.parametrize("language", ["de", "fr"])
def test_multi30k_from_the_mirror(language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_MIRROR", str(MIRROR))
    config = DataConfig(corpus=f"multi30k-en-{language}", vocab_size=8000)
    prepared = prepare(config, tmp_path, _quiet)
    assert [len(split) for split in (prepared.train, prepared.dev, prepared.test)] == [29_000, 1_014, 1_000]
    for side in ("source", "target"):
        tokens = getattr(prepared.test, side)
        decoded = prepared.tokenizer.decode(tokens[i] for i in range(len(tokens)))
        assert decoded == [" ".join(filter(None, line.split(" "))) for line in prepared.text("test", side)]
    assert not (tmp_path / "downloads").exists()


@pytest.mark.slow
def test_the_grammar_needs_nothing(tmp_path: Path) -> None:
    prepared = prepare(DataConfig(corpus="grammar", train_pairs=2000, vocab_size=120), tmp_path, _quiet)
    assert [len(split) for split in (prepared.train, prepared.dev, prepared.test)] == [2000, 1000, 1000]
    again = prepare(DataConfig(corpus="grammar", train_pairs=2000, vocab_size=120), tmp_path / "again", _quiet)
    assert again.manifest["files"] == prepared.manifest["files"]
