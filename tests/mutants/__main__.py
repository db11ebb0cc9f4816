"""Mutation testing: makes each change of `changes.py` in a copy of the code, and runs its tests.

    python -m tests.mutants [WORD ...]

A change is killed when a test fails, and survives when all pass. WORD: only changes whose file or reason contains it.
Exit code 1: fewer than 95 of 100 are killed, or the list does not match the code (a text that does not occur exactly
once, tests that do not exist or fail without any change, an "equivalent" change that a test detects).
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.changes import CHANGES, Change

ROOT = Path(__file__).parents[2]
COPIED = ("transformer", "data", "experiments", "benchmarks", "tests", "docs", "pyproject.toml", "README.md")
LEAST = 0.95
SECONDS = 900  # a change that causes an endless loop counts as killed


def copy_of_the_code(folder: Path) -> Path:
    """Copies the files that the tests need."""
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "_build", "runs", "prepared", ".*")
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_tests(folder: Path, tests: list[str], compiled: Path, seconds: float | None = SECONDS) -> tuple[int, str]:
    """Returns pytest's exit code (0: all passed, 1: one failed, -1: timeout) and its output.

    Slow tests run only if no other one fails. Each of both has so many seconds; None: any number.
    """
    none = 5  # the exit code without any test
    found = none, "no such tests"
    for marks in ("not slow and not faults", "slow and not faults"):
        code, said = run_marked(folder, tests, compiled, marks, seconds)
        if code not in (0, none):
            return code, said
        found = min(found, (code, said))
    return found


def run_marked(folder: Path, tests: list[str], compiled: Path, marks: str, seconds: float | None) -> tuple[int, str]:
    """Returns pytest's exit code and output for the tests with these marks."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", marks, *tests]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONDONTWRITEBYTECODE": "1",  # Python would reuse the bytecode of a file that changes twice within a second
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".hypothesis"),
    }
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="replace",
            timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout + done.stderr


def verdict(change: Change, folder: Path, compiled: Path) -> str:
    """ "killed", "survived", "explained", or what is wrong with the list."""
    path = folder / change.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(change.old, change.new), encoding="utf-8")
    try:
        code, said = run_tests(folder, change.tests.split(), compiled)
    finally:
        path.write_text(whole, encoding="utf-8")
    if code in (1, -1):
        return "not equivalent: a test notices it" if change.equivalent else "killed"
    if code == 0:
        return "explained" if change.equivalent else "survived"
    return f"pytest could not run (exit code {code}): {said.strip().splitlines()[-1]}"


def main(words: list[str]) -> int:
    """Runs the command, and returns the exit code."""
    changes = [c for c in CHANGES if not words or any(word in f"{c.file} {c.what}" for word in words)]
    for change in changes:
        if (count := (ROOT / change.file).read_text(encoding="utf-8").count(change.old)) != 1:
            print(f"stale: {change.file} has this {count} times, not once: {change.old!r}")
            return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        place = Path(temporary)
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(cores):
            copies.put(copy_of_the_code(place / str(number)))

        everything = sorted({test for change in changes for test in change.tests.split()})
        print(f"{len(changes)} changes; first the tests without any", flush=True)
        code, said = run_tests(place / "0", everything, place / "compiled", None)
        if code:
            print(f"the tests fail as they are:\n{said}")
            return 1

        def judge(change: Change) -> str:
            folder = copies.get()
            try:
                found = verdict(change, folder, place / "compiled")
            finally:
                copies.put(folder)
            print(f"{found:9} {change.file}: {change.what}", flush=True)
            return found

        with ThreadPoolExecutor(cores) as pool:
            found = list(pool.map(judge, changes))
    killed, survived, explained = (found.count(name) for name in ("killed", "survived", "explained"))
    wrong = len(found) - killed - survived - explained
    share = killed / max(1, len(found) - explained)
    print(f"{killed} killed, {survived} survived, {explained} explained, {wrong} wrong in the list: {share:.1%} killed")
    return 1 if wrong or share < LEAST else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
