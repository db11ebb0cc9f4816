"""Models that PyTorch saved: their files, their parameters as ours, and what they compute.

The parameters have the names of fairseq; those of another program are renamed. As `TorchModel` computes with PyTorch
alone, from the parameters as they are in the file, it is what an import is checked against.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.exchange.arrays import library
from experiments.exchange.check import TOLERANCE, Ids, Mapping
from experiments.exchange.marian import pairs
from transformer.checkpoint import brief
from transformer.config import BOS, EOS, ModelConfig, UserError

EMBEDDINGS = {
    "source_embedding": "encoder.embed_tokens.weight",
    "embedding": "decoder.embed_tokens.weight",
    "output_embedding": "decoder.output_projection.weight",
}
"""Our names of the embedding matrices, and those of fairseq."""

TIED = {"all": (0, 1, 2), "target": (1, 2), "none": ()}
"""Which of these are one, by model.tied."""

State = dict[str, Any]
"""Tensors by name."""


def checkpoint_of(path: Path, suffix: str, best: str) -> Path:
    """Returns the checkpoint that a path is, or that a folder has: the one named `best`, or the only one.

    Raises:
        UserError: there is none, or there are several and none is named `best`.
    """
    if path.is_file():
        return path
    if (path / best).is_file():
        return path / best
    found = sorted(each for each in path.glob(f"*{suffix}") if each.is_file() and not each.is_symlink())
    if not found:
        raise UserError(f"{path} has no checkpoint (*{suffix})")
    if len(found) > 1:
        raise UserError(
            f"{path} has {found[0].name} and {found[1].name}, but no {best}: import one of them by its path"
        )
    return found[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a file of torch.save with tensors, plain values and argparse.Namespace. Nothing in it is executed.

    Raises:
        UserError: it is damaged, or has anything else.
    """
    torch = library("torch")
    scalar = np.float64(0).__reduce__()[0]  # makes a number of NumPy, such as a score; its module had another name
    allowed: list[Any] = [argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    allowed += [type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(f"{path} is not read: it has {refused[1]}, and what is no tensor may be code") from error
        # Not torch's own words, which recommend to execute the file.
        what = brief(error) if isinstance(error, OSError) else "it is damaged, or no file of torch.save"
        raise UserError(f"{path} cannot be read: {what}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it has no names")
    return content


def parameters_of(
    path: Path,
    state: State,
    config: ModelConfig,
    rows: tuple[int, int],
    theirs: Callable[[str], str] = str,
    without: str = r"(?!)",
) -> State:
    """Returns the parameters of a model, in float32, under the names of fairseq.

    Args:
        path: the file that they are from, for messages.
        state: as they are in the file.
        rows: those of the embedding matrices of source and target.
        theirs: the name in the file, for that of fairseq.
        without: a pattern of names in the file that are no parameters.

    Raises:
        UserError: one is missing, is of another shape than its settings say, or has numbers that are not finite; there
            is one more; or matrices differ that are one by `config.tied`.
    """
    torch = library("torch")
    D = config.d_model
    shapes = dict(zip(EMBEDDINGS.values(), ([rows[0], D], [rows[1], D], [rows[1], D]), strict=True))
    shapes |= {pair.theirs: list(pair.shape[::-1]) for pair in pairs(config)}
    names = {theirs(name): name for name in shapes}
    there = {name: tensor for name, tensor in state.items() if not re.fullmatch(without, name)}
    for name in sorted(names.keys() | there.keys()):
        found = there.get(name)
        if found is None:
            raise UserError(f"{path} has no {name}, as a model of its settings does")
        if name not in names:
            raise UserError(f"{path} has {name}, as no model of its settings does")
        if not torch.is_tensor(found) or not found.is_floating_point():
            raise UserError(f"{path}: its {name} is no array of float numbers")
        if list(found.shape) != shapes[names[name]]:
            raise UserError(f"{path}: its {name} is {list(found.shape)}, not {shapes[names[name]]} as its settings say")
        if not torch.isfinite(found).all():
            raise UserError(f"{path}: its {name} has numbers that are not finite")
    tied = [theirs(list(EMBEDDINGS.values())[i]) for i in TIED[config.tied]]
    for name in tied[1:]:
        if not torch.equal(there[name], there[tied[0]]):
            raise UserError(f"{path}: its {name} is not {tied[0]}, as its settings say")
    return {names[name]: tensor.float() for name, tensor in there.items()}


def arrays_of(config: ModelConfig, state: State) -> dict[str, np.ndarray]:
    """Returns these parameters under our names, with all embedding matrices, and the heads in one axis."""
    found = {pair.ours: state[pair.theirs].numpy().T for pair in pairs(config)}
    return found | {ours: state[name].numpy() for ours, name in EMBEDDINGS.items()}


class Function(NamedTuple):
    """What is not in the parameters."""

    heads: int
    pre: bool
    """Whether a norm comes before a sub-layer, not after it."""
    activation: str
    """A function of torch.nn.functional."""
    scale: float
    """Factor of the embeddings."""
    epsilon: float
    """Added to the variance in a norm."""
    positions: Any
    """Position vectors [longest sentence, D]."""


class Texts(NamedTuple):
    """From a text of the source to their ids, and from their ids of the target, without EOS, to a text."""

    encode: Callable[[str], list[int]]
    spell: Callable[[list[int]], str]


class TorchModel:
    """A model with the function of fairseq's Transformer, computed by PyTorch."""

    tolerance, exact = TOLERANCE, True

    def __init__(self, name: str, state: State, function: Function, ids: Mapping, texts: Texts):
        self.torch = library("torch")
        self.name, self.state, self.function, self.ids, self.texts = name, state, function, ids, texts
        self.longest = len(function.positions)

    def encode(self, sentences: Sequence[str]) -> Ids:
        back = self.ids.back(0)
        return [[back[i] for i in self.texts.encode(sentence)] for sentence in sentences]

    def translate(self, sources: Ids, limits: Sequence[int]) -> list[tuple[list[int], str]]:
        start, end, back = int(self.ids.target[BOS]), int(self.ids.target[EOS]), self.ids.back(1)
        found = []
        for source, limit in zip(sources, limits, strict=True):
            memory, ids = self.memory(source), [start]
            while len(ids) <= limit and (len(ids) == 1 or ids[-1] != end):
                ids.append(int(self.logits(memory, ids)[-1].argmax()))
            spelled = ids[1:-1] if ids[-1] == end else ids[1:]
            found.append(([back[i] for i in ids[1:]], self.texts.spell(spelled)))
        return found

    def log_probs(self, sources: Ids, targets: Ids) -> list[list[float]]:
        found = []
        for source, target in zip(sources, targets, strict=True):
            ids = self.ids.target[[BOS, *target]].tolist()
            logits = self.logits(self.memory(source), ids[:-1])
            found.append(logits.log_softmax(-1)[range(len(target)), ids[1:]].tolist())
        return found

    def memory(self, source: list[int]) -> Any:
        """The output of the encoder for our ids [S], [S, D]."""
        x = self.embed(EMBEDDINGS["source_embedding"], self.ids.source[source].tolist())
        return self.stack("encoder", x, None)

    def logits(self, memory: Any, ids: list[int]) -> Any:
        """The logits [T, V] for their ids [T] of the target before each; those that are never chosen are -inf."""
        x = self.stack("decoder", self.embed(EMBEDDINGS["embedding"], ids), memory)
        logits = x @ self.state[EMBEDDINGS["output_embedding"]].T
        logits[:, self.ids.never] = -float("inf")
        return logits

    def embed(self, table: str, ids: list[int]) -> Any:
        return self.function.scale * self.state[table][ids] + self.function.positions[: len(ids)]

    def stack(self, name: str, x: Any, memory: Any) -> Any:
        """The encoder, or the decoder with the output of the encoder."""
        for layer in self.layers(name):
            x = self.residual(layer, "self_attn", x, partial(self.attention, f"{layer}.self_attn", None))
            if memory is not None:
                x = self.residual(layer, "encoder_attn", x, partial(self.attention, f"{layer}.encoder_attn", memory))
            x = self.residual(layer, "final", x, partial(self.feed_forward, layer))
        return self.norm(f"{name}.layer_norm", x) if self.function.pre else x

    def layers(self, name: str) -> Iterator[str]:
        number = 0
        while f"{name}.layers.{number}.fc1.weight" in self.state:
            yield f"{name}.layers.{number}"
            number += 1

    def residual(self, layer: str, norm: str, x: Any, sublayer: Callable[[Any], Any]) -> Any:
        name = f"{layer}.{norm}_layer_norm"
        return x + sublayer(self.norm(name, x)) if self.function.pre else self.norm(name, x + sublayer(x))

    def norm(self, name: str, x: Any) -> Any:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return self.torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, self.function.epsilon)

    def linear(self, name: str, x: Any) -> Any:
        return self.torch.nn.functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def attention(self, name: str, memory: Any, x: Any) -> Any:
        """Attention of x [T, D] to memory [S, D], or to itself; in the decoder, to earlier positions only."""
        y = x if memory is None else memory
        heads = (self.function.heads, -1)
        q, k, v = (
            self.linear(f"{name}.{each}_proj", given).unflatten(-1, heads).transpose(0, 1)
            for each, given in (("q", x), ("k", y), ("v", y))
        )
        causal = memory is None and name.startswith("decoder")
        found = self.torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.linear(f"{name}.out_proj", found.transpose(0, 1).flatten(1))

    def feed_forward(self, layer: str, x: Any) -> Any:
        activation = getattr(self.torch.nn.functional, self.function.activation)
        return self.linear(f"{layer}.fc2", activation(self.linear(f"{layer}.fc1", x)))
