"""Text to text from what is installed: functions of Python packages, and the first sentence of their docstrings.

    python docs/examples/docstrings.py FOLDER [PACKAGE ...]

writes train, dev and test as FOLDER/train.source, FOLDER/train.target and so on. A source is the code of a function
without its docstring and comments, in one line; a target is the first sentence of the docstring. A package's files are
all in one split, by a hash of their names, so that no function is tested whose neighbours were trained on.
"""

import ast
import hashlib
import importlib.util
import re
import sys
from pathlib import Path

PACKAGES = ("numpy", "scipy", "jax", "flax", "optax", "orbax", "grain", "etils", "sacrebleu", "ml_dtypes", "matplotlib")
LONGEST = 600
"""Characters of a source; the rest of a function is cut off."""


def functions(file):
    """Yields (code, sentence) of each function that has a docstring."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)) and len(node.body) > 1:
            node.body, node.decorator_list = node.body[1:], []
            code = " ".join(ast.unparse(node).split())[:LONGEST]
            paragraph = " ".join(text.split("\n\n")[0].split())
            sentence = re.split(r"(?<=\w\w[.!?]) ", paragraph)[0]
            if 3 <= len(sentence.split()) <= 30 and sentence.isprintable():
                yield code, sentence


def files_of(package):
    """The Python files of an installed package, without its tests."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else []
    found = (path for folder in folders for path in sorted(Path(folder).rglob("*.py")))
    return [path for path in found if not {"tests", "testing"} & set(path.parts)]


def main(folder, packages):
    """Writes the six files and prints how many pairs each split has."""
    pairs = {"train": {}, "dev": {}, "test": {}}
    for package in packages:
        for path in files_of(package):
            digest = hashlib.sha256("/".join(path.parts[-3:]).encode()).digest()[0]
            split = "dev" if digest < 10 else "test" if digest < 20 else "train"
            pairs[split] |= dict(functions(path))
    for split in ("dev", "test"):
        pairs[split] = {code: sentence for code, sentence in pairs[split].items() if code not in pairs["train"]}
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in pairs.items():
        for side, lines in (("source", found), ("target", found.values())):
            (folder / f"{split}.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{split}: {len(found):,} functions")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or PACKAGES)
