"""Bad input gets one clear line and exit code 2, before anything is overwritten."""

import dataclasses
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from data.text import LONGEST_LINE
from experiments import find
from experiments.cli.arguments import parse
from experiments.cli.flags import (
    Attending,
    Averaging,
    Comparing,
    Evaluating,
    Inspecting,
    Planning,
    Scoring,
    Table,
    Table1,
    Translating,
)
from experiments.cli.main import main
from experiments.cli.translating import prompted
from experiments.cli.verbs import VERBS
from experiments.streams import CHUNK, chunks, written
from tests.documents import tables_restored
from tests.examples import EXAMPLES
from tests.experiments.launching import ROOT
from transformer.config import UserError


class Result:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def program(capsys, monkeypatch):
    def call(*arguments, stdin: bytes = b"") -> Result:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def refused(result: Result) -> str:
    """Returns the one-line error of a command that was refused."""
    assert result.code == 2, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in result.err
    return errors[0]


def test_help_names_every_verb_and_experiment(program):
    for arguments in ((), ("--help",), ("-h",), ("--parts", EXAMPLES / "ter.py", "--help")):
        with tables_restored():
            result = program(*arguments)
        assert result.code == 0
        for verb in VERBS:
            assert f"  {verb}" in result.out
        assert "multi30k-tiny" in result.out


