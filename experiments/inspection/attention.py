"""The attention weights of a sentence pair, by subword pieces or by words, as JSON and as an HTML page."""

import base64
import json
import re
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from experiments.inspection.saliency import MEASURES, saliency_of
from experiments.sentences import Target
from experiments.translator import Attention, Translator
from transformer.config import UserError
from transformer.model import AttentionWeights

# The size of a page grows with the square of the length: 25 MB for the base model and this many tokens.
MAX_PIECES = 256

AXES = {"encoder": ("source", "source"), "decoder": ("target", "shifted"), "cross": ("target", "source")}
"""The pieces of the rows and the columns of each kind of weights. Row t of the target predicts piece t."""

_MAPS = AXES | {"saliency": ("target", "source")}
"""The same of everything that is shown."""

FULL = 65535
"""The value of weight 1 in the page, which stores weights as unsigned 16-bit integers."""

_SPECIAL = {"<s>", "</s>"}
_BYTE = re.compile("<0x([0-9A-F]{2})>")  # a piece for one byte of a character that has no piece of its own


class Word(NamedTuple):
    """A word, spelled by the pieces start, ..., stop - 1."""

    text: str
    start: int
    stop: int


class Pair(NamedTuple):
    """A sentence and its translation, their attention weights, and the run and checkpoints that produced them."""

    sentence: str
    translation: str
    run: str
    experiment: str
    steps: list[int]
    """Steps of the checkpoints; several were averaged."""
    attention: Attention
    shares: np.ndarray | None = None
    """Of labels: the share of each source token in each label (experiments.inspection.saliency), [1, 2, T, S]."""

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """What the maps show, [layer, head, row, column] each: attention weights and, of labels, first the shares."""
        of_layers = {name: array for name, array in self.attention.weights._asdict().items() if len(array)}
        return of_layers if self.shares is None else {"saliency": self.shares} | of_layers


def pair_of(translator: Translator, run: str, sentence: str, target: str | None) -> Pair:
    """Computes all attention weights for a sentence and a target. None: the model's own translation.

    UserError if either has more than MAX_PIECES tokens.
    """
    check_length("the sentence", translator.encode([sentence], translator.tokenizer.source)[0])
    if translator.tokenizer.labels_of:
        found_labels = saliency_of(translator, sentence, target)
        labels = " ".join(piece.removeprefix("▁") for piece in found_labels.attention.target)
        origin = run, translator.experiment.name, translator.steps
        return Pair(sentence, labels, *origin, found_labels.attention, found_labels.shares)
    given: Target
    if target is None:
        found = translator.n_best([sentence], 1)[0][0]
        target, given = found.text, found.pieces
    else:
        given = target
    check_length("the translation", translator.encode([given])[0])
    attention = translator.attention(sentence, given)
    return Pair(sentence, target, run, translator.experiment.name, translator.steps, attention)


def check_length(what: str, ids: list[int]) -> None:
    """Raises UserError for more than MAX_PIECES tokens."""
    if len(ids) > MAX_PIECES:
        raise UserError(f"{what} has {len(ids)} tokens; {MAX_PIECES} is the most whose attention is shown")


def words(pieces: list[str]) -> list[Word]:
    """Groups consecutive pieces into words: a piece with "▁" starts a word; BOS and EOS are words of their own."""
    starts = [
        i
        for i, piece in enumerate(pieces)
        if i == 0 or piece.startswith("▁") or piece in _SPECIAL or pieces[i - 1] in _SPECIAL
    ]
    return [Word(spell(pieces[start:stop]), start, stop) for start, stop in pairwise([*starts, len(pieces)])]


def spell(pieces: list[str]) -> str:
    """Returns the text that the pieces of a word spell."""
    found = [(piece, _BYTE.fullmatch(piece)) for piece in pieces]
    text = b"".join(bytes.fromhex(byte[1]) if byte else piece.encode() for piece, byte in found)
    return text.decode(errors="replace").removeprefix("▁") or "▁"


def merge(weights: np.ndarray, rows: list[Word], columns: list[Word]) -> np.ndarray:
    """Merges weights [..., pieces, pieces] into [..., words, words], float32.

    Weights are summed over the pieces of a column's word and averaged over those of a row's word, so that each row
    still sums to 1.
    """
    summed = np.add.reduceat(weights, [word.start for word in columns], axis=-1, dtype=np.float64)
    summed = np.add.reduceat(summed, [word.start for word in rows], axis=-2)
    return (summed / np.array([[word.stop - word.start] for word in rows])).astype(np.float32)


