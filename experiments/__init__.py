"""Experiments and the commands that run them: everything from a corpus to a scored model, one subpackage per stage.

    presets     the published experiments, and how any other experiment differs from the paper
    labels      scores of labels, and what they are compared with
    evaluation  metrics, test sets, records, comparison
    inspection  attention weights, heads, figures, the invariants that every model must satisfy
    training    the training loop, its progress display, and its safeguards
    planning    before a run: its size, memory, time and cost
    tables      the paper's tables: trained, scored and rendered
    cli         `python -m experiments VERB`

The modules at this level are shared by all of them: loading custom components, what a task is, work directories, and a
trained model as a `Translator`. A subpackage imports only from subpackages above it in this list.
"""

from importlib.util import find_spec
from pathlib import Path

for name in ("data", "transformer"):  # `python -m` searches the current folder first
    found = find_spec(name)
    folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    if Path(__file__).parents[1] / name not in folders:
        theirs = folders[0] if folders else found and found.origin
        raise ImportError(f"{theirs} shadows this project's package {name!r}: use the command `aiayn`", name=__name__)

import experiments.evaluation.task  # noqa: E402 - registers the tasks
import experiments.labels.task  # noqa: E402, F401 - those of labels
from experiments.presets import EXPERIMENTS, find  # noqa: E402
from experiments.translator import Translator  # noqa: E402

load = Translator.load

__all__ = ["EXPERIMENTS", "Translator", "find", "load"]
