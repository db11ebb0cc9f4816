"""Multi30k: 29,000 image captions in English, German and French (Elliott et al., 2016).

    python -m experiments train multi30k-tiny
    python -m experiments evaluate multi30k-tiny

Scored on test_2016_flickr, 1,000 lines, cased and detokenised. The score, hardware and hours of each preset are in
experiments/results/.
"""

from dataclasses import replace

from transformer.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

# Designed for a CPU: 40 minutes on two cores. Small batches, since on a CPU an update costs little compared with
# processing its tokens. Pre-norm, since it learns from the first epoch, while post-norm spends three warming up
# (validation perplexity per token after 800 steps: 20 and 52).
TINY = Experiment(
    "multi30k-tiny",
    model=ModelConfig(
        vocab_size=4000, num_layers=4, d_model=128, d_ff=512, num_heads=4, d_k=32, d_v=32, dropout=0.15, norm="pre"
    ),
    data=DataConfig(corpus="multi30k-en-de", vocab_size=4000, batch_tokens=1024),
    optimizer=OptimizerConfig(warmup_steps=400),
    train=TrainConfig(steps=10_000, eval_every=400, keep=6),
)

# The best of this family on 29k pairs: a wider model, trained for longer with strong dropout.
MULTI30K = replace(
    TINY,
    name="multi30k",
    model=replace(TINY.model, num_layers=4, d_model=256, d_ff=1024, d_k=64, d_v=64, dropout=0.3),
    data=replace(TINY.data, batch_tokens=2048),
    optimizer=OptimizerConfig(warmup_steps=1000),
    train=TrainConfig(steps=20_000, eval_every=500, keep=10),
)

# All tokens of a translation at once (transformer/variants/mask_predict.py).
# The validation loss is that of one iteration.
MASK_PREDICT = replace(
    TINY,
    name="multi30k-tiny-mask-predict",
    model=replace(TINY.model, architecture="mask-predict"),
    train=replace(TINY.train, loss="mask_predict"),
    # All pieces that a translation may have are computed, and lengths are predicted: 50 more would be wasted.
    decode=replace(TINY.decode, extra_length=12),
)

EXPERIMENTS = (
    TINY,
    MASK_PREDICT,
    replace(TINY, name="multi30k-tiny-en-fr", data=replace(TINY.data, corpus="multi30k-en-fr")),
    MULTI30K,
    replace(MULTI30K, name="multi30k-en-fr", data=replace(MULTI30K.data, corpus="multi30k-en-fr")),
)
