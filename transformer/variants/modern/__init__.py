"""What is usual in a Transformer today and was not in 2017, each part with its source and the setting that selects it.

rotary        queries and keys are rotated by their positions                  (model.positions rotary)
rms_norm      layer normalization without the mean                             (model.norm_type rms)
qk_norm       queries and keys of length 1, with a learned scale               (model.attention qk-norm)
gated         a gate in the feed-forward network: SwiGLU, GEGLU                (model.feed_forward gated)
r_drop        two passes with different dropout, which should agree            (train.loss r_drop)
wsd           learning rates: warmup, constant, then linear to zero            (optimizer.schedule wsd)
muon          the updates of matrices are made orthogonal                      (optimizer.name muon)
schedule_free an average of the parameters in place of a decaying rate         (optimizer.name schedule_free)
"""

from transformer.variants.modern import gated, muon, qk_norm, r_drop, rms_norm, rotary, schedule_free, wsd

__all__ = ["gated", "muon", "qk_norm", "r_drop", "rms_norm", "rotary", "schedule_free", "wsd"]