SETTINGS = (
    "--model.num-layers",
    "--model.kernels, --model.no-kernels",
    "--data.train-src",
    "--train.steps",
    "--optimizer.warmup-steps",
    "--decode.beam",
)
FLAGS_OF = {
    "list": (),
    "demo": ("--workdir", "--config", *SETTINGS),
    "prepare": ("--from-dir", "--config", *SETTINGS),
    "plan": ("--target", "--no-measure", "--config", *SETTINGS),
    "explain": ("--config", *SETTINGS),
    "train": ("--workdir", "--wandb", "--no-screen", "--config", *SETTINGS),
    "watch": (),
    "translate": ("--beam INT", "--input PATH", "--output PATH", "--alpha FLOAT", "--n-best INT"),
    "serve": ("--host STR", "--port INT", "--wait FLOAT", "--max-queue INT", "--beam INT", "--sample"),
    "attention": ("--html PATH", "--png-of {encoder,decoder,cross}", "--target STR"),
    "inspect": ("--checkpoint STR",),
    "evaluate": ("--test-set STR", "--mbr INT", "--data.test-src PATH", "--data.max-unknown FLOAT", "--record PATH"),
    "average": ("--output PATH",),
    "distill": ("--output PATH", "--beam INT"),
    "export": ("--checkpoint STR", "--output PATH"),
    "import": ("--output PATH",),
    "compare": ("--test-set STR",),
    "score": ("--source FILE", "--target FILE"),
    "contrast": ("--pairs PATH", "--context-source PATH", "--batch-size INT", "--record PATH"),
    "table": ("--scale {smoke,small,long,paper}", "--rows [STR [STR ...]]", "--results PATH"),
    "speedrun": ("--recipe STR", "--seeds INT", "--text PATH", "--runs PATH"),
    "results": (),
}
SOME = {
    "NAME": "small",
    "RUN": "no-such-run",
    "DIR": "no-such-folder",
    "TEXT": "A dog.",
    "N": "2",
    "TRACK": "multi30k",
    "A": "no-such-run",
    "B": "another",
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(program, verb):
    """Usage, description, arguments and flags: without names, with all of them, with the first, and at either end."""
    usage, about = (VERBS[verb].__doc__ or "").split(": ", 1)
    arguments = usage.split()[1:]
    names = [SOME[argument] for argument in arguments]
    for words in (["--help"], ["-h"], [*names, "--help"], [*names, "-h"], [*names[:1], "--help"], ["--help", *names]):
        result = program(verb, *words)
        assert result.code == 0 and not result.err
        told = " ".join(result.out.replace("│", "").split())
        assert told.startswith(f"usage: python -m experiments {verb}") and about[1:] in told
        assert all(f" {argument} " in told for argument in arguments)
        assert [flag for flag in FLAGS_OF[verb] if flag not in told] == []
        assert "{None}" not in told and "default: None" not in told and "Flags of" not in told


def test_help_says_whose_defaults_it_shows(program):
    def layers(*words):
        told = " ".join(program("train", *words, "--help").out.replace("│", "").split())
        default = re.search(r"--model.num-layers INT [^(]*\(default: (\d+)\)", told)
        return default and int(default[1]), "those of base" in told

    assert layers() == (find("base").model.num_layers, True)
    assert layers("demo") == (find("demo").model.num_layers, False)
    assert layers("demo", "--model.d-model", "8") == (find("demo").model.num_layers, False)
    assert layers("--train.steps", "5")[1]
    assert "no experiment or run 'a'" in refused(program("train", "a", "--help"))


def test_unknown_verb_experiment_and_flag(program):
    assert "unknown verb 'trane'" in refused(program("trane"))
    assert "did you mean: multi30k-tiny" in refused(program("train", "multi30k-tiy"))
    assert "--model.num-layers" in refused(program("train", "demo", "--model.num-layer", "3"))
    assert "--model.num-layers expects a whole number, not 'three'" in refused(
        program("train", "demo", "--model.num-layers", "three")
    )
    for verb, *words in (("list",), ("results",), ("watch", "a"), ("attention", "a"), ("attention", "a", "A dog.")):
        for flag in ("--all", "--model.x", "--train.steps=3"):
            assert f"there is no flag {flag}" in refused(program(verb, *words, flag))
    assert "unexpected more" in refused(program("list", "more"))
    assert "names come before flags" in refused(program("train", "--train.steps", "3"))


def test_values_that_cannot_be(program):
    assert "model.dropout must lie in [0, 1)" in refused(program("train", "demo", "--model.dropout", "1.5"))
    assert "unknown model.positions 'no'" in refused(program("train", "demo", "--model.positions", "no"))
    assert "embedding only 10 rows" in refused(program("train", "demo", "--model.vocab-size", "10"))
    assert "decode.alpha must be 0 or more" in refused(program("train", "demo", "--decode.alpha", "nan"))
    assert "optimizer.b2 must lie in [0, 1)" in refused(program("train", "demo", "--optimizer.b2", "1"))
    assert "unknown data.corpus 'wmt99'" in refused(program("prepare", "small", "--data.corpus", "wmt99"))


@pytest.fixture
def own(text, tmp_path) -> Path:
    """A copy of the text files, which a test may damage."""
    shutil.copytree(text, tmp_path / "text")
    return tmp_path / "text"


@pytest.fixture
def train_flags(data_flags, tmp_path):
    """Returns the flags of a run on the text of a folder, in tmp_path / "run"."""
    return lambda folder: [*data_flags(folder), "--data.vocab-size", "200", "--workdir", tmp_path / "run"]


def spoil_length(folder):
    path = folder / "train.de"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    return "300 lines but"


def spoil_utf8(folder):
    path = folder / "train.en"
    lines = path.read_bytes().split(b"\n")
    lines[6] = b"caf\xe9"
    path.write_bytes(b"\n".join(lines))
    return "train.en, line 7: byte 0xe9"


def spoil_missing(folder):
    (folder / "dev.en").unlink()
    return "dev.en: no such file"


def spoil_empty(folder):
    (folder / "train.en").write_text("")
    (folder / "train.de").write_text("")
    return "are empty"


def spoil_directory(folder):
    (folder / "test.de").unlink()
    (folder / "test.de").mkdir()
    return "is a directory"


def spoil_blank(folder):
    for name in ("train.en", "train.de"):
        (folder / name).write_text("\n" * 300)
    return "no text to learn a vocabulary from"


@pytest.mark.parametrize("spoil", [spoil_length, spoil_utf8, spoil_missing, spoil_empty, spoil_directory, spoil_blank])
def test_bad_text_is_refused_before_anything_is_written(program, own, train_flags, tmp_path, data_dir, spoil):
    expected = spoil(own)
    before = set(data_dir.iterdir())
    assert expected in refused(program("train", "small", *train_flags(own)))
    assert not (tmp_path / "run").exists()
    assert set(data_dir.iterdir()) <= before


def test_an_incomplete_set_of_files_names_the_missing_one(program, text):
    error = refused(program("train", "small", "--data.train-src", text / "train.en"))
    assert "--data.train-tgt is missing" in error
    assert "--data.train-src is missing" in refused(program("train", "base"))


@pytest.fixture
def copied(micro, run, own, tmp_path):
    """A run on `own`, whose text may go; its prepared data is that of the same text."""
    shutil.copytree(run.path, tmp_path / "run")
    settings = run.settings()
    names = {f"{split}_{side}": own / f"{split}.{language}" for split in ("train", "dev", "test")
             for side, language in (("src", "en"), ("tgt", "de"))}  # fmt: skip
    settings["data"] |= {name: str(path) for name, path in names.items()}
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    return tmp_path / "run"


@pytest.mark.parametrize("words", [["plan", "--no-measure"], ["prepare"]], ids=lambda words: words[0])
def test_what_was_prepared_is_enough_to_plan_and_to_prepare_as_it_is_to_train(program, copied, own, words):
    shutil.rmtree(own)
    verb, *flags = words
    result = program(verb, copied, *flags)
    assert result.code == 0 and "214 training pairs" in result.out
    said = result.out + result.err
    assert said.count("warning: ") == 1 and f"{own / 'train.en'} does not exist (nor 5 other text files)" in said


@pytest.mark.parametrize("words", [["plan", "--no-measure"], ["prepare"]], ids=lambda words: words[0])
def test_an_experiment_is_planned_from_what_was_prepared_under_the_same_paths(
    program, own, data_flags, words, tmp_path, monkeypatch
):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "prepared"))
    verb, *flags = words
    flags += ["--data.vocab-size", "200", *data_flags(own)]
    assert program("prepare", "small", *flags[1 if verb == "plan" else 0 :]).code == 0
    (own / "train.de").unlink()
    assert "300 training pairs" in program(verb, "small", *flags).out


