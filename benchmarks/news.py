"""Sentence pairs of random tokens with lengths like those of WMT14, for benchmarks that need no real text."""

import numpy as np

from data.batching import Batches, batch_plan
from data.tokens import Split, Tokens
from experiments.planning.plan import assumed_lengths
from transformer.config import EOS, UNK, DataConfig


def news(pairs: int, config: DataConfig) -> Split:
    """Generates `pairs` sentence pairs, each side ending with EOS."""
    chance = np.random.default_rng(0)

    def side(lengths: np.ndarray, pieces: int) -> Tokens:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = chance.integers(UNK + 1, pieces, offsets[-1], dtype=np.uint16)
        flat[offsets[1:] - 1] = EOS
        return Tokens(flat, offsets, pieces)

    return Split(*map(side, assumed_lengths(pairs, config.max_length), (config.source_pieces, config.vocab_size)))


def batches_of(split: Split, config: DataConfig) -> Batches:
    """Returns the training batches of a split."""
    return Batches(split, batch_plan(split, config, seed=0))
