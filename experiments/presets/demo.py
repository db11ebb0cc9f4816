"""`make demo`: train, translate and score on the embedded corpus, in minutes on a laptop's CPU.

    python -m experiments demo

The expected BLEU is 90 or more. This is a property of the corpus, a small artificial grammar (data/grammar/), and says
nothing about translating real text.
"""

from transformer.config import DataConfig, DecodeConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

EXPERIMENTS = (
    Experiment(
        "demo",
        model=ModelConfig(
            vocab_size=1000, num_layers=2, d_model=128, d_ff=512, num_heads=4, d_k=32, d_v=32, dropout=0.0
        ),
        data=DataConfig(corpus="grammar", vocab_size=1000, max_length=64, batch_tokens=2048),
        optimizer=OptimizerConfig(warmup_steps=300),
        train=TrainConfig(steps=1200, log_every=50, eval_every=200, keep=3),
        decode=DecodeConfig(batch_size=128),
    ),
)
