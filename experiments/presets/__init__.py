"""The published experiments by name, and how any other experiment differs from the paper.

A preset that reproduces a published number never changes: a new idea gets a new name.
"""

from difflib import get_close_matches

from experiments.presets import demo, documents, europarl, labels, modern, multi30k, paper, parsing, wmt14, wsj_craft
from transformer.config import Experiment, UserError
from transformer.registry import Registry

EXPERIMENTS: Registry[Experiment] = Registry(
    "experiment",
    {
        experiment.name: experiment
        for module in (demo, documents, multi30k, modern, europarl, wsj_craft, labels, wmt14, parsing, paper)
        for experiment in module.EXPERIMENTS
    },
)


def find(name: str) -> Experiment:
    """Returns the experiment with this name. UserError lists similar names."""
    if name not in EXPERIMENTS:
        nearest = get_close_matches(name, EXPERIMENTS, n=3) or sorted(EXPERIMENTS)
        raise UserError(f"unknown experiment {name!r}; did you mean: {', '.join(nearest)}?")
    return EXPERIMENTS[name]


__all__ = ["EXPERIMENTS", "find"]
