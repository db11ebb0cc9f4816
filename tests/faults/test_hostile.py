"""Malicious and random files and text are refused in one line, or read, but never executed."""

import gzip
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.corpora import CORPORA
from data.dataset import adopt, open_prepared, prepare
from data.text import LONGEST_LINE, read_lines
from data.tokenizer import Tokenizer
from data.tokens import Tokens
from experiments.cli.main import main
from experiments.evaluation.records import RESULTS, read_evaluation
from experiments.translator import Translator
from tests.experiments.launching import ROOT
from transformer.checkpoint import Checkpoints, read_meta
from transformer.config import DataConfig, Experiment, UserError
from transformer.train import init_state

pytestmark = pytest.mark.faults

EXAMPLES = 500


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Changes, drops or doubles a few bytes, or returns another kind of file."""
    kind = chance.randrange(6)
    if kind == 0:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(200)))
    if kind == 1:
        return pickle.dumps(Harm())
    place = chance.randrange(len(content))
    if kind == 2:
        return content[:place]
    if kind == 3:
        return content[:place] + content[place:] * 2
    changed = bytearray(content)
    for _ in range(chance.randrange(1, 6)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


class Harm:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/harm-was-done"),)


def refused_or_read(read, count, what: str) -> None:
    try:
        read()
        count(f"fuzz, {what}: read")
    except UserError:
        count(f"fuzz, {what}: refused")
    assert not Path("/tmp/harm-was-done").exists()


@pytest.fixture(scope="module")
def data(victim, tmp_path_factory):
    return prepare(victim.data, tmp_path_factory.mktemp("data"), lambda line: None)


@pytest.mark.parametrize("name", ["manifest.json", "vocab.model", "train.source.tokens.npy", "dev.target.offsets.npy"])
def test_prepared_data(data, tmp_path, count, name):
    chance = random.Random(name)
    copy = tmp_path / "data"
    shutil.copytree(data.path, copy)
    content = (copy / name).read_bytes()

    def read() -> None:
        opened = open_prepared(copy)
        opened.check()
        for split in (opened.train, opened.dev, opened.test):
            split.source[0], split.target[len(split) - 1]

    for _ in range(EXAMPLES // 4):
        (copy / name).write_bytes(damaged(content, chance))
        refused_or_read(read, count, name)


def test_absurd_headers(tmp_path, count):
    for shape in ("(10**30,)", "(-1,)", "(1e9,)", "(__import__('os').getpid(),)", "'x'", "(" * 90 + ")" * 90):
        header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}}}".encode()
        path = tmp_path / "train.source.tokens.npy"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8)
        with pytest.raises(UserError, match=r"cannot be read|is damaged|holds"):
            Tokens.open(tmp_path, "train", "source", 100)
        count("absurd header refused")


def test_records(tmp_path, count):
    chance = random.Random(0)
    content = next(RESULTS.glob("*.json")).read_bytes()
    path = tmp_path / "record.json"
    for _ in range(EXAMPLES):
        path.write_bytes(damaged(content, chance))
        refused_or_read(lambda: read_evaluation(path), count, "record")


def test_settings(count, victim):
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
    names = st.sampled_from(["name", "model", "data", "optimizer", "train", "decode", "mesh", "note", "vocab_size"])

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(names, json_values, max_size=5))
    def check(given_settings) -> None:
        with suppress(UserError):
            Experiment.from_dict({"name": "x"} | given_settings)
        count("fuzz, settings: read or refused")

    check()


@pytest.mark.parametrize("kind", ["meta/metadata", "params/_METADATA", "params/manifest.ocdbt"])
def test_checkpoints(victim, undisturbed, tmp_path, count, kind):
    chance = random.Random(kind)
    template = init_state(victim)
    path = undisturbed.checkpoints / "400" / kind
    assert path.is_file()
    for _ in range(EXAMPLES // 25):
        copy = tmp_path / "checkpoints"
        shutil.copytree(undisturbed.checkpoints, copy)
        (copy / "400" / kind).write_bytes(damaged(path.read_bytes(), chance))
        refused_or_read(lambda copy=copy: read_meta(copy, "400"), count, "checkpoint's meta")
        checkpoints = Checkpoints(copy, log=lambda line: None)
        state, _ = checkpoints.restore_state(template)
        checkpoints.close()
        assert int(state.step) in (400, 380)
        count("fuzz, checkpoint: restored, or the one before")
        shutil.rmtree(copy)


def test_vocabularies(undisturbed, count):
    chance = random.Random(0)
    content = undisturbed.vocabulary.read_bytes()

    def read() -> None:
        tokenizer = Tokenizer(changed)
        tokenizer.decode(tokenizer.encode(["The old man sees the dog.", ""]))

    for _ in range(EXAMPLES):
        changed = damaged(content, chance)
        refused_or_read(read, count, "vocabulary")


def test_bombs(tmp_path, count):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(200):
            file.write(b"a" * 1_000_000)
    with pytest.raises(UserError, match=f"line 1 has more than {LONGEST_LINE:,} bytes"):
        list(read_lines(path))
    count("decompression bomb refused")


def test_a_swapped_archive_is_not_unpacked(tmp_path, count):
    """An archive is unpacked only if its hash is the registered one."""
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "evil").write_text("x")
    corpus = CORPORA["wmt14-en-de"]
    for file in corpus.archives:
        with tarfile.open(folder / file.name, "w:gz") as archive:
            archive.add(tmp_path / "evil", arcname="../../evil-was-here")
    with pytest.raises(UserError, match=r"tgz.* has SHA-256"):
        adopt(DataConfig(corpus=corpus.name), folder, tmp_path / "data", lambda line: None)
    assert not list(tmp_path.rglob("evil-was-here"))
    count("archive with a path out of its folder: not unpacked")


# The command line and the translator

WORDS = [
    "train", "translate", "evaluate", "average", "compare", "score", "table", "results", "list", "plan", "prepare",
    "--help", "-h", "--", "-", "", "small", "demo", "base", "1", "2", "3", "nonsense", "runs/none", "/", "/dev/null",
    "--render", "--scale", "smoke", "--seeds", "0", "-1", "--rows", "--beam", "1e9", "nan", "--checkpoint", "--input",
    "--output", "--split", "test", "--results", "--data.languages", "en-fr", "--train.steps", "--no-measure",
    "--mesh.fsdp", "--model.dropout", "2.0", "--record", "\0", "\ud800", "🙂", "a" * 5000,
]  # fmt: skip


def test_the_command_line(tmp_path, count, monkeypatch, capsys):
    """Random arguments give a documented exit code and no traceback. (Training and downloads are disabled.)"""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "prepare", "plan", "fill", "fill_table1", "adopt"):
        monkeypatch.setattr(f"experiments.cli.verbs.{name}", lambda *_, **__: (_ for _ in ()).throw(UserError("no")))
    chance = random.Random(0)
    for _ in range(EXAMPLES):
        words = chance.choices(WORDS, k=chance.randrange(6))
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        assert code in (0, 2), words
        error = capsys.readouterr().err
        assert "Traceback" not in error, words
        count(f"fuzz, command line: exit code {code}")


@pytest.fixture(scope="module")
def translator(undisturbed) -> Translator:
    return Translator.load(undisturbed.path, log=lambda line: None)


def test_any_text_is_translated_line_by_line_or_refused_by_line(translator, count):
    letters = st.characters(codec="utf-8") | st.sampled_from("\0\x07\u200f\u202e\u2028\x85\u0301\ufeff🙂")

    @settings(max_examples=EXAMPLES // 10, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.text(letters, max_size=30), max_size=4))
    def check(lines) -> None:
        outputs = translator.translate(lines)
        assert len(outputs) == len(lines)
        assert all("\n" not in line and "\r" not in line for line in outputs)
        count("fuzz, translated lists of lines")

    check()
    with pytest.raises(UserError, match="line 2"):
        translator.translate(["fine", "\ud800"])
    with pytest.raises(UserError, match=r"line 2 has .* tokens"):
        translator.translate(["fine", "a " * 500_000])


def translate(undisturbed, content: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "experiments", "translate", str(undisturbed.path), "--beam", "1"]
    return subprocess.run(command, cwd=ROOT, input=content, capture_output=True)


def test_a_hundred_thousand_lines(undisturbed, count):
    lines = [b"The dog sees the cat .", b"", b"A man .", "🙂\u202e\0".encode()] * 25_000
    done = translate(undisturbed, b"\n".join(lines) + b"\n")
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count(b"\n") == len(lines)
    count("lines translated in one go", len(lines))


@pytest.mark.parametrize(
    "line, message",
    [
        (b"\xed\xa0\x80", b"line 2: byte 0xed"),
        (b"\xff\xfe", b"line 2: byte 0xff"),
        (b"a" * 1_000_001, b"line 2 has more than 1,000,000 bytes"),
        (b"a" * 300_000_000, b"line 2 has more than 1,000,000 bytes"),
        (b"a " * 499_999, b"line 2 has"),
    ],
)
def test_lines_that_cannot_be_translated_are_named_and_cost_no_other(undisturbed, count, line, message):
    done = translate(undisturbed, b"fine\n" + line + b"\nfine\n")
    assert done.returncode == 0 and message in done.stderr and b"Traceback" not in done.stderr
    before, skipped, after = done.stdout.splitlines()
    assert before == after and not skipped
    count("hostile line skipped by its number")


def test_arrays_are_never_pickles(tmp_path):
    path = tmp_path / "dev.source.tokens.npy"
    np.save(path, np.array([Harm()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        Tokens.open(tmp_path, "dev", "source", 100)
    assert not Path("/tmp/harm-was-done").exists()
