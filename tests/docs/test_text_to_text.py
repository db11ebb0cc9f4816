"""The tutorial on tasks from text to text: its pairs, and its metric."""

import runpy
import subprocess
import sys

import pytest

from experiments.evaluation.metrics import METRICS, score
from experiments.registry import run_file
from experiments.task import Translated
from tests.examples import EXAMPLES


def test_pairs_are_functions_and_their_sentences(tmp_path):
    subprocess.run([sys.executable, EXAMPLES / "docstrings.py", tmp_path, "optax", "flax"], check=True)
    texts = {path.name: path.read_text(encoding="utf-8").splitlines() for path in tmp_path.iterdir()}
    for split in ("train", "dev", "test"):
        sources, targets = texts[f"{split}.source"], texts[f"{split}.target"]
        assert len(sources) == len(targets) > 0
        assert all(line.startswith("def ") for line in sources)
    assert not set(texts["train.source"]) & set(texts["dev.source"] + texts["test.source"])
    assert len(texts["train.source"]) > 10 * len(texts["dev.source"])


def test_the_sentence_of_a_function_is_not_in_its_code(tmp_path):
    code = 'def f(x):\n    """Adds one to it.  It\n    is simple.\n\n    More."""\n    # really\n    return x + 1\n'
    (tmp_path / "code.py").write_text(code)
    found = runpy.run_path(str(EXAMPLES / "docstrings.py"))["functions"](tmp_path / "code.py")
    assert list(found) == [("def f(x): return x + 1", "Adds one to it.")]


def test_rouge_is_the_f1_of_what_both_have():
    run_file(EXAMPLES / "rouge.py")
    try:
        text = Translated([""] * 2, ["the cats sat", "a dog"], ["the cat", "a dog"], "en")
        found = {each.name: each for each in score(text)[0]}
    finally:
        for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L"):
            del METRICS[name]
    # Of "the cat", stemmed: 2 of 3 words and 1 of 2 pairs of words are right, and nothing is missing.
    assert found["ROUGE-1"].value == pytest.approx(100 * (0.8 + 1) / 2)
    assert found["ROUGE-2"].value == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found["ROUGE-L"].value == pytest.approx(100 * (0.8 + 1) / 2)
    assert "rouge-score" in found["ROUGE-1"].signature
