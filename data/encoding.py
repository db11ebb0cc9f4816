"""Sentence pairs to arrays of ids, in chunks; a large corpus on several processes."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.text import Pair
from data.tokenizer import Tokenizer
from transformer.config import UserError

Ragged = tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]  # flat ids, and the length of each sentence

_CHUNK = 10_000  # pairs encoded at a time: a few MB
_PARALLEL_FROM = 200_000  # pairs; below, processes take longer to start than they save


class Chunk(NamedTuple):
    """Encoded pairs: (source, target), and how many were dropped as too long."""

    sides: tuple[Ragged, Ragged]
    too_long: int


@dataclass
class Counts:
    """What became of the pairs of one split."""

    read: int = 0
    blank: int = 0
    too_long: int = 0
    kept: int = 0
    source_tokens: int = 0
    target_tokens: int = 0

    def add(self, chunk: Chunk) -> None:
        (source, lengths), (target, _) = chunk.sides
        self.too_long += chunk.too_long
        self.kept += len(lengths)
        self.source_tokens += len(source)
        self.target_tokens += len(target)

    def __str__(self) -> str:
        dropped = f"{self.blank:,} blank and {self.too_long:,} too long dropped"
        return f"{self.kept:,} pairs, {self.source_tokens:,} + {self.target_tokens:,} tokens ({dropped})"


def encode_pairs(pairs: Iterator[Pair], tokenizer: Tokenizer, max_length: int | None) -> Iterator[Chunk]:
    """Encoded chunks, in order. Pairs with more than `max_length` ids on a side (with eos) are dropped."""
    head = list(islice(pairs, _PARALLEL_FROM))
    workers = os.cpu_count() or 1
    everything = chain(head, pairs)
    if len(head) < _PARALLEL_FROM or workers == 1:
        for chunk in _chunks(everything):
            yield _encode(tokenizer, chunk, max_length)
    else:
        yield from _encode_parallel(everything, tokenizer, max_length, workers)


def _chunks(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while chunk := list(islice(pairs, _CHUNK)):
        yield chunk


def _encode(tokenizer: Tokenizer, pairs: list[Pair], max_length: int | None) -> Chunk:
    both = [tokenizer.encode([pair[side] for pair in pairs]) for side in (0, 1)]
    rows = list(zip(*both, strict=True))
    kept = [row for row in rows if max_length is None or max(map(len, row)) <= max_length]
    return Chunk((_ragged([s for s, _ in kept]), _ragged([t for _, t in kept])), len(rows) - len(kept))


def _ragged(sentences: list[list[int]]) -> Ragged:
    flat = np.fromiter(chain.from_iterable(sentences), np.uint16)
    return flat, np.fromiter(map(len, sentences), np.int64, len(sentences))


# The tokenizer of a worker process, set once when it starts: it cannot travel with each chunk.
_worker: Tokenizer


def _start_worker(model: bytes) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    _worker = Tokenizer(model)


def _encode_in_worker(pairs: list[Pair], max_length: int | None) -> Chunk:
    return _encode(_worker, pairs, max_length)


def _encode_parallel(
    pairs: Iterator[Pair], tokenizer: Tokenizer, max_length: int | None, workers: int
) -> Iterator[Chunk]:
    """As one process would, in the same order, with a bounded number of chunks in memory."""
    # spawn: a fork of a process with threads (JAX has many) can hang
    context = multiprocessing.get_context("spawn")
    running: deque[Future[Chunk]] = deque()
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer.to_bytes(),)) as pool:
            for chunk in _chunks(pairs):
                running.append(pool.submit(_encode_in_worker, chunk, max_length))
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a tokenising process died: too little memory, or a script that calls prepare() outside of "
            'if __name__ == "__main__"'
        ) from error
