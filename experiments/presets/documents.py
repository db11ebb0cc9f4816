"""Two models of documents whose pronouns need the sentence before: one that has it, and one that has not.

    python -m experiments train documents
    python -m experiments contrast documents

They differ in data.context alone. The corpus is generated (data/grammar/documents.py).
"""

from dataclasses import replace

from experiments.presets.demo import EXPERIMENTS as DEMO
from transformer.config import Experiment

_DEMO = DEMO[0]
_ALONE = replace(
    _DEMO,
    name="documents-alone",
    data=replace(_DEMO.data, corpus="grammar-documents"),
    train=replace(_DEMO.train, steps=600),
)
_TOGETHER = replace(_ALONE, name="documents", data=replace(_ALONE.data, context=2))

EXPERIMENTS: tuple[Experiment, ...] = (_TOGETHER, _ALONE)
