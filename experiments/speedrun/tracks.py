"""The tracks of the speedrun: a task, and what ends a run, a target or a budget.

A track with records does not change, or new records could not be compared with them. Its base is the paper's recipe
(section 5: post-norm, Adam, inverse square root schedule, label smoothing, averaged checkpoints) with a model of a size
that suits the corpus.
"""

from dataclasses import replace
from typing import NamedTuple

from data.corpora.corpus import SplitName
from experiments.presets.europarl import SMALL as EUROPARL
from experiments.presets.multi30k import TINY
from experiments.presets.wmt14 import EN_DE_BASE
from transformer.config import Experiment, UserError


class Track(NamedTuple):
    """A fixed task for all recipes."""

    what: str
    """What the track is for, in a sentence."""
    base: Experiment
    """The paper's recipe. Its `train.steps` are its budget, of which other recipes have `share`."""
    machine: str
    """Where seconds are measured."""
    share: float = 1.0
    """The budget of a run: this share of the FLOPs of the base. A recipe whose steps cost more has fewer of them."""
    stop_at: float | None = 0.0
    """BLEU of the greedy translation of the validation text at which a run stops. 0: it uses up its budget. None: not
    known before the base has been trained. The base never stops before its last step."""
    target: float = 0.0
    """BLEU that is to be reached on the text that is scored; no run ends there. 0: as much as possible."""
    split: SplitName = "test"
    """What is scored at the end: the test set, once, or the validation text where recipes are compared."""
    files: tuple[str, str, str] | None = None
    """Names of the files of train, dev and test without the languages at their ends, of a corpus of one's own text."""


CORES = "two cores of an x86 CPU"

# At the paper's learning rate one of two seeds failed (experiments/results/README.md): this is half of it.
MULTI30K = replace(
    TINY,
    model=replace(TINY.model, norm="post"),
    optimizer=replace(TINY.optimizer, warmup_steps=1000, scale=0.5),
    train=replace(TINY.train, eval_every=500, keep=5),
)

TRACKS = {
    "multi30k": Track(
        "What the paper's recipe reaches on Multi30k English-German in 10,000 steps, in less training.",
        MULTI30K,
        CORES,
        stop_at=34.6,  # the mean over the three seeds of the base, after its last step
    ),
    "multi30k-quarter": Track(
        "Recipes compared at equal cost: a quarter of the FLOPs of the paper's recipe, scored on the validation text.",
        MULTI30K,
        CORES,
        share=0.25,
        split="dev",
    ),
    "europarl-1h": Track(
        "The best English-French model of an hour: Europarl, scored on newstest2014.",
        replace(
            EUROPARL,
            model=replace(EUROPARL.model, norm="post"),
            train=replace(EUROPARL.train, steps=3600, eval_every=300),
        ),
        CORES,
        files=("europarl-v7.fr-en", "newstest2013", "newstest2014"),
    ),
    "wmt14-base": Track(
        "The paper's base model on WMT14 English-German: BLEU 26.0 on newstest2014 in a quarter of its FLOPs.",
        EN_DE_BASE,
        "one H100",
        share=0.25,
        target=26.0,
    ),
}


def find_track(name: str) -> Track:
    """Returns a track. UserError names those that there are."""
    if name not in TRACKS:
        raise UserError(f"unknown track {name!r}; the tracks are: {', '.join(TRACKS)}")
    return TRACKS[name]
