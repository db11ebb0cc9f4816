"""The Marian format of Hugging Face transformers: what MarianMTModel and MarianTokenizer load.

MarianMTModel is the paper's model, with three differences in the parameters:

- Its position vectors have the sines in the first half and the cosines in the second; ours interleave them. So the D
  axis of every parameter is permuted. The model computes the same: a norm does not depend on the order of its inputs.
- Its matrices are [outputs, inputs], with the heads in one axis. Its names are those of fairseq, after "model.".
- Its ids are those of vocab.json. An export keeps ours, with BOS as the token that the decoder starts from.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data.tokenizer import Tokenizer
from experiments.exchange.arrays import write_arrays
from experiments.translator import Translator
from transformer.config import BOS, EOS, PAD, UNK, ModelConfig, UserError
from transformer.parameters import named

POSITIONS = 512
"""Default number of position vectors of the Marian format, which limits the length of its sentences."""

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish"}
"""Our names of activations, and those of transformers."""

NEVER = -1e9
"""Logit bias of the tokens PAD and BOS, to which this code's searches and scores give no probability."""

Axis = Literal["in", "out", "none"]


class Pair(NamedTuple):
    """A parameter of a layer, or of a norm after a stack, under our name and under that of fairseq."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    """Ours, as one matrix [inputs, outputs], or a vector."""
    width: Axis
    """Which axis of this matrix is D, the width of the model; that of a vector is "out"."""


def pairs(config: ModelConfig) -> Iterator[Pair]:
    """Yields all parameters but the embedding matrices."""
    D, F = config.d_model, config.d_ff
    for stack, depth in (("encoder", config.num_layers), ("decoder", config.decoder_depth)):
        attentions = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
        norms = ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"]
        if stack == "encoder":
            del attentions["cross_attention"], norms[1]
        for layer in range(depth):
            ours, theirs = f"{stack}.{layer}", f"{stack}.layers.{layer}"
            for mine, other in attentions.items():
                for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
                    a, b = f"{ours}.{mine}.{name}", f"{theirs}.{other}.{short}_proj"
                    yield Pair(f"{a}.kernel", f"{b}.weight", (D, D), "out" if name == "output" else "in")
                    yield Pair(f"{a}.bias", f"{b}.bias", (D,), "out" if name == "output" else "none")
            linears: tuple[tuple[str, str, tuple[int, int], Axis], ...]
            linears = (("inner", "fc1", (D, F), "in"), ("outer", "fc2", (F, D), "out"))
            for name, other, shape, axis in linears:
                a, b = f"{ours}.feed_forward.{name}", f"{theirs}.{other}"
                yield Pair(f"{a}.kernel", f"{b}.weight", shape, axis)
                yield Pair(f"{a}.bias", f"{b}.bias", shape[1:], "out" if axis == "out" else "none")
            for number, norm in enumerate(norms):
                a, b = f"{ours}.residuals.{number}.norm", f"{theirs}.{norm}"
                yield Pair(f"{a}.scale", f"{b}.weight", (D,), "out")
                yield Pair(f"{a}.bias", f"{b}.bias", (D,), "out")
        if config.norm == "pre":
            yield Pair(f"{stack}_norm.scale", f"{stack}.layer_norm.weight", (D,), "out")
            yield Pair(f"{stack}_norm.bias", f"{stack}.layer_norm.bias", (D,), "out")


def halves(d_model: int) -> np.ndarray:
    """Returns the permutation of D that takes interleaved sines and cosines to sines, then cosines."""
    return np.concatenate([np.arange(0, d_model, 2), np.arange(1, d_model, 2)])


def to_marian(config: ModelConfig, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns our parameters, given by their dotted names, as those of MarianMTModel."""
    order = halves(config.d_model)
    found = {}
    for pair in pairs(config):
        array = arrays[pair.ours].reshape(pair.shape)
        if pair.width != "none":
            array = array.take(order, axis=0 if pair.width == "in" else -1)
        found[f"model.{pair.theirs}"] = array.T
    target = arrays["embedding"][:, order]
    source = arrays["source_embedding"][:, order] if config.tied != "all" else target
    output = arrays["output_embedding"][:, order] if config.tied == "none" else target
    if config.tied == "all":
        found["model.shared.weight"] = target
    found["model.encoder.embed_tokens.weight"], found["model.decoder.embed_tokens.weight"] = source, target
    found["lm_head.weight"] = output
    bias = np.array(arrays.get("output_bias", np.zeros(config.vocab_size)))
    bias[[PAD, BOS]] = NEVER
    found["final_logits_bias"] = bias[None]
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def from_marian(config: ModelConfig, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inverse of `to_marian`: matrices as in `Pair`, and always all embedding matrices and a bias of the logits."""
    order = np.argsort(halves(config.d_model))
    found = {}
    for pair in pairs(config):
        array = arrays[f"model.{pair.theirs}"].T
        if pair.width != "none":
            array = array.take(order, axis=0 if pair.width == "in" else -1)
        found[pair.ours] = array
    found["embedding"] = arrays["model.decoder.embed_tokens.weight"][:, order]
    found["source_embedding"] = arrays["model.encoder.embed_tokens.weight"][:, order]
    found["output_embedding"] = arrays["lm_head.weight"][:, order]
    return found | {"output_bias": arrays["final_logits_bias"][0]}


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json of the Marian format.

    Raises:
        UserError: names the settings of a model that is not a MarianMTModel.
    """
    heads = config.d_model // config.num_heads
    needed = {
        **{"architecture": "encoder-decoder", "positions": "sinusoidal", "attention": "softmax"},
        **{"norm_type": "layer", "feed_forward": "ffn"},
        **{"norm": "post", "biases": True, "shared_layers": 1, "d_k": heads, "d_v": heads},
    }
    differing = [f"{name} = {value}" for name, value in needed.items() if getattr(config, name) != value]
    if config.activation not in ACTIVATIONS:
        differing.append(f"activation = {', '.join(ACTIVATIONS)}")
    if config.d_model % 2 or config.d_model % config.num_heads:
        raise UserError(f"the Marian format needs an even model.d_model that {config.num_heads} heads divide")
    if differing:
        raise UserError(f"the Marian format needs model.{', model.'.join(differing)}")
    sides = {"layers": None, "attention_heads": config.num_heads, "ffn_dim": config.d_ff}
    both = {f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in sides.items()}
    return both | {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "encoder_layers": config.num_layers,
        "decoder_layers": config.decoder_depth,
        "num_hidden_layers": config.num_layers,
        "d_model": config.d_model,
        "vocab_size": config.source_rows,
        "decoder_vocab_size": config.vocab_size,
        "activation_function": ACTIVATIONS[config.activation],
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "scale_embedding": config.scale_embeddings,
        "static_position_embeddings": True,
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "max_position_embeddings": POSITIONS,
        "share_encoder_decoder_embeddings": config.tied == "all",
        "tie_word_embeddings": config.tied != "none",
        "is_encoder_decoder": True,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "forced_eos_token_id": None,
        "decoder_start_token_id": BOS,
        "dtype": "float32",
    }


def write_marian(translator: Translator, folder: Path) -> None:
    """Writes a model and its vocabulary in the Marian format. UserError if it cannot be such a model."""
    model, tokenizer = translator.experiment.model, translator.tokenizer
    config = settings_of(model)
    arrays = {name: np.asarray(leaf) for name, leaf in named(translator.params).items()}
    # A file has one copy of tied parameters; transformers restores the others.
    tied = {"all": ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"), "target": ("lm_head",), "none": ()}
    names = {f"{name}.weight" for name in tied[model.tied]}
    found = to_marian(model, arrays)
    kept = {name: array for name, array in found.items() if name.removeprefix("model.") not in names}
    write_arrays(folder / "model.safetensors", kept, {"format": "pt"})
    pieces = row_names(tokenizer, model.vocab_size)
    beam = translator.experiment.decode.beam
    generation = {name: config[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")} | {
        "decoder_start_token_id": BOS,
        "max_length": POSITIONS,
        "num_beams": beam,
    }
    separate = not tokenizer.one_vocabulary
    vocabularies = {"vocab.json": row_names(tokenizer.source, model.source_rows) if separate else pieces}
    vocabularies |= {"target_vocab.json": pieces} if separate else {}
    tokens = {name: pieces[i] for name, i in (("pad_token", PAD), ("eos_token", EOS), ("unk_token", UNK))}
    files = {
        "config.json": config,
        "generation_config.json": generation,
        **{name: {piece: i for i, piece in enumerate(each)} for name, each in vocabularies.items()},
        "tokenizer_config.json": tokens
        | {"tokenizer_class": "MarianTokenizer", "model_max_length": POSITIONS, "separate_vocabs": separate},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tokenizer.source.save(folder / "source.spm")
    tokenizer.save(folder / "target.spm")


def row_names(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Returns the name of each row of an embedding matrix: beyond the vocabulary, one that no text contains."""
    return tokenizer.pieces(range(tokenizer.size)) + [f"<unused{i}>" for i in range(tokenizer.size, rows)]
