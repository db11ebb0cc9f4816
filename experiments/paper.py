"""The paper's models (Table 3), as differences from base.

    python -m experiments train base --data.train-src ... --data.train-tgt ... --data.dev-src ... --data.dev-tgt ...

trains the base model on text of your own. The published parameter counts come out with an embedding of
40,960 rows, which is what the authors' code made for a vocabulary of 37,000 pieces.
"""

from dataclasses import replace

from transformer.config import DataConfig, Experiment, ModelConfig, TrainConfig

BASE = ModelConfig(vocab_size=40_960)
BIG = replace(BASE, d_model=1024, d_ff=4096, num_heads=16, dropout=0.3)

TABLE3: dict[str, ModelConfig] = {
    "base": BASE,
    "A-h1": replace(BASE, num_heads=1, d_k=512, d_v=512),
    "A-h4": replace(BASE, num_heads=4, d_k=128, d_v=128),
    "A-h16": replace(BASE, num_heads=16, d_k=32, d_v=32),
    "A-h32": replace(BASE, num_heads=32, d_k=16, d_v=16),
    "B-dk16": replace(BASE, d_k=16),
    "B-dk32": replace(BASE, d_k=32),
    "C-N2": replace(BASE, num_layers=2),
    "C-N4": replace(BASE, num_layers=4),
    "C-N8": replace(BASE, num_layers=8),
    "C-d256": replace(BASE, d_model=256, d_k=32, d_v=32),
    "C-d1024": replace(BASE, d_model=1024, d_k=128, d_v=128),
    "C-dff1024": replace(BASE, d_ff=1024),
    "C-dff4096": replace(BASE, d_ff=4096),
    "D-drop0.0": replace(BASE, dropout=0.0),
    "D-drop0.2": replace(BASE, dropout=0.2),
    "E-learned": replace(BASE, positions="learned"),
    "big": BIG,
}
"""The models of Table 3. Two more rows of D change the label smoothing, which is no part of the model."""

EXPERIMENTS = (
    Experiment("base", model=BASE, data=DataConfig(corpus="files")),
    Experiment("big", model=BIG, data=DataConfig(corpus="files"), train=TrainConfig(steps=300_000)),
    # For a first try on text of your own: trains on a laptop, wants 10,000 pairs or more.
    Experiment(
        "small",
        model=ModelConfig(vocab_size=8000, num_layers=3, d_model=256, d_ff=1024, num_heads=4, d_k=64, d_v=64),
        data=DataConfig(corpus="files", vocab_size=8000, batch_tokens=4096, num_shapes=6),
        train=TrainConfig(steps=10_000, eval_every=500),
    ),
)
