"""The pages of docs/ are correct: their Python runs, and their commands, flags, files and links exist."""

import importlib
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

from experiments.evaluation.records import RESULTS, read_evaluation, read_record
from tests.documents import (
    PAGES,
    ROOT,
    check_command,
    commands,
    missing_links,
    named_paths,
    run_snippets,
    unknown_targets,
)
from tests.examples import EXAMPLES

DOCS = ROOT / "docs"


def text_of(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["tutorial", "own-data", "tables", "scaling", pytest.param("extending", marks=pytest.mark.slow)]
)
def test_python_runs_in_order(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(run.path, tmp_path / "runs" / "demo")
    assert run_snippets(text_of(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_name_verbs_experiments_and_flags_that_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(page.read_text(encoding="utf-8"))
    assert found or page.stem in ("index", "architecture", "pytorch")
    for words in found:
        check_command(words)


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *sorted(ROOT.glob(".github/**/*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    # Links in other folders are checked in tests/experiments/test_readme.py.
    assert not missing_links(path)


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: page.stem)
def test_links_to_pages_stay_in_the_documentation(page):
    # Sphinx refuses other pages, which it does not build.
    links = re.findall(r"\]\(([^):#\s]+\.md)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).resolve().is_relative_to(DOCS)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_and_make_targets_exist(page):
    text = page.read_text(encoding="utf-8")
    assert not [path for path in named_paths(text) if not (ROOT / path).exists()]
    assert not unknown_targets(text)


def test_every_example_is_shown():
    shown = set(re.findall(r"literalinclude\} (\S+)", text_of("extending") + text_of("text-to-text")))
    assert shown == {f"examples/{path.name}" for path in EXAMPLES.glob("*.py")}


def test_every_pain_has_a_command():
    _, *pains = text_of("troubleshooting").split("\n## ")
    assert len(pains) >= 13
    for pain in pains:
        assert re.search(r"```\n.*python -m |```\nmake ", pain), pain.splitlines()[0]


def test_every_module_is_in_the_reference():
    for package in ("transformer", "data", "experiments"):
        files = [path for path in (ROOT / package).rglob("*.py") if path.name != "__main__.py" and path.read_text()]
        modules = {
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for path in files
            if "notebooks" not in path.parts
        }
        assert set(re.findall(r"automodule:: (\S+)", text_of(f"api/{package}"))) == modules


def test_the_reference_shows_nothing_of_the_machine_that_builds_it():
    """Sphinx prints the default of every argument: one that is os.environ would publish the whole environment."""
    for package in ("transformer", "data", "experiments"):
        for name in re.findall(r"automodule:: (\S+)", text_of(f"api/{package}")):
            for function in vars(importlib.import_module(name)).values():
                if inspect.isfunction(function):
                    for argument in inspect.signature(function).parameters.values():
                        shown = repr(argument.default)
                        assert len(shown) < 200 and str(ROOT) not in shown, (name, function, argument)


def test_the_files_of_the_map_exist():
    tree = re.search(r"```text\n(transformer/.*?)```", text_of("architecture"), re.DOTALL)
    assert tree
    folder = Path()
    for line in tree[1].splitlines():
        words = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" "):
            folder = Path(words[0])
            continue
        for name in words:
            if name.endswith((".py", "/")):
                assert (ROOT / folder / name).exists(), name


def test_the_example_of_fine_tuning_has_the_scores_of_its_records():
    page = (ROOT / "docs/fine-tuning.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\w+` \|.*", page, re.MULTILINE)
    assert len(rows) == 5
    for line in rows:
        name, _, *told = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
        measured = []
        for text in ("help", "tatoeba"):
            record = read_evaluation(RESULTS / "fine-tuning" / f"{name}-{text}.json")
            scores = {score["name"]: score["value"] for score in record["scores"]}
            measured += [f"{scores['BLEU']:.1f}", f"{scores['chrF2']:.1f}"]
        assert told == measured, name


def test_the_results_of_parsing_are_those_of_the_records():
    page = (ROOT / "docs/parsing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[^]]+\]\(\.\./(\S+\.json)\) \| \S+ \| (.*?) \| (.*?)\| (\d+) of ", page, re.MULTILINE)
    assert len(rows) >= 4
    for path, f1, complete, failed in rows:
        record = read_record(ROOT / path)
        if path.startswith("benchmarks"):
            scores, without = record["scores"], record["without_parse"]
            assert (f1, complete.strip()) == (f"{scores['F1']:.1f} ± {scores['margin']:.1f}", ""), path
        else:
            scores = {score["name"]: score for score in record["scores"]}
            assert f1 == f"{scores['F1']['value']:.1f} ± {scores['F1']['margin']:.1f}", path
            assert complete.strip() == f"{scores['complete match']['value']:.1f}", path
            without = record["repaired"]
        assert int(failed) == without, path
    details = read_record(RESULTS / "table4-small/wsj-semi-seed0.json")["details"]
    for title, column in (("words", "sentences"), ("label", "brackets")):
        table = re.search(rf"^\| {title} \| .*\n\|---.*\n\| {column} \| .*\n\| F1 \| .*", page, re.MULTILINE)
        assert table, title
        names, _, counts, f1s = (
            [cell.strip() for cell in row.strip("| ").split("|")[1:]] for row in table[0].split("\n")
        )
        for name, count, f1 in zip(names, counts, f1s, strict=True):
            assert count == f"{details[title][name][column]:,}" and f1 == f"{details[title][name]['F1']:.1f}", name


def test_the_results_of_documents_are_those_of_the_records():
    page = (ROOT / "docs/documents.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`\S+`\]\(\.\./(\S+)\) \| (\d) \| (.*) \| \[(.*?)\]\(\.\./(\S+)\) \|$", page, re.MULTILINE)
    assert len(rows) >= 2
    for pronouns, context, shown, bleu, path in rows:
        contrast, record = read_evaluation(ROOT / pronouns), read_evaluation(ROOT / path)
        (accuracy,), groups = contrast["scores"], contrast["details"]["group"]
        cells = [f"{accuracy['value']:.1f} ± {accuracy['margin']:.1f}"]
        cells += [f"{groups[name]['accuracy']:.1f}" for name in ("er", "ihn", "sie", "es")]
        assert shown.split(" | ") == cells, pronouns
        (score,) = (score for score in record["scores"] if score["name"] == "BLEU")
        assert bleu == f"{score['value']:.1f} ± {score['margin']:.1f}", path
        for each in (contrast, record):
            assert str(each["settings"]["data"]["context"]) == context
            assert each["experiment"] == contrast["experiment"] and each["steps"] == contrast["steps"]


def test_the_results_of_classification_are_those_of_the_records():
    page = (ROOT / "docs/classification.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[^]]+\]\(\.\./(\S+\.json)\) \| (.*?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert {ROOT / path for path, *_ in rows} == set((RESULTS / "classification").glob("*.json"))
    for path, steps, *told in rows:
        record = read_evaluation(ROOT / path)
        assert steps == f"{record['steps']:,}", path
        scores = (record["scores"][0], record["peer"]["scores"][0])
        assert {score["name"] for score in scores} == {"accuracy"}
        assert told == [f"{score['value']:.1f} ± {score['margin']:.1f}" for score in scores], path


def test_the_times_of_fewer_steps_are_those_of_the_record():
    record = json.loads((ROOT / "benchmarks/results/latency-cpu.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| (\d+) \| (\d+) \|$", text_of("decoding"), re.MULTILINE)
    expected = [
        (name, f"{row['bleu']:.1f}", f"{row['milliseconds, one by one']:.0f}", f"{row['milliseconds, in batches']:.0f}")
        for name, row in record["measured"].items()
    ]
    assert rows == expected
    assert record["outputs that differ with a draft"] == 0
