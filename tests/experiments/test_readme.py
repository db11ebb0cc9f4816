"""The README says what is true: its snippets run, its table is the records', its files and verbs exist."""

import re
from pathlib import Path

import pytest

from experiments import EXPERIMENTS
from experiments.records import results_table
from experiments.verbs import VERBS
from transformer.positions import POSITIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_snippets_run_in_order(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run.path)
    names = dict(POSITIONS)
    scope: dict[str, object] = {}
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 2
    try:
        for snippet in snippets:
            exec(snippet, scope)
    finally:
        POSITIONS.clear()
        POSITIONS.update(names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("[") and printed[-1] == "(1, 4, 100)"


def test_the_results_are_the_records():
    table = re.search(r"<!-- results:.*?-->\n(.*?)<!-- end of results -->", README, re.DOTALL)
    assert table and table[1] == results_table()


def test_commands_name_verbs_and_experiments_that_exist():
    commands = re.findall(r"python -m experiments (\w+)(?: ([\w-]+))?", README)
    assert len(commands) > 5
    for verb, name in commands:
        assert verb in VERBS
        if verb == "train":
            assert name in EXPERIMENTS


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:transformer|experiments|data)/[\w./]*)`", README))))
def test_paths_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/**/*.md"))], ids=str)
def test_links_between_files_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (demo|test[\w-]*|lint)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
