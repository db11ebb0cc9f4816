"""Checks of the notebooks that do not execute them; `make notebooks` does, in minutes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from experiments.notebooks.run import execute, read_script, scripts

ROOT = Path(__file__).parents[2]

LARGEST = 1_000_000  # maximum size of one .ipynb, in bytes
# The first folders of absolute paths: a home, a temporary folder, a mounted disk, an installed package.
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|Users|root|tmp|var|work|mnt|usr|opt|content|private)/|[A-Z]:\\\\\w")

notebooks = pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)


def outputs(script):
    cells = nbformat.read(script.with_suffix(".ipynb"), as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_they_are_numbered_in_order():
    assert [path.name[0] for path in scripts()] == [str(n) for n in range(1, len(scripts()) + 1)]


@notebooks
def test_the_notebook_has_the_cells_of_its_script(script):
    saved = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(saved)
    assert [(cell.cell_type, cell.source) for cell in saved.cells] == [
        (cell.cell_type, cell.source) for cell in read_script(script).cells
    ], f"make notebooks-save makes {script.stem}.ipynb anew"


@notebooks
def test_the_script_stays_as_it_is_when_jupyter_saves_the_notebook(script):
    saved = jupytext.read(script.with_suffix(".ipynb"))
    written = re.sub("#       jupytext_version: .*\n", "", jupytext.writes(saved, fmt="py:percent"))
    assert written == script.read_text(encoding="utf-8")


@notebooks
def test_every_cell_was_executed_once_in_order_and_none_failed(script):
    cells = nbformat.read(script.with_suffix(".ipynb"), as_version=4).cells
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    found = outputs(script)
    assert found and not [output for output in found if output.output_type == "error"]


@notebooks
def test_outputs_name_no_path_of_a_machine_and_no_warning(script):
    for output in outputs(script):
        text = json.dumps({name: value for name, value in output.items() if name != "metadata"})
        text = re.sub(r'"image/png": "[^"]*"', "", text)
        assert not OF_A_MACHINE.search(text), OF_A_MACHINE.search(text)
        assert "Warning" not in text


@notebooks
def test_it_is_small_enough_to_read_in_a_browser(script):
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST


@notebooks
def test_the_first_cells_say_what_it_needs_and_install_it_where_it_is_not(script):
    first, setup = read_script(script).cells[:2]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert re.search(r"minutes? on (?:a laptop's|two cores of a) CPU", first.source.replace("\n", " "))
    assert setup.cell_type == "code" and 'ADDRESS = ""' in setup.source


def test_a_script_is_executed_in_the_directory_and_with_the_code_beside_it(tmp_path):
    script = tmp_path / "small.py"
    script.write_text(
        "# %% [markdown]\n# # Small\n\n# %%\nfrom pathlib import Path\n\nimport data\n\n"
        'Path("left").touch()\nprint(data.__path__[0])\n\n# %%\n1 / 0\n',
        encoding="utf-8",
    )
    notebook, place = read_script(script), tmp_path / "place"
    place.mkdir()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, place, {})
    assert (place / "left").exists()
    assert notebook.cells[1].outputs[0].text.strip() == str(ROOT / "data")


@pytest.mark.slow
@pytest.mark.parametrize(("set_there", "backend"), [({}, "agg"), ({"MPLBACKEND": "svg"}, "svg")])
def test_figures_need_no_display_and_leave_a_notebook_its_backend(set_there, backend):
    code = "import experiments.inspection.figures, matplotlib; print(matplotlib.get_backend())"
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | set_there
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().lower() == backend
