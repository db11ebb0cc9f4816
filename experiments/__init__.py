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

from experiments.presets import EXPERIMENTS, find
from experiments.translator import Translator

load = Translator.load

__all__ = ["EXPERIMENTS", "Translator", "find", "load"]
