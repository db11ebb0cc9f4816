"""What a person runs: the experiments by name, and one module for each verb of `python -m experiments`."""

from difflib import get_close_matches

from experiments import demo, europarl, multi30k, paper, wmt14
from experiments.translator import Translator
from transformer.config import Experiment, UserError
from transformer.parts import Parts

EXPERIMENTS: Parts[Experiment] = Parts(
    "experiment",
    {
        experiment.name: experiment
        for module in (demo, multi30k, europarl, wmt14, paper)
        for experiment in module.EXPERIMENTS
    },
)

load = Translator.load


def find(name: str) -> Experiment:
    """The experiment of that name. UserError shows the nearest names there are."""
    if name not in EXPERIMENTS:
        nearest = get_close_matches(name, EXPERIMENTS, n=3) or sorted(EXPERIMENTS)
        raise UserError(f"unknown experiment {name!r}; did you mean: {', '.join(nearest)}?")
    return EXPERIMENTS[name]


__all__ = ["EXPERIMENTS", "Translator", "find", "load"]
