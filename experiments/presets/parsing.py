"""English constituency parsing, Table 4: the paper's models of section 6.3. They never change.

    python -m experiments prepare wsj --from-dir LDC99T42        # your own copy of the Penn Treebank
    python -m experiments train wsj
    python -m experiments evaluate wsj

| preset   | training text                               | paper's F1, section 23 |
|----------|---------------------------------------------|------------------------|
| wsj      | sections 2 to 21, 39,832 trees              | 91.3                   |
| wsj-semi | these, and 17 million sentences of parsers  | 92.7                   |

The paper says: 4 layers, d_model = 1024; 16,000 and 32,000 tokens; a beam of 21 and alpha = 0.3; outputs of at most 300
tokens more than the input; dropout, learning rates and beam chosen on section 22; everything else as in the base model.
It does not say dropout, learning rates or steps, nor what the targets are. Here:

- Targets are as Vinyals et al. (2015) have them, with normalised tags. Their symbols, about a hundred, are a vocabulary
  of their own; the 16,000 or 32,000 tokens are those of the sentences. (The authors' code has two vocabularies too.)
- Dropout is 0.2, also on the attention weights, and the warmup takes 16,000 steps for wsj: values from the authors'
  code. The number of steps is ours: 100,000, as for the base model.
- "As in the base model" leaves 8 heads and d_ff = 2048. Heads of 64 would be narrower than d_model / h = 128 (3.2.2),
  which is used here.
- The 17 million sentences were parsed by other parsers and are not public: wsj-semi reads yours, from the folder
  `silver` in the folder that is given to `prepare`.
"""

from dataclasses import replace
from typing import NamedTuple

from transformer.config import DataConfig, DecodeConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

WSJ = Experiment(
    "wsj",
    model=ModelConfig(
        vocab_size=128,
        source_vocab_size=16_000,
        tied="none",
        num_layers=4,
        d_model=1024,
        d_k=128,
        d_v=128,
        dropout=0.2,
        attention_dropout=0.2,
        dtype="bfloat16",
    ),
    data=DataConfig(
        task="parsing",
        corpus="wsj",
        vocabularies="separate",
        vocab_size=128,
        source_vocab_size=16_000,
        max_length=512,
        batch_tokens=25_000,
    ),
    optimizer=OptimizerConfig(warmup_steps=16_000),
    train=TrainConfig(eval_every=1500),
    decode=DecodeConfig(beam=21, alpha=0.3, extra_length=300),
)

WSJ_SEMI = replace(
    WSJ,
    name="wsj-semi",
    model=replace(WSJ.model, source_vocab_size=32_000, dropout=0.1, attention_dropout=0.0),
    data=replace(WSJ.data, corpus="wsj-semi", source_vocab_size=32_000),
    optimizer=OptimizerConfig(),
)

EXPERIMENTS = (WSJ, WSJ_SEMI)


class Parser(NamedTuple):
    """A row of Table 4: F1 on section 23 of the Wall Street Journal."""

    name: str
    training: str
    f1: float
    row: str | None = None
    """Name of the row that this code can reproduce; None for a parser by other authors."""


TABLE4 = (
    Parser("Vinyals & Kaiser et al. (2014)", "WSJ only, discriminative", 88.3),
    Parser("Petrov et al. (2006)", "WSJ only, discriminative", 90.4),
    Parser("Zhu et al. (2013)", "WSJ only, discriminative", 90.4),
    Parser("Dyer et al. (2016)", "WSJ only, discriminative", 91.7),
    Parser("Transformer (4 layers)", "WSJ only, discriminative", 91.3, "wsj"),
    Parser("Zhu et al. (2013)", "semi-supervised", 91.3),
    Parser("Huang & Harper (2009)", "semi-supervised", 91.3),
    Parser("McClosky et al. (2006)", "semi-supervised", 92.1),
    Parser("Vinyals & Kaiser et al. (2014)", "semi-supervised", 92.1),
    Parser("Transformer (4 layers)", "semi-supervised", 92.7, "wsj-semi"),
    Parser("Luong et al. (2015)", "multi-task", 93.0),
    Parser("Dyer et al. (2016)", "generative", 93.3),
)
