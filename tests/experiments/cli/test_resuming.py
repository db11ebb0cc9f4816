"""`translate --resume`: an interrupted output is continued as if it had not been interrupted."""

import fcntl
import subprocess
import sys
import time

import pytest

from experiments.cli.main import main
from experiments.streams import claimed, part_of
from tests.experiments.launching import ROOT

LINES = ["A dog.", "The man sees the dog.", "", "A house.", "A woman sees a man.", "The old man."]


@pytest.fixture
def translate(run, tmp_path, capsys):
    """Returns a function from flags to (exit code, stderr); the input is LINES, the output `out`."""
    (tmp_path / "in").write_text("\n".join(LINES) + "\n")

    def call(*flags, out="out"):
        words = ["translate", run.path, "--input", tmp_path / "in", "--output", tmp_path / out, *flags]
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, capsys.readouterr().err

    return call


@pytest.mark.slow
def test_what_was_killed_is_continued(translate, run, tmp_path):
    out, part = tmp_path / "out", part_of(tmp_path / "out")
    command = [sys.executable, "-m", "experiments", "translate", str(run.path), "--beam", "1", "--output", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, text=True) as process:
        process.stdin.write("\n".join(LINES[:3]) + "\n")
        process.stdin.flush()
        until = time.monotonic() + 120
        while not (part.exists() and part.read_text().count("\n") == 3):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.kill()
    assert not out.exists()
    assert translate("--beam", "1", out="whole")[0] == 0
    with part.open("a") as file:
        file.write("Ein an")  # a line that is cut
    code, said = translate("--beam", "1", "--resume")
    assert code == 0 and "translated 6 of 6 lines" in said and not part.exists()
    assert out.read_text() == (tmp_path / "whole").read_text()


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--json",),
        pytest.param(("--n-best", "3"), marks=pytest.mark.slow),
        pytest.param(("--sample", "--beam", "1", "--n-best", "2"), marks=pytest.mark.slow),
    ],
)
def test_an_output_is_continued_from_wherever_it_ends(translate, tmp_path, flags):
    # With one sentence per batch, the last digits of scores are equal too.
    flags = ("--batch-size", "1", *flags) if "--beam" in flags else ("--batch-size", "1", "--beam", "3", *flags)
    assert translate(*flags, out="whole")[0] == 0
    whole = (tmp_path / "whole").read_bytes()
    for size in (0, len(whole) // 3, 2 * len(whole) // 3, len(whole)):
        (tmp_path / "out").write_bytes(whole[:size])
        assert translate(*flags, "--resume")[0] == 0
        assert (tmp_path / "out").read_bytes() == whole


def test_what_cannot_be_resumed_is_refused_and_left_as_it_is(translate, tmp_path):
    long = "eins\n" * 6 + "zwei"
    (tmp_path / "out").write_text(long)
    (tmp_path / "list").write_text("1 ||| -1.0 ||| a\n3 ||| -1.0 ||| b\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    for flags, out, said in (
        ((), "out", "has output for 7 lines but the input has 6 lines"),
        (("--n-best", "2"), "list", "is not the output of --n-best"),
        (("--n-best", "2"), "out", "is not the output of --n-best"),
        ((), "out.gz", "is compressed and cannot be resumed"),
        (("--alignments", str(tmp_path / "links")), "out", "without --alignments"),
    ):
        code, error = translate("--resume", *flags, out=out)
        assert code == 2 and said in error and len([x for x in error.splitlines() if x.startswith("error")]) == 1
    assert (tmp_path / "out").read_text() == long
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_an_output_that_another_process_writes_is_left_to_it(translate, tmp_path, flags):
    part = part_of(tmp_path / "out")
    part.write_text("Ein Satz.\nEin an")
    with claimed(part):  # a lock belongs to the opened file, not to the process
        code, error = translate("--beam", "1", *flags)
        assert code == 2 and f"another process is writing {part}" in error
        assert part.read_text() == "Ein Satz.\nEin an"
    assert translate("--beam", "1", "--resume")[0] == 0
    assert (tmp_path / "out").read_text().startswith("Ein Satz.\n") and not part.exists()


def test_a_lock_is_that_of_the_file_with_the_name(tmp_path):
    """A file that was completed between opening and locking is not written to."""
    part, done = tmp_path / ".out.part", tmp_path / "out"
    flock = fcntl.flock

    def complete_first(file, how):
        if not done.exists():
            part.replace(done)
        flock(file, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", complete_first)
        with claimed(part):
            assert part.exists() and not part.samefile(done)
