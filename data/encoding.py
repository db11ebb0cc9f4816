"""Encodes sentence pairs to arrays of ids, in chunks, using several processes for a large corpus."""

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.labels.targets import words_of
from data.text import Pair
from data.tokenizer import Tokenizer
from transformer.config import UNK, UserError, counted

Ragged = tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]  # concatenated ids, and the length of each sentence

_CHUNK = 10_000  # pairs encoded at a time: a few MB
_MOST_NAMED = 20  # characters without a piece that are listed: text in another script has thousands
_PARALLEL_FROM = 200_000  # pairs; below this, starting processes takes longer than it saves


_OF_DOCUMENTS = ("documents", "shortened")
"""Counts that text of single sentences does not have."""


class Chunk(NamedTuple):
    """Encoded pairs (source, target), the number dropped as too long, and characters without a piece on each side, or
    labels."""

    sides: tuple[Ragged, Ragged]
    too_long: int
    shortened: int
    """Number of examples of several sentences that are too long with all of them."""
    uncovered: tuple[Counter[str], Counter[str]]


@dataclass
class Counts:
    """Statistics of one split: pairs read, dropped and kept, tokens, and unknown tokens."""

    read: int = 0
    blank: int = 0
    too_long: int = 0
    documents: int = 0
    """Number of documents, if they matter (data.context)."""
    shortened: int = 0
    """Documents: number of examples with fewer sentences than data.context, as more would be too long."""
    kept: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    source_unknown: int = 0
    """Number of tokens that are <unk>."""
    target_unknown: int = 0
    source_uncovered: Counter[str] = field(default_factory=Counter)
    """Number of occurrences of each character without a piece in the vocabulary (Tokenizer.characters)."""
    target_uncovered: Counter[str] = field(default_factory=Counter)

    def add(self, chunk: Chunk) -> None:
        (source, lengths), (target, _) = chunk.sides
        self.too_long += chunk.too_long
        self.shortened += chunk.shortened
        self.kept += len(lengths)
        self.source_tokens += len(source)
        self.target_tokens += len(target)
        self.source_unknown += int((source == UNK).sum())
        self.target_unknown += int((target == UNK).sum())
        self.source_uncovered += chunk.uncovered[0]
        self.target_uncovered += chunk.uncovered[1]

    def facts(self) -> dict[str, Any]:
        """Returns the counts as JSON, with only the most frequent characters without a piece, in descending order."""
        known = {name: value for name, value in vars(self).items() if self.documents or name not in _OF_DOCUMENTS}
        return known | {
            f"{side}_uncovered": dict(vars(self)[f"{side}_uncovered"].most_common(_MOST_NAMED))
            for side in ("source", "target")
        }

    def __str__(self) -> str:
        dropped = f"{self.blank:,} blank and {self.too_long:,} too long dropped"
        said = f"{counted(self.kept, 'pair')}, {self.source_tokens:,} + {self.target_tokens:,} tokens ({dropped})"
        return said + (f", {counted(self.documents, 'document')}, {self.shortened:,} shortened" * bool(self.documents))


def encode_pairs(
    pairs: Iterator[Pair], tokenizer: Tokenizer, max_length: int | None, drop: bool = True
) -> Iterator[Chunk]:
    """Yields encoded chunks in order.

    A pair of several sentences with more than `max_length` ids on a side, EOS included, loses the first ones until it
    fits. A single sentence that does not fit is dropped.

    Args:
        drop: False: it is kept.
    """
    head = list(islice(pairs, _PARALLEL_FROM))
    workers = os.cpu_count() or 1
    everything = chain(head, pairs)
    if len(head) < _PARALLEL_FROM or workers == 1:
        for chunk in _chunks(everything):
            yield _encode(tokenizer, chunk, max_length, drop)
    else:
        yield from _encode_parallel(everything, tokenizer, max_length, drop, workers)


def _chunks(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while chunk := list(islice(pairs, _CHUNK)):
        yield chunk


Row = tuple[Pair, list[int], list[int]]
"""A pair of texts and its ids."""


def _encode(tokenizer: Tokenizer, pairs: list[Pair], max_length: int | None, drop: bool) -> Chunk:
    sides = (tokenizer.source, tokenizer)
    whole: list[Row] = list(zip(pairs, *tokenizer.encode_pairs(pairs), strict=True))
    if max_length is None:
        rows, shortened = whole, 0
    else:
        fitting = [_shortened(row, tokenizer, max_length) for row in whole]
        rows = [row for row in fitting if not drop or max(map(len, row[1:])) <= max_length]
        shortened = sum(len(row[1]) < len(before[1]) for row, before in zip(fitting, whole, strict=True))
    ragged = _ragged([source for _, source, _ in rows]), _ragged([target for _, _, target in rows])
    source, target = (_uncovered(each, (pair[side] for pair, _, _ in rows)) for side, each in enumerate(sides))
    return Chunk(ragged, len(pairs) - len(rows), shortened, (source, target))


def _shortened(row: Row, tokenizer: Tokenizer, max_length: int) -> Row:
    """Leaves out the first sentences of a pair until it fits, or one is left."""
    pair, source, target = row
    while max(len(source), len(target)) > max_length and "\n" in pair[0]:
        pair = pair[0].partition("\n")[2], pair[1].partition("\n")[2]
        assert tokenizer.source.separator is not None and tokenizer.separator is not None
        source = source[source.index(tokenizer.source.separator) + 1 :]
        target = target[target.index(tokenizer.separator) + 1 :]
    return pair, source, target


def _uncovered(tokenizer: Tokenizer, lines: Iterable[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    if tokenizer.labels_of:
        known = {*tokenizer.symbols}
        return Counter(label for line in lines for label in words_of(line) if label not in known)
    for line in () if tokenizer.of_trees else lines:  # whose symbols are not made of characters
        if missing := set(line) - tokenizer.characters:
            found.update(character for character in line if character in missing)
    return found


def _ragged(sentences: list[list[int]]) -> Ragged:
    flat = np.fromiter(chain.from_iterable(sentences), np.uint16)
    return flat, np.fromiter(map(len, sentences), np.int64, len(sentences))


# The tokenizer of a worker process, set once when the process starts: with each chunk, pickling would be slow.
_worker: Tokenizer


def _start_worker(tokenizer: Tokenizer) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main process stops the workers
    _worker = tokenizer


def _encode_in_worker(pairs: list[Pair], max_length: int | None, drop: bool) -> Chunk:
    return _encode(_worker, pairs, max_length, drop)


def _encode_parallel(
    pairs: Iterator[Pair], tokenizer: Tokenizer, max_length: int | None, drop: bool, workers: int
) -> Iterator[Chunk]:
    """Encodes with several processes, in the original order, with a bounded number of chunks in memory."""
    # spawn, because forking a process with threads (JAX starts many) can deadlock
    context = multiprocessing.get_context("spawn")
    running: deque[Future[Chunk]] = deque()
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer,)) as pool:
            for chunk in _chunks(pairs):
                running.append(pool.submit(_encode_in_worker, chunk, max_length, drop))
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a tokenizing process died: out of memory, or prepare() was called by a script outside of "
            'if __name__ == "__main__"'
        ) from error
