"""The README is correct: its snippets run, its table is that of the records, its files and verbs exist."""

import re

import pytest

from experiments.evaluation.records import results_table
from tests.documents import ROOT, check_command, commands, missing_links, named_paths, run_snippets, unknown_targets

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_snippets_run_in_order(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run.path)
    assert run_snippets(README) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("[") and printed[-1] == "(1, 4, 100)"


def test_the_results_are_the_records():
    table = re.search(r"<!-- results:.*?-->\n(.*?)<!-- end of results -->", README, re.DOTALL)
    assert table and table[1] == results_table()


def test_commands_name_verbs_experiments_and_flags_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(README)
    assert len(found) > 5
    for words in found:
        check_command(words)


@pytest.mark.parametrize("path", sorted(named_paths(README)))
def test_paths_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/**/*.md"))], ids=str)
def test_links_between_files_lead_somewhere(path):
    assert not missing_links(path)


def test_make_targets_exist():
    assert not unknown_targets(README)