@pytest.mark.parametrize("verb", ["plan", "prepare", "train"])
def test_text_that_cannot_be_found_names_the_remedy_and_creates_nothing(
    program, copied, own, tmp_path, monkeypatch, verb
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("DATA_DIR")
    (own / "train.de").unlink()
    result = program(verb, copied)
    error = refused(result)
    assert "train.de: no such file, and prepared ($DATA_DIR) has no data prepared from it" in error
    assert "--data.train-tgt" in error and "set DATA_DIR" in error
    assert "warning" not in result.err + result.out
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("verb", ["explain", "plan"])
def test_what_is_said_of_a_run_names_it(program, run, verb):
    result = program(verb, run.path, *(["--no-measure"] if verb == "plan" else []))
    assert f"{run.path} (micro)" in result.out.splitlines()[0]


def test_a_command_that_fails_creates_no_folder(program, run, own, tmp_path, monkeypatch, data_flags):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DATA_DIR", "new/prepared")
    monkeypatch.setattr("data.fetch._continue", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    assert "no network" in refused(program("prepare", "multi30k-tiny"))
    assert "at most" in refused(program("prepare", "small", *data_flags(own), "--data.vocab-size", "8000"))
    record = ("--record", "new/record.json")
    assert "no such file" in refused(
        program("evaluate", run.path, *record, "--data.test-src", "a", "--data.test-tgt", "b")
    )
    shutil.rmtree(run.figures, ignore_errors=True)
    assert "the sentence has" in refused(program("attention", run.path, "dog " * 300))
    assert not run.figures.exists() and not list((tmp_path / "here").iterdir())


@pytest.mark.slow
def test_a_run_can_be_used_from_another_folder(program, own, data_flags, tmp_path, monkeypatch):
    """Its text was given by relative paths, and is prepared there again."""
    monkeypatch.chdir(own)
    tiny = ["--model.num-layers", "1", "--model.d-model", "16", "--model.d-ff", "16", "--train.steps", "1"]
    flags = [*data_flags(Path(".")), "--data.vocab-size", "200", "--data.batch-tokens", "300", *tiny]
    assert program("train", "small", *flags, "--workdir", tmp_path / "run").code == 0
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DATA_DIR", "prepared")
    result = program("plan", "../run", "--no-measure")
    assert result.code == 0 and "warning" not in result.out + result.err and "300 training pairs" in result.out


def test_too_large_a_vocabulary_says_how_large_it_can_be(program, data_flags, text, tmp_path):
    flags = ["--data.vocab-size", "8000", "--workdir", tmp_path / "run"]
    assert "at most" in refused(program("train", "small", *data_flags(text), *flags))


def test_odd_but_good_text_is_prepared(program, own, train_flags):
    """CR LF and byte order marks are removed; blank and too long pairs are dropped and counted."""
    for name in ("train.en", "train.de"):
        lines = (own / name).read_text(encoding="utf-8").splitlines()
        lines[3] = ""
        lines[5] = "word " * 500
        (own / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    result = program("prepare", "small", *train_flags(own)[:-2])  # prepare has no --workdir
    assert result.code == 0
    assert "298 pairs" in result.out and "1 blank and 1 too long dropped" in result.out


@pytest.mark.parametrize("command", [["prepare", "small"], ["plan", "small", "--no-measure"]])
def test_what_bleu_will_need_is_said_before_the_text_is_prepared(
    program, data_flags, text, tmp_path, monkeypatch, command
):
    """Only a warning: the run may be scored on another machine."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    sizes = ["--data.vocab-size", "200"]
    monkeypatch.setitem(sys.modules, "MeCab", None)
    for module in [name for name in sys.modules if name.startswith("sacrebleu.tokenizers.tokenizer_")]:
        monkeypatch.delitem(sys.modules, module)
    result = program(*command, *sizes, *data_flags(text), "--data.languages", "en-ja")
    assert result.code == 0
    said, prepared = result.out.find("warning: BLEU into ja needs"), result.out.find(str(tmp_path))
    assert -1 < said < prepared and 'pip install "sacrebleu[ja]"' in result.out
    assert "warning" not in program(*command, *sizes, *data_flags(text), "--data.languages", "en-de").out


@pytest.mark.parametrize("command", [["prepare", "small"], ["plan", "small", "--no-measure"]])
def test_text_that_bleu_cannot_count_is_told_before_a_run(program, data_flags, own, tmp_path, monkeypatch, command):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    (own / "dev.de").write_text("这是一个很好的例子。\n" * 12, encoding="utf-8")
    flags = [*command, "--data.vocab-size", "200", "--data.max-unknown", "1", *data_flags(own)]
    assert "warning: into a language that is not given, BLEU splits words at spaces" in program(*flags).out
    assert "warning: into" not in program(*flags, "--data.languages", "en-zh").out


@pytest.mark.slow
def test_one_of_a_kind_is_told_in_the_singular(program, run, tmp_path, text, data_flags, monkeypatch):
    """Messages about one item do not say "1 lines", "1 pairs", "1 steps"."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    said = ""
    data = ["--data.vocab-size", "200", *data_flags(text)]
    ones = ["--train.steps", "1", "--train.keep", "1", "--model.num-layers", "1", "--optimizer.warmup-steps", "1"]
    ones += ["--data.train-pairs", "1000", "--train.eval-every", "1", "--decode.extra-length", "1"]
    for words in (["explain", "small", *data, *ones], ["plan", "small", "--no-measure", *data, *ones], ["list"]):
        result = program(*words)
        assert result.code == 0
        said += result.out
    for name in ("one.en", "one.de"):
        (tmp_path / name).write_text("A dog.\n")
    sides = ["--data.test-src", tmp_path / "one.en", "--data.test-tgt", tmp_path / "one.de", "--data.max-unknown", "1"]
    said += program("evaluate", run.path, *sides).err
    assert "translated 1 sentence in" in said and "encoder: 1 layer of" in said and "every 1 step;" in said
    things = "lines|pairs|steps|tokens|layers|batches|sentences|checkpoints|rows|times|pieces"
    assert not re.findall(rf"(?<![\d.,])1 (?:[a-z-]+ )?(?:{things})\b.*", said)


def test_translate_writes_one_line_for_each_line(program, run):
    text = b"The man sees the dog.\n\nA house.\r\nno end of line"
    result = program("translate", run.path, "--batch-size", "1", stdin=text)
    assert result.code == 0
    lines = result.out.split("\n")
    assert len(lines) == 5 and lines[1] == "" and lines[4] == ""
    assert "translated" in result.err and "translated" not in result.out


def test_translate_reads_and_writes_files(program, run, tmp_path, text):
    out = tmp_path / "out.txt"
    result = program("translate", run.path, "--input", text / "test.en", "--output", out, "--beam", "2")
    assert result.code == 0 and result.out == ""
    assert len(out.read_text(encoding="utf-8").splitlines()) == 20


@pytest.mark.slow
def test_a_bad_line_costs_no_other_line(program, run, tmp_path):
    """It is skipped with a warning; if it is refused, the output file keeps its earlier content."""
    long = b"a" * (LONGEST_LINE + 1)
    bad, good, out = tmp_path / "bad.txt", tmp_path / "good.txt", tmp_path / "out.txt"
    bad.write_bytes(b"A dog.\nbad \xff\n" + b"the " * 100 + b"\n" + long + b"\nA house.\n")
    good.write_bytes(b"A dog.\n\n\n\nA house.\n")
    flags = ("--beam", "1", "--max-tokens", "50")
    expected = program("translate", run.path, "--input", good, *flags)
    result = program("translate", run.path, "--input", bad, *flags)
    assert result.code == 0 and result.out == expected.out and result.out.count("\n") == 5
    for warning in (
        "bad.txt, line 2: byte 0xff at position 4 is not UTF-8: skipped",
        "bad.txt, line 4 has more than 1,000,000 bytes: too long to be a sentence: skipped",
    ):
        assert warning in result.err
    assert re.search(r"warning: line 3 has \d+ tokens; the limit is 50: skipped", result.err)
    numbers = program("score", run.path, "--source", bad, "--target", good, *flags[2:])
    assert numbers.code == 0 and [value == "nan" for value in numbers.out.split()] == [False, True, True, True, False]

    out.write_text("precious")
    refuse = ("--bad-lines", "refuse")
    error = refused(program("translate", run.path, "--input", bad, "--output", out, *refuse))
    assert "bad.txt, line 2: byte 0xff" in error
    assert "line 2: byte 0xff" in refused(program("score", run.path, "--source", good, "--target", bad, *refuse))
    assert out.read_text() == "precious"
    assert "No such file" in refused(program("translate", run.path, "--input", tmp_path / "none.txt"))
    assert "at least 2" in refused(program("translate", run.path, "--max-tokens", "1"))


@pytest.mark.parametrize(
    "content", [b"A dog.\rA house.\rA man.\n", b"A dog.\rA house.\rA man.\r", b"A dog.\r" * 150_000]
)
def test_a_text_whose_line_ends_are_carriage_returns_alone_is_refused(program, run, tmp_path, content):
    (tmp_path / "mac.txt").write_bytes(content)
    (tmp_path / "one.txt").write_bytes(b"A dog.\n")
    mac, one, out = tmp_path / "mac.txt", tmp_path / "one.txt", tmp_path / "out.txt"
    said = "its line ends are CR alone: convert them"
    assert f"standard input: {said}" in refused(program("translate", run.path, stdin=content))
    assert f"mac.txt: {said}" in refused(program("translate", run.path, "--input", mac, "--output", out))
    assert not out.exists()
    for sides in ((mac, one), (one, mac)):
        flags = [word for both in zip(("--source", "--target"), sides, strict=True) for word in both]
        assert f"mac.txt: {said}" in refused(program("score", run.path, *flags))
        flags = [word for both in zip(("--data.test-src", "--data.test-tgt"), sides, strict=True) for word in both]
        assert f"mac.txt: {said}" in refused(program("evaluate", run.path, *flags))


@pytest.mark.parametrize("bad_lines", ["skip", "refuse"])
def test_carriage_returns_in_a_line_are_told_and_cost_no_line(program, run, bad_lines):
    """The line is translated: a carriage return may occur inside a sentence."""
    flags = ("--beam", "1", "--bad-lines", bad_lines)
    expected = program("translate", run.path, *flags, stdin=b"A dog.\nA dog. A house. A man.\nA man.\n")
    result = program("translate", run.path, *flags, stdin=b"A dog.\r\nA dog.\rA house.\rA man.\nA man.\r\r\n")
    assert result.code == 0 and result.out == expected.out
    assert "warning: standard input, line 2: contains CR 2 times, which reads as a space" in result.err
    assert "contains CR" not in expected.err and result.err.count("contains CR") == 1
    assert program("translate", run.path, *flags, stdin=b"A dog.\rA house.").code == 0


def test_what_is_no_text_at_all_is_refused(program, run, tmp_path):
    text = "A dog.\nA house.\n"
    plain = text.encode()
    for content, kind in (
        (gzip.compress(plain), "a gzip archive"),
        (lzma.compress(plain), "an xz archive"),
        (text.encode("utf-16"), "UTF-16 text"),
    ):
        assert f"standard input is {kind}" in refused(program("translate", run.path, stdin=content))


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), pytest.param(".xz", lzma, marks=pytest.mark.slow)])
def test_archives_are_read_and_written(program, run, tmp_path, suffix, module):
    plain, packed, out = tmp_path / "a.txt", tmp_path / f"a{suffix}", tmp_path / f"out{suffix}"
    plain.write_bytes(b"A dog.\nA house.\n")
    packed.write_bytes(module.compress(plain.read_bytes()))
    flags = ("--beam", "2", "--input")
    expected = program("translate", run.path, *flags, plain)
    assert program("translate", run.path, *flags, packed).out == expected.out
    assert len(program("score", run.path, "--source", packed, "--target", packed).out.split()) == 2
    given = "--prefix", packed, "--constraints", packed
    unpacked = "--prefix", plain, "--constraints", plain
    assert (
        program("translate", run.path, *flags, packed, *given).out
        == program("translate", run.path, *flags, plain, *unpacked).out
    )
    files = []
    for _ in range(2):  # the second one replaces the first
        assert program("translate", run.path, *flags, plain, "--output", out).out == ""
        files.append(out.read_bytes())
        out.rename(tmp_path / f"another{suffix}")
    assert files[0] == files[1] and module.decompress(files[0]).decode() == expected.out
    packed.write_bytes(packed.read_bytes()[:20])
    assert "damaged or truncated archive" in refused(program("translate", run.path, "--input", packed, "--output", out))
    assert not out.exists()


