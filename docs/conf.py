"""Sphinx: the pages of this folder, and the reference made from the docstrings. `make docs` builds it, offline."""

import sys
import tomllib
from pathlib import Path

from sphinx.ext.napoleon import Config, GoogleDocstring

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "Attention Is All You Need, in JAX"
author = "The contributors"
copyright = "The contributors, Apache 2.0"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
highlight_language = "none"
default_role = "literal"  # what docstrings mean by single backticks
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # a name of two modules is linked to one of them


def as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Converts docstrings to reStructuredText: plain text, sections such as "Args:", indented or |-lined blocks.

    Napoleon is called here, since as an extension it reads "D: width" below a field as a type D.
    """
    result: list[str] = []
    literal = False
    for number, line in enumerate(lines):
        first = number > 0 and not lines[number - 1].strip()
        outer = next((before for before in reversed(lines[:number]) if before.strip()), "")
        if first and not literal and line.startswith(("    ", "|")) and not outer.startswith(" "):
            result += ["::", ""]
            literal = True
        elif line and not line.startswith((" ", "|")):
            literal = False
        if literal:
            result.append("    " + line if line else line)
        else:
            result.append(
                "`".join(part if i % 2 else part.replace("*", r"\*") for i, part in enumerate(line.split("`")))
            )
    if what not in ("attribute", "data"):
        result = GoogleDocstring(result, Config(), app, what, name, obj, options).lines()
    lines[:] = result


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_rst)
