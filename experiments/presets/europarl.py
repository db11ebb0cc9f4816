"""English-French on Europarl alone: about 5% of the text that the paper trained on, and of another kind than its test.

    python -m experiments train europarl-en-fr \
        --data.train-src europarl-v7.fr-en.en --data.train-tgt europarl-v7.fr-en.fr \
        --data.dev-src newstest2013.en --data.dev-tgt newstest2013.fr \
        --data.test-src newstest2014.en --data.test-tgt newstest2014.fr

For a machine that has no room or no time for all of WMT14. `europarl-en-fr` is the paper's base model;
`europarl-en-fr-small` is what a CPU can train in an hour or two, and sees a small part of the text once.
"""

from dataclasses import replace

from experiments.presets.paper import BASE
from transformer.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

NOTE = "Europarl only, about 5% of the paper's EN-FR data"

EXPERIMENTS = (
    Experiment(
        "europarl-en-fr",
        note=NOTE,
        model=replace(BASE, vocab_size=32_000, dtype="bfloat16"),
        data=DataConfig(corpus="files", languages="en-fr", vocab_size=32_000),
        train=TrainConfig(steps=30_000, eval_every=1500, keep=5),
    ),
    # Less than an epoch: nothing repeats, so nothing is dropped out; pre-norm, which learns from the first steps on.
    Experiment(
        "europarl-en-fr-small",
        note=NOTE,
        model=ModelConfig(
            vocab_size=8000, num_layers=3, d_model=256, d_ff=1024, num_heads=4, d_k=64, d_v=64, dropout=0.0, norm="pre"
        ),
        data=DataConfig(corpus="files", languages="en-fr", vocab_size=8000, batch_tokens=2048),
        optimizer=OptimizerConfig(warmup_steps=1000),
        train=TrainConfig(steps=8000, eval_every=400, keep=5),
    ),
)