def test_pipes_by_name_are_read_where_once_is_enough(program, run, tmp_path, data_flags, text):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as writer:
        writer.submit((tmp_path / "pipe").write_bytes, b"A dog.\nA house.\n")
        result = program("translate", run.path, "--beam", "1", "--input", tmp_path / "pipe")
    assert result.code == 0 and result.out.count("\n") == 2
    flags = [tmp_path / "pipe" if str(flag).endswith("train.en") else flag for flag in data_flags(text)]
    assert "is a pipe or a device, but this text is read more than once" in refused(program("prepare", "small", *flags))


def test_lines_are_given_when_the_input_stands_still():
    there, here = os.pipe()
    with os.fdopen(there, "rb") as reader, os.fdopen(here, "wb", buffering=0) as writer:
        groups = chunks(reader, "pipe", "refuse", print)
        writer.write(b"one\ntwo\nthr")
        assert next(groups) == (1, ["one", "two"])  # and not only at the end
        writer.write(b"ee\n")
        assert next(groups) == (3, ["three"])
        writer.write(b"".join(b"%d\n" % i for i in range(CHUNK + 5)))
        assert [len(lines) for _, lines in (next(groups), next(groups))] == [CHUNK, 5]
        writer.write(b"the end")
        writer.close()
        assert list(groups) == [(CHUNK + 9, ["the end"])]


