"""English-French on Europarl only: about 5% of the paper's training data, and of another domain than its test set.

    python -m experiments train europarl-en-fr \
        --data.train-src europarl-v7.fr-en.en --data.train-tgt europarl-v7.fr-en.fr \
        --data.dev-src newstest2013.en --data.dev-tgt newstest2013.fr \
        --data.test-src newstest2014.en --data.test-tgt newstest2014.fr

For a machine without the disk space or the time for all of WMT14. `europarl-en-fr` is the paper's base model;
`europarl-en-fr-small` trains on a CPU in an hour or two, on a small fraction of the corpus, less than one epoch.
"""

from dataclasses import replace

from experiments.presets.paper import BASE
from transformer.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

NOTE = "Europarl only, about 5% of the paper's EN-FR data"

# Less than one epoch: no pair repeats, so there is no dropout. Pre-norm, since it learns from the first steps.
SMALL = Experiment(
    "europarl-en-fr-small",
    note=NOTE,
    model=ModelConfig(
        vocab_size=8000, num_layers=3, d_model=256, d_ff=1024, num_heads=4, d_k=64, d_v=64, dropout=0.0, norm="pre"
    ),
    data=DataConfig(corpus="files", languages="en-fr", vocab_size=8000, batch_tokens=2048),
    optimizer=OptimizerConfig(warmup_steps=1000),
    train=TrainConfig(steps=8000, eval_every=400, keep=5),
)

EXPERIMENTS = (
    Experiment(
        "europarl-en-fr",
        note=NOTE,
        model=replace(BASE, vocab_size=32_000, dtype="bfloat16"),
        data=DataConfig(corpus="files", languages="en-fr", vocab_size=32_000),
        train=TrainConfig(steps=30_000, eval_every=1500, keep=5),
    ),
    SMALL,
)
