"""Constituency parsing on text that anyone can download: the sample of the Penn Treebank, and CRAFT.

    python -m experiments train wsj-craft-tiny
    python -m experiments evaluate wsj-craft-tiny
    python -m experiments evaluate wsj-craft-tiny --test-set craft

The sample has a thirteenth of the trees that the paper's parsers are trained on. Ten times as many come from CRAFT:
articles about biology, whose trees have the same style. Scored on files 160 to 199 of the sample, 518 trees, and on
four articles of CRAFT, 1,531 trees. (Of these, 140 sentences are in the training text too: headings of sections, such
as "Results", and others that recur.) The scores, hardware and hours are in experiments/results/.
"""

from dataclasses import replace

from experiments.presets.multi30k import TINY as MULTI30K_TINY
from experiments.presets.parsing import WSJ
from transformer.config import TrainConfig

# The model of multi30k-tiny, designed for a CPU. With tags, since the symbol XX is the same for every word, and with so
# little text the model hardly learns to keep its place in the sentence (F1 after 2,400 steps: 18, with tags 29).
TINY = replace(
    WSJ,
    name="wsj-craft-tiny",
    model=replace(MULTI30K_TINY.model, vocab_size=160, source_vocab_size=8000, tied="none"),
    data=replace(
        WSJ.data,
        task="tagged-parsing",
        corpus="wsj-craft",
        vocab_size=160,
        source_vocab_size=8000,
        max_length=256,
        batch_tokens=2048,
    ),
    optimizer=MULTI30K_TINY.optimizer,
    train=TrainConfig(steps=8000, eval_every=400, keep=5),
    decode=replace(WSJ.decode, beam=4),
)

# The sample alone: a tenth of the trees, for about as many epochs.
SAMPLE = replace(
    TINY,
    name="wsj-sample-tiny",
    data=replace(TINY.data, corpus="wsj-sample"),
    train=replace(TINY.train, steps=1200, eval_every=120),
)

EXPERIMENTS = (TINY, SAMPLE)