def merged(attention: Attention) -> Attention:
    """Returns the attention with all pieces merged into words."""
    of = {axis: words(pieces) for axis, pieces in pieces_of(attention).items()}
    weights: dict[str, Any] = {
        name: merge(array, *(of[axis] for axis in AXES[name])) if len(array) else array
        for name, array in attention.weights._asdict().items()
    }
    source, target = ([word.text for word in of[axis]] for axis in ("source", "target"))
    return Attention(source, target, AttentionWeights(**weights))


def pieces_of(attention: Attention) -> dict[str, list[str]]:
    """Returns the pieces of each axis. "shifted" is the decoder's input: the target shifted right (section 3.1)."""
    return {"source": attention.source, "target": attention.target, "shifted": ["<s>", *attention.target[:-1]]}


def telling(weights: np.ndarray) -> np.ndarray:
    """Returns the mutual information of row and attended column, in bits: [..., row, column] -> [...].

    0 for a head that attends uniformly, or always to the same column, such as EOS; log2(n) for a head that attends from
    each of n rows to a different column.
    """
    return bits(weights.mean(axis=-2)) - bits(weights).mean(axis=-1)


def bits(weights: np.ndarray) -> np.ndarray:
    """Returns the entropy, in bits, of distributions along the last axis."""
    return -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(axis=-1)


def described(pair: Pair, by_words: bool) -> dict[str, Any]:
    """Returns everything except the weights, for JSON."""
    pieces = pieces_of(pair.attention)
    origin = {name: value for name, value in pair._asdict().items() if name not in ("attention", "shares")}
    return origin | {
        "unit": "words" if by_words else "pieces",
        "axes": {name: _MAPS[name] for name in pair.weights},
        "pieces": pieces,
        "words": {axis: [word._asdict() for word in words(found)] for axis, found in pieces.items()},
    }


def to_json(pair: Pair, by_words: bool) -> str:
    """Returns a JSON object. "weights" has lists [layer, head, row, column] of the exact float32 values."""
    of = {axis: words(pieces) for axis, pieces in pieces_of(pair.attention).items()}
    lists = {
        name: (merge(array, *(of[axis] for axis in _MAPS[name])) if by_words else array).tolist()
        for name, array in pair.weights.items()
    }
    measures = {} if pair.shares is None else {"measures": MEASURES}
    return json.dumps(described(pair, by_words) | measures | {"weights": lists}) + "\n"


def to_page(pair: Pair, by_words: bool) -> str:
    """Returns a self-contained HTML file with the weights of the pieces, which it can merge into words.

    It first shows words if `by_words`, and of each kind of attention the head with the highest mutual information.
    """
    heads = pair.attention.weights.encoder.shape[1]
    layers = {name: len(array) for name, array in pair.weights.items()}
    packed = {name: base64.b64encode(quantised(array).tobytes()).decode() for name, array in pair.weights.items()}
    opens = {name: int(telling(array).argmax()) for name, array in pair.weights.items()}
    sizes = {"layers": layers, "heads": heads, "measures": MEASURES, "full": FULL}
    data = described(pair, by_words) | sizes | {"opens": opens, "weights": packed}
    page = files("experiments.inspection").joinpath("explorer.html").read_text(encoding="utf-8")
    before, after = page.split("{{data}}")
    # Escape "<", which json.dumps leaves as it is: otherwise a text could end the script element that contains it.
    return before + json.dumps(data).replace("<", r"\u003c") + after


def quantised(weights: np.ndarray) -> np.ndarray:
    """Quantises weights [..., row, column] to little-endian uint16: each row sums to FULL, errors are below 1 / FULL.

    All weights are rounded down, and the remainder of a row goes to those with the largest rounding error. A masked
    weight stays 0.
    """
    exact = weights.astype(np.float64)
    exact *= FULL / exact.sum(axis=-1, keepdims=True)
    floor = np.floor(exact)
    lacking = FULL - floor.sum(axis=-1, keepdims=True)
    order = np.argsort(floor - exact, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    return (floor + (rank < lacking)).astype("<u2")
