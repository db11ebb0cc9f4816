"""Classification and tagging: the encoder with a head (transformer/variants/classifier.py), on texts anyone can have.

    python -m experiments train generated-classes
    python -m experiments evaluate generated-classes --peer

| preset            | text                                                | labels                   |
|-------------------|-----------------------------------------------------|--------------------------|
| generated-tags    | generated sentences, no download                    | part of speech of words  |
| generated-classes | generated sentences, no download                    | what a sentence is about |
| wsj-craft-pos     | the sample of the Penn Treebank, and most of CRAFT  | part of speech of words  |

The scores, hardware and hours are in experiments/results/classification.
"""

from dataclasses import replace

from experiments.presets.multi30k import TINY as MULTI30K_TINY
from transformer.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

# Half a minute on a CPU: small enough for a test.
TAGS = Experiment(
    "generated-tags",
    model=ModelConfig(
        architecture="tagger",
        vocab_size=32,
        source_vocab_size=400,
        tied="target",
        num_layers=2,
        decoder_layers=0,
        d_model=64,
        d_ff=256,
        num_heads=4,
        d_k=16,
        d_v=16,
    ),
    data=DataConfig(
        task="tagging",
        corpus="generated-tags",
        vocabularies="separate",
        vocab_size=32,
        source_vocab_size=400,
        max_length=64,
        batch_tokens=2048,
    ),
    optimizer=OptimizerConfig(warmup_steps=200),
    train=TrainConfig(steps=400, log_every=50, eval_every=100, keep=2, label_smoothing=0.0),
)

CLASSES = replace(
    TAGS,
    name="generated-classes",
    model=replace(TAGS.model, architecture="classifier"),
    data=replace(TAGS.data, task="classification", corpus="generated-classes"),
    train=replace(TAGS.train, steps=1000, eval_every=200),
)

# Half of the encoder of multi30k-tiny, designed for a CPU: half an hour on one core.
WSJ_CRAFT_POS = replace(
    TAGS,
    name="wsj-craft-pos",
    model=replace(
        MULTI30K_TINY.model,
        architecture="tagger",
        vocab_size=96,
        source_vocab_size=8000,
        tied="target",
        num_layers=2,
        decoder_layers=0,
    ),
    data=replace(
        TAGS.data, corpus="wsj-craft-tags", vocab_size=96, source_vocab_size=8000, max_length=256, batch_tokens=2048
    ),
    optimizer=MULTI30K_TINY.optimizer,
    train=replace(TAGS.train, steps=4000, log_every=100, eval_every=500, keep=3),
)

EXPERIMENTS = (TAGS, CLASSES, WSJ_CRAFT_POS)
