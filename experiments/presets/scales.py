"""The scales at which the paper's tables can be run.

For each language pair, a scale has the base that the rows of Tables 2 and 3 change; for Table 4, the two parsers.

"smoke" checks that everything works, in minutes on a CPU, on generated text: both pairs use the English-German grammar.
"small" is a real experiment, in hours on a CPU: do the paper's findings hold for a model a hundred times smaller? It
uses Multi30k, a sample of the Penn Treebank, and CRAFT instead of sentences that parsers have annotated. "long", for
Table 3 only, has the model of "small" and four times its steps: after those of "small", what is compared is how fast
models learn. None of them reproduces the paper's numbers.
"""

from dataclasses import replace

from experiments.presets.parsing import WSJ, WSJ_SEMI
from experiments.presets.wmt14 import EN_DE_BASE, EN_FR_BASE
from experiments.presets.wsj_craft import SAMPLE, TINY
from transformer.config import DataConfig, DecodeConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

# The paper's proportions: d_ff = 4 d_model, 8 heads; 3 layers, so that thirds of them are integers.
SMALL = Experiment(
    "small-en-de-base",
    model=ModelConfig(vocab_size=2000, num_layers=3, d_model=64, d_ff=256, d_k=8, d_v=8),
    data=DataConfig(corpus="multi30k-en-de", vocab_size=2000, max_length=64, batch_tokens=1024),
    optimizer=OptimizerConfig(warmup_steps=600),
    train=TrainConfig(steps=2000, eval_every=400, keep=5, log_every=200),
)
SMALL_FRENCH = replace(SMALL, name="small-en-fr-base", data=replace(SMALL.data, corpus="multi30k-en-fr"))
LONG = replace(SMALL, name="long-en-de-base", train=replace(SMALL.train, steps=8000, eval_every=1600))

SMOKE = replace(
    SMALL,
    name="smoke-en-de-base",
    model=replace(SMALL.model, vocab_size=400, d_model=32, d_ff=64, d_k=4, d_v=4),
    data=DataConfig(corpus="grammar", train_pairs=2000, vocab_size=400, max_length=64, batch_tokens=512),
    optimizer=OptimizerConfig(warmup_steps=50),
    train=TrainConfig(steps=100, eval_every=20, keep=5, log_every=50),
    decode=DecodeConfig(extra_length=5, batch_size=256),
)
SMOKE_FRENCH = replace(SMOKE, name="smoke-en-fr-base")

# Four times the trees, as the semi-supervised parser has more of them.
SMOKE_TREES = replace(
    SAMPLE,
    name="smoke-wsj",
    model=replace(SAMPLE.model, source_vocab_size=200, vocab_size=64, num_layers=2, d_model=32, d_ff=64, d_k=8, d_v=8),
    data=replace(
        SAMPLE.data, corpus="generated-trees", train_pairs=1000, source_vocab_size=200, vocab_size=64, batch_tokens=1024
    ),
    optimizer=OptimizerConfig(warmup_steps=50),
    train=replace(SMOKE.train, steps=400, log_every=100),
    decode=replace(SAMPLE.decode, extra_length=40, batch_size=256),
)
SMOKE_MORE_TREES = replace(SMOKE_TREES, name="smoke-wsj-semi", data=replace(SMOKE_TREES.data, train_pairs=4000))

SCALES: dict[str, dict[str, Experiment]] = {
    "paper": {"en-de": EN_DE_BASE, "en-fr": EN_FR_BASE, "wsj": WSJ, "wsj-semi": WSJ_SEMI},
    "long": {"en-de": LONG},
    "small": {"en-de": SMALL, "en-fr": SMALL_FRENCH, "wsj": SAMPLE, "wsj-semi": TINY},
    "smoke": {"en-de": SMOKE, "en-fr": SMOKE_FRENCH, "wsj": SMOKE_TREES, "wsj-semi": SMOKE_MORE_TREES},
}