def test_a_line_does_not_wait_for_ever_for_those_that_keep_coming():
    there, here = os.pipe()
    stop = threading.Event()

    def trickle():
        with os.fdopen(here, "wb", buffering=0) as writer:
            while not stop.wait(0.02):
                writer.write(b"line\n")

    with os.fdopen(there, "rb") as reader, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(trickle)
        groups = chunks(reader, "pipe", "refuse", print, wait=0.3)
        try:
            first, second = next(groups), next(groups)
        finally:
            stop.set()
        writing.result()
    assert 1 < len(first[1]) < CHUNK and second[0] == len(first[1]) + 1


@pytest.mark.slow
def test_a_program_that_gives_one_line_at_a_time_gets_its_answers(run):
    command = [sys.executable, "-m", "experiments", "translate", str(run.path), "--beam", "1", "--wait", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        for line in ("A dog.\n", "\n", "The man sees the dog.\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline().strip() or line == "\n"  # while the input is open
        process.stdin.close()
        assert process.stdout.read() == "" and process.wait() == 0


def test_a_file_is_translated_with_its_progress(program, run, tmp_path, monkeypatch):
    (tmp_path / "in").write_text("A dog.\n" * 5)
    monkeypatch.setattr("experiments.cli.translating.Progress.EVERY", 0.0)
    said = program("translate", run.path, "--beam", "1", "--batch-size", "2", "--input", tmp_path / "in").err
    progress = [line for line in said.splitlines() if line.startswith("translated")]
    assert [line.split(",")[0] for line in progress] == [f"translated {n} of 5 lines" for n in (2, 4, 5, 5)]
    assert all("sentences/s" in line for line in progress)
    assert ["left" in line for line in progress] == [True, True, False, False]
    for value in ("-1", "nan", "inf"):
        assert "--wait must be" in refused(program("translate", run.path, "--wait", value))


def test_lines_of_a_file_come_in_full_groups(tmp_path):
    path = tmp_path / "text"
    path.write_text("".join(f"{'x' * 50}{i}\n" for i in range(3 * CHUNK + 1)))
    with path.open("rb") as file:
        found = list(chunks(file, "text", "refuse", print))
    assert [(first, len(lines)) for first, lines in found] == [(1 + i * CHUNK, CHUNK) for i in range(3)] + [
        (1 + 3 * CHUNK, 1)
    ]
    assert [line for _, lines in found for line in lines] == path.read_text().splitlines()


def test_output_goes_where_it_is_told(program, run, tmp_path):
    """Writes to the target of a link, and into a pipe, but not over a folder."""
    (tmp_path / "file.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "file.txt")
    assert program("translate", run.path, "--output", tmp_path / "link.txt", stdin=b"A dog.\n").code == 0
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "file.txt").read_text().count("\n") == 1
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit((tmp_path / "pipe").read_text)
        assert program("translate", run.path, "--output", tmp_path / "pipe", stdin=b"A dog.\n").code == 0
        assert read.result() == (tmp_path / "file.txt").read_text()
    assert (tmp_path / "pipe").is_fifo()
    assert "must be a file" in refused(program("translate", run.path, "--output", tmp_path, stdin=b"A dog.\n"))
    nowhere = tmp_path / "none" / "out.txt"
    assert "no such folder" in refused(program("translate", run.path, "--output", nowhere, stdin=b"A dog.\n"))


def test_n_best_lists(program, run):
    result = program("translate", run.path, "--n-best", "3", stdin=b"The man sees the dog.\n")
    rows = [line.split(" ||| ") for line in result.out.splitlines()]
    assert {row[0] for row in rows} == {"1"} and len({row[2] for row in rows}) == len(rows) <= 3
    cut_off = [row[3:] == ["cut off"] for row in rows]
    assert cut_off == sorted(cut_off)
    assert "n-best list of 9 does not fit" in refused(program("translate", run.path, "--n-best", "9", stdin=b""))


@pytest.mark.slow
def test_score_takes_the_pieces_that_translate_found(program, run, tmp_path):
    source, pieces = tmp_path / "source.en", tmp_path / "pieces"
    lines = b"The man sees the dog.\n", b"\n", b"A house.\n"
    result = program("translate", run.path, "--n-best", "4", "--pieces", stdin=b"".join(lines))
    rows = [line.split(" ||| ") for line in result.out.splitlines()]
    source.write_bytes(b"".join(lines[int(row[0]) - 1] for row in rows))
    pieces.write_text("".join(row[2] + "\n" for row in rows))
    result = program("score", run.path, "--source", source, "--target", pieces, "--pieces")
    assert len(rows) > 4
    for row, score in zip(rows, result.out.split(), strict=True):
        assert float(row[1]) == pytest.approx(float(score), abs=2e-4)
    pieces.write_text("\n" * (len(rows) - 1) + "nopiece\n")
    error = refused(program("score", run.path, "--source", source, "--target", pieces, "--pieces"))
    assert f"target line {len(rows)}: 'nopiece' is not a piece" in error


@pytest.mark.slow
def test_json_lines_have_the_pieces_with_the_log_probabilities_that_score_adds_up(program, run, tmp_path):
    text = b"The man sees the dog.\n\n\xff\nA house.\n"
    flags = "--beam", "3", "--n-best", "3"
    plain = [line.split(" ||| ") for line in program("translate", run.path, *flags, stdin=text).out.splitlines()]
    lines = [json.loads(line) for line in program("translate", run.path, *flags, "--json", stdin=text).out.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3, 4] and lines[2]["translations"] == []
    found = [(line["line"], one) for line in lines for one in line["translations"]]
    assert [(str(n), one["text"]) for n, one in found] == [(row[0], row[2]) for row in plain if row[0] != "3"]
    assert any(not one["finished"] for _, one in found)
    sources, targets = tmp_path / "sources", tmp_path / "pieces"
    sources.write_bytes(b"".join(text.splitlines(keepends=True)[n - 1] for n, _ in found))
    targets.write_text("".join(" ".join(one["pieces"]) + "\n" for _, one in found))
    scores = program("score", run.path, "--source", sources, "--target", targets, "--pieces").out.split()
    for (_, one), score in zip(found, scores, strict=True):
        assert one["finished"] == (one["pieces"][-1] == "</s>") and len(one["log_probs"]) == len(one["pieces"])
        assert all(value <= 0 for value in one["log_probs"])
        total = sum(one["log_probs"]) / ((5 + len(one["pieces"])) / 6) ** 0.6
        assert total == pytest.approx(float(score), abs=1e-4) and one["score"] == pytest.approx(total, abs=1e-3)
    assert "--json" in refused(program("translate", run.path, "--json", "--pieces", stdin=b""))


def test_interactive_asks_on_stderr_and_answers_on_stdout(program, run):
    lines = b"The man sees the dog.\n\xff\nA house.\n"
    result = program("translate", run.path, "--interactive", "--beam", "1", stdin=lines)
    assert result.code == 0 and len(result.out.splitlines()) == 3 and ">" not in result.out
    assert result.err.startswith("> ") and "not UTF-8" in result.err
    assert "without --input" in refused(program("translate", run.path, "--interactive", "--input", "x"))


def test_prompts_come_before_what_is_asked_for(capsys):
    groups = prompted(iter([(1, ["a"]), (2, ["b"])]))
    for expected in ("a", "b"):
        assert next(groups)[1] == [expected] and capsys.readouterr().err == "> "
    assert list(groups) == []


def test_a_pipe_without_a_name_of_its_own_is_written_to():
    """Such as /dev/stdout in `--output /dev/stdout | less`."""
    there, here = os.pipe()
    with os.fdopen(there) as reader:
        with os.fdopen(here, "w"), written(Path(f"/dev/fd/{here}")) as output:
            output.write("Ein Hund.\n")
        assert reader.read() == "Ein Hund.\n"


@pytest.mark.slow
def test_attention_writes_a_page_into_the_run_or_what_it_is_told(program, run, tmp_path):
    result = program("attention", run.path, "The man sees the dog.")
    assert result.code == 0 and result.out == f"{run.figures / 'attention.html'}\n"
    page = (run.figures / "attention.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and '"unit": "pieces"' in page
    outputs = ["--html", tmp_path / "a.html", "--png", tmp_path / "a.png", "--json", tmp_path / "a.json"]
    flags = ["--target", "Der Mann.", "--words", "--checkpoint", "last", *outputs]
    result = program("attention", run.path, "- A man.", *flags)
    assert result.code == 0 and result.out == ""
    assert '"unit": "words"' in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (found["sentence"], found["translation"], found["steps"]) == ("- A man.", "Der Mann.", [40])
    assert len(found["weights"]["cross"][0][0]) == 3  # Der, Mann., EOS


@pytest.mark.slow
def test_attention_refuses_before_it_computes(program, run, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.cli.verbs.pair_of", None)
    assert "needs a sentence" in refused(program("attention", run.path))
    assert "needs a sentence" in refused(program("attention", run.path, " \u200b"))
    assert "needs a sentence" in refused(program("attention", run.path, "--words"))
    assert "--target is empty" in refused(program("attention", run.path, "A dog.", "--target", "\ufeff"))
    assert "used with --target" in refused(program("attention", run.path, "A dog.", "--target", "Ja", "--alpha", "0"))
    assert "--png FILE" in refused(program("attention", run.path, "A dog.", "--png-of", "encoder"))
    assert "no run at nowhere" in refused(program("attention", "nowhere", "A dog."))
    for flag in ("--html", "--png", "--json"):
        assert "must be a file" in refused(program("attention", run.path, "A dog.", flag, tmp_path))
        assert "no such folder" in refused(program("attention", run.path, "A dog.", flag, tmp_path / "none" / "a"))
    both = tmp_path / "both"
    assert "same file name" in refused(program("attention", run.path, "A dog.", "--html", both, "--json", both))
    assert "/dev/stdout" in refused(program("attention", run.path, "A dog.", "--json", "-"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "figures").touch()
    shutil.copy(run.config, tmp_path)
    assert "figures (File exists)" in refused(program("attention", tmp_path, "A dog."))
    monkeypatch.undo()
    assert program("attention", run.path, "--words are here", "--html", both).code == 0
    assert "the sentence has" in refused(program("attention", run.path, "dog " * 300))
    assert "not valid text" in refused(program("attention", run.path, "\udc80"))


def test_evaluate_prints_signatures_and_writes_the_record(program, run, tmp_path):
    result = program("evaluate", run.path, "--record", tmp_path / "results" / "micro.json")
    assert result.code == 0
    assert "BLEU = " in result.out and "nrefs:1|case:mixed|eff:no|tok:13a" in result.out and "chrF2 = " in result.out
    assert (tmp_path / "results" / "micro.json").exists()


def test_score_gives_a_number_a_line(program, run, text, tmp_path):
    result = program("score", run.path, "--source", text / "test.en", "--target", text / "test.de")
    assert result.code == 0
    assert len([float(line) for line in result.out.splitlines()]) == 20
    assert "needs --source FILE and --target FILE" in refused(program("score", run.path))
    shorter = tmp_path / "short.de"
    shorter.write_text("Haus.\n")
    assert "has 20 lines but" in refused(program("score", run.path, "--source", text / "test.en", "--target", shorter))


def test_no_such_run(program):
    assert "no run at nowhere" in refused(program("translate", "nowhere", stdin=b"a\n"))
    assert "no run at nowhere" in refused(program("evaluate", "nowhere"))


def test_a_full_disk_is_one_line(program, monkeypatch):
    import errno

    def full(arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setitem(VERBS, "list", full)
    assert "the disk is full" in refused(program("list"))


def test_a_flag_without_its_value_says_what_it_expects(program, run):
    for verb, flags, message in (
        ("attention", ("A dog.", "--html"), "--html expects a path"),
        ("attention", ("A dog.", "--html", "--words"), "--html expects a path"),
        ("attention", ("A dog.", "--png-of"), "--png-of expects one of encoder, decoder, cross"),
        ("evaluate", ("--data.test-src",), "--data.test-src expects a path"),
        ("attention", ("A dog.", "--png-of", "all"), "--png-of expects one of encoder, decoder, cross, not 'all'"),
        ("translate", ("--beam",), "--beam expects a whole number"),
        ("translate", ("--alpha", "1,5"), "--alpha expects a number, not '1,5'"),
        ("translate", ("--n-best=two",), "--n-best expects a whole number, not 'two'"),
        ("evaluate", ("--checkpoint",), "--checkpoint expects a string"),
        ("score", ("--source", "--target"), "--source expects a path"),
    ):
        assert refused(program(verb, run.path, *flags)) == f"error: {message}"


@pytest.mark.slow
def test_every_flag_says_what_it_expects():
    """For every flag of every verb: without a value, the error names the type that it expects."""
    kinds = [Averaging, Attending, Comparing, Evaluating, Inspecting, Scoring, Table, Table1, Translating]
    cases = [(kind, kind(), field.name) for kind in kinds for field in dataclasses.fields(kind)]
    small = find("small")
    for part in ("model", "data", "optimizer", "train", "decode", "mesh", "lora"):
        settings = [f.name for f in dataclasses.fields(getattr(small, part)) if f.type is not bool]
        cases += [(Planning, Planning(small), f"{part}.{name}") for name in settings]
    asked = 0
    for kind, default, name in cases:
        theirs = kind is Evaluating and name in ("test_src", "test_tgt", "languages", "max_unknown")
        flag = "--" + "data." * theirs + name.replace("_", "-")
        with suppress(UserError):
            parse(kind, [flag], default, "x")
            continue  # a boolean flag, or a list, which may be empty
        with pytest.raises(UserError, match=rf"^{flag} expects (a string|a path|a whole number|a number|one of .*)$"):
            parse(kind, [flag], default, "x")
        asked += 1
    assert asked > 60


def test_a_closed_stream_is_one_line_where_it_is_needed(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    main(["list"])
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["translate", str(run.path)])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: standard input is closed: give --input FILE\n"
    monkeypatch.setattr("sys.stdout", None)
    for words in (["list"], ["--help"], []):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and capsys.readouterr().err.startswith("error: stdout is closed: ")


def test_a_folder_that_cannot_be_created_is_refused_before_any_work(program, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        for words in (
            ("train", "demo", "--workdir", folder),
            ("demo", "--workdir", folder),
            ("table", "1", "--results", folder),
            ("table", "3", "--scale", "smoke", "--runs", folder, "--results", tmp_path / "new" / "results"),
        ):
            assert f"cannot create the folder {folder} (" in refused(program(*words))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


OUTPUTS_THAT_FAIL = """
import gc, json, os, sys
from experiments.cli.main import main
FAILING = {
    "full": (["--help"], ["train", "small", "--help"], ["nonsense"]),
    "gone": (["--help"], ["list"]),
    "full stderr": (["nonsense"],),
}
gc.freeze()  # a child that ends looks through all that was imported otherwise
for kind, commands in FAILING.items():
    for words in commands:
        if (child := os.fork()) == 0:
            there, here = os.pipe()
            os.close(there)
            broken = here if "gone" in kind else os.open("/dev/full", os.O_WRONLY)
            said = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said if "stderr" in kind else broken, 1)
            os.dup2(broken if "stderr" in kind else said, 2)
            main(words)
            sys.exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(" ".join(words), kind, code, json.dumps(open(sys.argv[1]).read()), sep="\t")
        sys.stdout.flush()
"""


@pytest.mark.slow
def test_output_that_cannot_be_written_ends_in_a_line_or_quietly(tmp_path):
    """A full device: one line and exit code 2. A closed pipe: no message and 141. Never a traceback."""
    command = [sys.executable, "-W", "ignore", "-c", OUTPUTS_THAT_FAIL, str(tmp_path / "said")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 6
    for words, kind, code, said in rows:
        if "stderr" in kind:
            assert code == "2"
        elif words == "nonsense":
            assert code == "2" and json.loads(said).startswith("error: ") and said.count("\\n") == 1
        elif kind == "full":
            assert code == "2" and json.loads(said).startswith("error: the disk is full") and said.count("\\n") == 1
        else:
            assert (code, said) == ("141", '""'), (words, kind, code, said)
