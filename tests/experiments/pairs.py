"""Sentence pairs with random attention weights, for tests without a trained model."""

import numpy as np

from experiments.inspection.attention import Pair
from experiments.translator import Attention
from transformer.model import AttentionWeights


def softmax(scores: np.ndarray) -> np.ndarray:
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (exps / exps.sum(axis=-1, keepdims=True)).astype(np.float32)


def make_pair(source: list[str], target: list[str], layers: int = 2, heads: int = 3, **texts: str) -> Pair:
    """Returns a pair with these pieces, EOS included, and random weights, causal in the decoder."""
    random = np.random.default_rng(0)
    S, T = len(source), len(target)
    causal = np.where(np.tri(T, dtype=bool), 0.0, -np.inf)
    weights = AttentionWeights(
        encoder=softmax(3 * random.normal(size=(layers, heads, S, S))),
        decoder=softmax(3 * random.normal(size=(layers, heads, T, T)) + causal),
        cross=softmax(3 * random.normal(size=(layers, heads, T, S))),
    )
    texts = {"sentence": "the sentence", "translation": "its translation", "run": "a-run", "experiment": "x"} | texts
    return Pair(**texts, steps=[20, 30], attention=Attention(source, target, weights))
