"""Imports go in one direction, and the core needs neither TensorFlow nor torch."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In the order of the paper: a file may import only from those before it.
ORDER = [
    "config", "registry", "parameters", "mesh", "matmul", "segments", "dropout", "initializers", "kernels", "attention",
    "positions", "layers", "flops", "model", "variants.long", "loss", "variants.finetuning", "optimizer", "train",
    "variants.modern", "parallel", "decode", "variants.classifier", "processes", "checkpoint", "variants.mask_predict",
    "variants.decoding",
]  # fmt: skip
# Each is one entry of the order.
FOLDERS = {"kernels", "variants.long", "variants.modern", "variants.decoding"}
# Shared modules and subpackages of experiments/: a file may import from its own subpackage and those before it.
SHARED = {
    "documents", "history", "programs", "reader", "registry", "sentences", "streams", "task", "translator", "words",
    "workdir",
}  # fmt: skip
ROOMS = [
    "presets", "labels", "evaluation", "inspection", "training", "planning", "tables", "speedrun", "exchange",
    "serving", "cli",
]  # fmt: skip
LIBRARIES = {"jax", "flax", "optax", "orbax", "numpy"}


def imports(path: Path) -> set[str]:
    """Returns the absolute names of everything that a file imports, at any level."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_file_of_the_model_has_its_place():
    files = [path for folder in ("", "variants") for path in (ROOT / "transformer" / folder).glob("[!_]*.py")]
    assert {place_of(path) for path in files} | FOLDERS == set(ORDER)


def place_of(path: Path) -> str:
    """Returns the entry of ORDER for a file. A folder has one for all its files, but each of the variants its own."""
    folder = ".".join(path.parent.relative_to(ROOT / "transformer").parts)
    return folder if folder in FOLDERS else f"{folder}.{path.stem}" if folder else path.stem


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "transformer").rglob("[!_]*.py")),
    ids=lambda path: path.stem,
)
def test_the_model_imports_only_what_comes_before(path):
    name = place_of(path)
    for imported in imports(path):
        top, *rest = imported.split(".")
        if top == "transformer":
            found = ".".join(rest[:2]) if rest[0] == "variants" else rest[0]
            before = found in ORDER[: ORDER.index(name)]
            assert before or (found == name and name in FOLDERS), f"{name} imports {imported}"
        else:
            assert top in LIBRARIES or top in sys.stdlib_module_names, f"{name} imports {imported}"


def test_the_wheel_has_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    files = [path for top in ("transformer", "data", "experiments") for path in (ROOT / top).rglob("__init__.py")]
    assert {".".join(path.parent.relative_to(ROOT).parts) for path in files} == set(listed)


def test_config_needs_no_jax():
    assert not {name.split(".")[0] for name in imports(ROOT / "transformer/config.py")} & LIBRARIES


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*.py")), ids=lambda path: path.stem)
def test_data_knows_only_the_config_and_what_a_table_of_parts_is(path):
    for imported in imports(path):
        assert not imported.startswith("experiments")
        if imported.startswith("transformer"):
            assert imported.startswith(("transformer.config.", "transformer.registry.")), imported


def test_every_file_of_the_experiments_has_its_place():
    here = ROOT / "experiments"
    assert {path.stem for path in here.glob("*.py")} - {"__init__", "__main__"} == SHARED
    assert {path.parent.name for path in here.glob("*/__init__.py")} == set(ROOMS)
    assert all(len(list((here / room).iterdir())) <= 13 for room in ROOMS), "at most a dozen files in a subpackage"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("[!n]*/*.py")), ids=lambda path: path.stem)
def test_a_room_imports_only_from_those_before_it(path):
    room = path.parent.name
    for imported in imports(path):
        if imported.startswith("experiments."):
            found = imported.split(".")[1]
            assert found in SHARED or found in ROOMS[: ROOMS.index(room) + 1], f"{room} imports {imported}"


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_is_shared_imports_from_no_room(name):
    for imported in imports(ROOT / "experiments" / f"{name}.py"):
        assert not imported.startswith("experiments.") or imported.split(".")[1] in SHARED, imported


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_needs_no_command_line(path):
    """A machine that is rented for its GPU may lack the libraries of the command line."""
    needed = {name for name in imports(path) if name.startswith(("experiments.cli", "tyro"))}
    assert needed <= {"experiments.cli.compilation_cache.keep_compiled"}


# An import of these packages fails, also in libraries. (With None in sys.modules, tyro would take them for imported.)
WITHOUT_TORCH_AND_TENSORFLOW = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tensorflow"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
from experiments.cli.main import main
main(["list"])
"""


@pytest.mark.slow
def test_the_program_runs_where_torch_and_tensorflow_cannot_be_had():
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH_AND_TENSORFLOW], cwd=ROOT, check=True)
