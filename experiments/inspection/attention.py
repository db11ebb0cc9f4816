"""The attention weights of a sentence pair: by pieces or merged to words, as JSON and as a page (explorer.html)."""

import base64
import json
import re
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from experiments.sentences import Target
from experiments.translator import Attention, Translator
from transformer.config import UserError
from transformer.model import AttentionWeights

# A page grows with the square of the length: with this many tokens a base model's has 25 MB.
MAX_PIECES = 256

AXES = {"encoder": ("source", "source"), "decoder": ("target", "shifted"), "cross": ("target", "source")}
"""Whose pieces are the rows and the columns of a map. Row t of the target is the step that predicts piece t."""

FULL = 65535
"""A weight of 1 in the page, where each is an unsigned integer of 16 bits."""

_SPECIAL = {"<s>", "</s>"}
_BYTE = re.compile("<0x([0-9A-F]{2})>")  # a piece that spells one byte of a character without a piece


class Word(NamedTuple):
    """The pieces start, ..., stop - 1."""

    text: str
    start: int
    stop: int


class Pair(NamedTuple):
    """A sentence and its translation, the attention between them, and where it comes from."""

    sentence: str
    translation: str
    run: str
    experiment: str
    steps: list[int]
    """Of the checkpoints; several were averaged."""
    attention: Attention


def pair_of(translator: Translator, run: str, sentence: str, target: str | None) -> Pair:
    """All weights for a sentence and a target (None: its own translation), by the run of that name.

    UserError if either is longer than MAX_PIECES.
    """
    check_length(translator, "the sentence", sentence)
    given: Target
    if target is None:
        found = translator.n_best([sentence], 1)[0][0]
        target, given = found.text, found.pieces
    else:
        given = target
    check_length(translator, "the translation", given)
    attention = translator.attention(sentence, given)
    return Pair(sentence, target, run, translator.experiment.name, translator.steps, attention)


def check_length(translator: Translator, what: str, given: Target) -> None:
    """UserError for a text, or pieces, whose weights would not fit a page."""
    count = len(translator.encode([given])[0])
    if count > MAX_PIECES:
        raise UserError(f"{what} has {count} tokens; {MAX_PIECES} is the most whose attention is shown")


def words(pieces: list[str]) -> list[Word]:
    """The words that the pieces spell, in order, without a gap: "▁" begins one, BOS and EOS stand alone."""
    starts = [
        i
        for i, piece in enumerate(pieces)
        if i == 0 or piece.startswith("▁") or piece in _SPECIAL or pieces[i - 1] in _SPECIAL
    ]
    return [Word(spell(pieces[start:stop]), start, stop) for start, stop in pairwise([*starts, len(pieces)])]


def spell(pieces: list[str]) -> str:
    """The text of a word's pieces."""
    found = [(piece, _BYTE.fullmatch(piece)) for piece in pieces]
    text = b"".join(bytes.fromhex(byte[1]) if byte else piece.encode() for piece, byte in found)
    return text.decode(errors="replace").removeprefix("▁") or "▁"


def merge(weights: np.ndarray, rows: list[Word], columns: list[Word]) -> np.ndarray:
    """[..., pieces, pieces] -> [..., words, words] float32.

    A word is looked at as much as all its pieces are, and looks as its pieces do on average: so rows still sum to 1.
    """
    summed = np.add.reduceat(weights, [word.start for word in columns], axis=-1, dtype=np.float64)
    summed = np.add.reduceat(summed, [word.start for word in rows], axis=-2)
    return (summed / np.array([[word.stop - word.start] for word in rows])).astype(np.float32)


def merged(attention: Attention) -> Attention:
    """The same by words."""
    of = {axis: words(pieces) for axis, pieces in pieces_of(attention).items()}
    weights: dict[str, Any] = {
        name: merge(array, *(of[axis] for axis in AXES[name])) for name, array in attention.weights._asdict().items()
    }
    source, target = ([word.text for word in of[axis]] for axis in ("source", "target"))
    return Attention(source, target, AttentionWeights(**weights))


def pieces_of(attention: Attention) -> dict[str, list[str]]:
    """By axis. "shifted" is what stands at the decoder's own positions: the target shifted right (section 3.1)."""
    return {"source": attention.source, "target": attention.target, "shifted": ["<s>", *attention.target[:-1]]}


def telling(weights: np.ndarray) -> np.ndarray:
    """How much the row tells about the column that is looked at, in bits: [..., row, column] -> [...].

    The mutual information of the two: 0 of a head that looks everywhere alike, and of one that always looks at one
    place, be it EOS; log2(n) of one that looks from each of n rows at a place of its own.
    """
    return bits(weights.mean(axis=-2)) - bits(weights).mean(axis=-1)


def bits(weights: np.ndarray) -> np.ndarray:
    """The entropy of distributions along the last axis."""
    return -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(axis=-1)


def described(pair: Pair, by_words: bool) -> dict[str, Any]:
    """All but the weights, for JSON."""
    pieces = pieces_of(pair.attention)
    origin = {name: value for name, value in pair._asdict().items() if name != "attention"}
    return origin | {
        "unit": "words" if by_words else "pieces",
        "axes": AXES,
        "pieces": pieces,
        "words": {axis: [word._asdict() for word in words(found)] for axis, found in pieces.items()},
    }


def to_json(pair: Pair, by_words: bool) -> str:
    """A JSON object; "weights" has lists [layer, head, row, column] of the exact float32 numbers, of words if asked."""
    attention = merged(pair.attention) if by_words else pair.attention
    lists = {name: array.tolist() for name, array in attention.weights._asdict().items()}
    return json.dumps(described(pair, by_words) | {"weights": lists}) + "\n"


def to_page(pair: Pair, by_words: bool) -> str:
    """One HTML file that loads nothing else. It has the weights of the pieces, merges them itself, and begins so.

    It opens on the most telling head of the cross attention.
    """
    layers, heads = pair.attention.weights.cross.shape[:2]
    packed = {
        name: base64.b64encode(quantised(array).tobytes()).decode()
        for name, array in pair.attention.weights._asdict().items()
    }
    opens = {name: int(telling(array).argmax()) for name, array in pair.attention.weights._asdict().items()}
    sizes = {"layers": layers, "heads": heads, "full": FULL}
    data = described(pair, by_words) | sizes | {"opens": opens, "weights": packed}
    page = files("experiments.inspection").joinpath("explorer.html").read_text(encoding="utf-8")
    before, after = page.split("{{data}}")
    # json leaves ASCII alone; without "<" nothing in a text can end the script element that holds it.
    return before + json.dumps(data).replace("<", r"\u003c") + after


def quantised(weights: np.ndarray) -> np.ndarray:
    """[..., row, column] -> little-endian uint16, each row summing to FULL, each weight less than 1 / FULL off.

    All are rounded down, and what a row then lacks goes to those that lost most. A masked weight stays 0.
    """
    exact = weights.astype(np.float64)
    exact *= FULL / exact.sum(axis=-1, keepdims=True)
    floor = np.floor(exact)
    lacking = FULL - floor.sum(axis=-1, keepdims=True)
    order = np.argsort(floor - exact, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    return (floor + (rank < lacking)).astype("<u2")
