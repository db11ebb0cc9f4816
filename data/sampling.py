"""Subword regularization: training sentences are split into other pieces in each epoch (BPE-dropout, unigram sampling).

The pieces of an epoch depend only on the seed and the number of the epoch, so that a resumed run sees the same ones.
All epochs have the same number of batches, and the step number alone still determines the position in the data.
"""

import math
import threading
from dataclasses import replace

import numpy as np

from data.batching import BatchPlan, Epoch, batch_plan, make_shape
from data.curriculum import CurriculumPlan
from data.dataset import SIDES, PreparedData
from data.tokenizer import Tokenizer
from data.tokens import Split, Tokens
from transformer.config import UNK, DataConfig

_CHUNK = 10_000  # sentences drawn at a time
_SLACK = 1.02  # rows that all epochs have room for, as a multiple of those of the first one
_FEW = 10  # so many batches or fewer are not one more for that room: an epoch may leave out a few rows instead


class SampledPlan(BatchPlan):
    """The plan of batches whose sentences are encoded anew in each epoch.

    Rows are as wide as the first epoch needs. A sentence that would be longer than data.max_length, or than a row,
    keeps its most probable pieces, and so does one with an unknown character, whose text the ids do not have. The rows
    of an epoch are divided evenly over its batches; if there were more than fit, the last ones would be left out of
    that epoch, and if there were fewer than batches, the first ones would be repeated.
    """

    seed: int

    def __init__(self, split: Split, tokenizer: Tokenizer, config: DataConfig, seed: int) -> None:
        self._split, self._rate, self.seed = split, config.subword_sampling, seed
        self._tokenizers = tokenizer.source, tokenizer
        self._lock = threading.Lock()
        self._longest = config.max_length
        first = self._sample(0, (self._longest, self._longest))
        lengths = [np.maximum(split.lengths(side), first.lengths(side)) for side in SIDES]
        shape = make_shape(lengths[0], lengths[1], config.batch_tokens)
        super().__init__(first.lengths("source"), first.lengths("target"), shape, seed)
        rows = len(self._starts) - 1
        enough = math.ceil(_SLACK * rows)
        count = -(-enough // shape.rows)
        # A batch for the slack alone makes the others smaller: where there is one, half as large.
        if count > -(-rows // shape.rows) and count <= _FEW:
            count -= 1
        self._count = min(rows, count)
        even = -(-enough // self._count)
        self.shape = shape._replace(rows=min(shape.rows, -(-even // 8) * 8))
        # The other epochs are encoded when they are needed; this one is encoded already.
        self._known = {0: self._divided(super().epoch(0), first)}

    def __len__(self) -> int:
        return self._count

    def epoch(self, number: int) -> Epoch:
        """Returns the batches of an epoch, and encodes the next one in the background."""
        found = self._encoded(number)
        # Not a daemon: at the end of a program, Python stops those inside of sentencepiece, which aborts the process.
        threading.Thread(target=self._encode_ahead, args=(number + 1,)).start()
        return found

    def _encode_ahead(self, number: int) -> None:
        """Encodes an epoch, unless the program ends meanwhile: no sentences are drawn from then on."""
        try:
            self._encoded(number)
        except RuntimeError:  # of the executor in Tokenizer.sample
            if threading.main_thread().is_alive():
                raise

    def _encoded(self, number: int) -> Epoch:
        with self._lock:
            if number not in self._known:
                longest = min(self._longest, self.shape.source), min(self._longest, self.shape.target)
                split = self._sample(number, longest)
                plan = BatchPlan(split.lengths("source"), split.lengths("target"), self.shape, self.seed)
                recent = {n: known for n, known in self._known.items() if abs(n - number) <= 1}
                self._known = recent | {number: self._divided(plan.epoch(number), split)}
            return self._known[number]

    def _divided(self, epoch: Epoch, split: Split) -> Epoch:
        """Divides the rows of an epoch evenly over the batches that all epochs have."""
        order = epoch.order[: len(self) * self.shape.rows]
        order = np.resize(order, max(len(order), len(self)))  # no batch is empty
        cuts = np.arange(len(self) + 1) * len(order) // len(self)
        return replace(epoch, order=order, cuts=cuts, split=split)

    def _sample(self, number: int, longest: tuple[int, int]) -> Split:
        """Returns the sentences as they are encoded in an epoch, each of at most `longest` tokens a side."""
        source = self._sample_side(self._split.source, self._tokenizers[0], longest[0], (number, 0))
        target = self._sample_side(self._split.target, self._tokenizers[1], longest[1], (number, 1))
        return Split(source, target)

    def _sample_side(self, tokens: Tokens, tokenizer: Tokenizer, longest: int, place: tuple[int, int]) -> Tokens:
        flat, lengths = [], []
        for start in range(0, len(tokens), _CHUNK):
            usual = [tokens[i].tolist() for i in range(start, min(start + _CHUNK, len(tokens)))]
            seed = np.random.SeedSequence([self.seed, *place, start]).generate_state(1)[0]
            drawn = tokenizer.sample(tokenizer.decode(usual), self._rate, int(seed))
            for ids, other in zip(usual, drawn, strict=True):
                chosen = ids if UNK in ids or len(other) > longest else other
                flat.append(np.array(chosen, np.uint16))
                lengths.append(len(chosen))
        return Tokens(np.concatenate(flat), np.concatenate([[0], np.cumsum(lengths)]), tokenizer.size)


def training_plan(data: PreparedData, config: DataConfig, seed: int) -> BatchPlan:
    """Plans the batches of the training text: with sampled subwords (data.subword_sampling), or from short sentences to
    long ones (data.curriculum)."""
    if config.subword_sampling:
        return SampledPlan(data.train, data.tokenizer, config, seed)
    if config.curriculum:
        lengths = data.train.lengths("source"), data.train.lengths("target")
        return CurriculumPlan(*lengths, make_shape(*lengths, config.batch_tokens), seed, config.curriculum)
    return batch_plan(data.train, config, seed)
