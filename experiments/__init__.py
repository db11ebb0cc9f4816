"""What a person runs: published experiments, and the way from text to a scored model, one room for each stage.

    presets     the published experiments, and in what any other one differs from the paper
    evaluation  metrics, test sets, records, comparison
    inspection  attention weights, heads, figures, the invariants that every model keeps
    training    the loop, what it shows, and what guards it
    planning    before a run: what it is, takes and costs
    tables      the paper's tables, trained, scored and rendered
    cli         `python -m experiments VERB`

Here stand what all of them share: the registry of replaceable parts, work directories, and a trained model as a
`Translator`. A room imports from those before it in this list, and never from those after it.
"""

from importlib.util import find_spec
from pathlib import Path

for name in ("data", "transformer"):  # `python -m` looks for them in the current folder first
    found = find_spec(name)
    folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    if Path(__file__).parents[1] / name not in folders:
        theirs = folders[0] if folders else found and found.origin
        raise ImportError(f"{theirs} hides this package's own {name!r}: use the command `aiayn`", name=__name__)

from experiments.presets import EXPERIMENTS, find  # noqa: E402
from experiments.translator import Translator  # noqa: E402

load = Translator.load

__all__ = ["EXPERIMENTS", "Translator", "find", "load"]
