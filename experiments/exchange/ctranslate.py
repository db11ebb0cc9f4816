"""The format of CTranslate2, an engine for translation with quantized weights.

It is written by the package's own specification of a Transformer, not through the Marian format: so it can have
pre-norm models, learned positions, and projections without biases, and d_model keeps its order. Its matrices are
[outputs, inputs], with the heads in one axis; those of queries, keys and values of self-attention are one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from experiments.exchange.arrays import library
from experiments.exchange.check import TOLERANCE, Ids
from experiments.exchange.marian import NEVER, row_names
from experiments.translator import Translator
from transformer.config import BOS, EOS, PAD, UNK, ModelConfig, UserError
from transformer.parameters import named

Quantization = Literal["float32", "int16", "int8"]

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "swish": "SWISH"}
"""Our names of activations, and those of CTranslate2."""

POSITIONS = 1024
"""Number of position vectors that are written for the sinusoidal encoding, which limits the length of sentences."""

ACCEPTED: dict[Quantization, float] = {"float32": TOLERANCE, "int16": 1e-2, "int8": 0.25}
"""Largest difference of the log-probabilities of an output per token, in nats, with which an export is accepted."""


def check_model(config: ModelConfig) -> None:
    """Raises UserError with the settings that the format needs."""
    width = config.d_model / config.num_heads
    needed = {
        **{"architecture": "encoder-decoder", "attention": "softmax", "norm_type": "layer", "feed_forward": "ffn"},
        **{"d_k": width, "d_v": width},
    }
    differing = [
        f"{name} = {value:g}" if name in ("d_k", "d_v") else f"{name} = {value}"
        for name, value in needed.items()
        if getattr(config, name) != value
    ]
    if config.positions not in ("sinusoidal", "learned"):
        differing.append("positions = sinusoidal, learned")
    if config.activation not in ACTIVATIONS:
        differing.append(f"activation = {', '.join(ACTIVATIONS)}")
    if differing:
        raise UserError(f"the CTranslate2 format needs model.{', model.'.join(differing)}")


def spec_of(translator: Translator) -> Any:
    """Returns the model as a specification of CTranslate2, without quantization."""
    specs = library("ctranslate2.specs")
    config, tokenizer = translator.experiment.model, translator.tokenizer
    # Copies: quantization works in place.
    arrays = {name: np.array(leaf, np.float32) for name, leaf in named(translator.params).items()}
    D, share = config.d_model, config.shared_layers
    spec = specs.TransformerSpec.from_config(
        (config.num_layers, config.decoder_depth),
        config.num_heads,
        pre_norm=config.norm == "pre",
        activation=getattr(library("ctranslate2.specs.common_spec").Activation, ACTIVATIONS[config.activation]),
    )

    def linear(target: Any, *sources: str) -> None:
        """Several layers of one input are one there."""
        width = D if not sources[0].endswith("inner") else config.d_ff
        target.weight = np.concatenate([arrays[f"{name}.kernel"].reshape(-1, width).T for name in sources])
        if config.biases:
            target.bias = np.concatenate([arrays[f"{name}.bias"].reshape(-1) for name in sources])

    def norm(target: Any, source: str) -> None:
        target.gamma, target.beta = arrays[f"{source}.scale"], arrays[f"{source}.bias"]

    vectors = translator.model.positions(
        jnp.arange(POSITIONS if config.positions == "sinusoidal" else config.max_positions)
    )
    for stack, target in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        target.scale_embeddings = config.scale_embeddings
        target.position_encodings.encodings = np.array(vectors, np.float32)
        if config.norm == "pre":
            norm(target.layer_norm, f"{stack}_norm")
        for number, layer in enumerate(target.layer):
            ours = f"{stack}.{number // share}"
            each = [f"{ours}.self_attention.{name}" for name in ("query", "key", "value", "output")]
            linear(layer.self_attention.linear[0], *each[:3])
            linear(layer.self_attention.linear[1], each[3])
            norms = [layer.self_attention.layer_norm, layer.ffn.layer_norm]
            if stack == "decoder":
                query, key, value, output = (name.replace("self_", "cross_") for name in each)
                linear(layer.attention.linear[0], query)
                linear(layer.attention.linear[1], key, value)
                linear(layer.attention.linear[2], output)
                norms.insert(1, layer.attention.layer_norm)
            for place, each_norm in enumerate(norms):
                norm(each_norm, f"{ours}.residuals.{place}.norm")
            linear(layer.ffn.linear_0, f"{ours}.feed_forward.inner")
            linear(layer.ffn.linear_1, f"{ours}.feed_forward.outer")
    spec.encoder.embeddings[0].weight = arrays["embedding" if config.tied == "all" else "source_embedding"]
    spec.decoder.embeddings.weight = arrays["embedding"]
    spec.decoder.projection.weight = arrays["output_embedding" if config.tied == "none" else "embedding"]
    bias = np.array(arrays.get("output_bias", np.zeros(config.vocab_size, np.float32)))
    bias[[PAD, BOS]] = NEVER
    spec.decoder.projection.bias = bias

    names = row_names(tokenizer, config.vocab_size)
    spec.register_source_vocabulary(row_names(tokenizer.source, config.source_rows))
    spec.register_target_vocabulary(names)
    settings = spec.config
    settings.bos_token, settings.eos_token, settings.unk_token = (names[i] for i in (BOS, EOS, UNK))
    settings.decoder_start_token, settings.add_source_eos = names[BOS], True
    settings.layer_norm_epsilon = config.norm_epsilon
    return spec


def write_ctranslate2(translator: Translator, folder: Path, quantization: Quantization) -> None:
    """Writes a model, and its vocabularies as source.spm and target.spm. UserError if it cannot be such a model."""
    check_model(translator.experiment.model)
    spec = spec_of(translator)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    translator.tokenizer.source.save(folder / "source.spm")
    translator.tokenizer.save(folder / "target.spm")


class CTranslate2:
    """An export, loaded by CTranslate2 on the CPU."""

    name = "CTranslate2"

    def __init__(self, translator: Translator, folder: Path, quantization: Quantization):
        config, self.tokenizer = translator.experiment.model, translator.tokenizer
        self.tolerance, self.exact = ACCEPTED[quantization], quantization == "float32"
        self.longest = POSITIONS if config.positions == "sinusoidal" else config.max_positions
        package = library("ctranslate2")
        # By default, int16 becomes int8 on a processor without it, not float32.
        kind = quantization if quantization in package.get_supported_compute_types("cpu") else "float32"
        self.engine = package.Translator(str(folder), device="cpu", compute_type=kind)
        self.sides = row_names(self.tokenizer.source, config.source_rows), row_names(self.tokenizer, config.vocab_size)

    def encode(self, sentences: Sequence[str]) -> Ids:
        """CTranslate2 reads pieces: those of our vocabulary."""
        return self.tokenizer.source.encode(sentences)

    def pieces(self, ids: Ids, side: Literal[0, 1]) -> list[list[str]]:
        """Returns the pieces of sentences without EOS, which CTranslate2 appends."""
        return [[self.sides[side][i] for i in line if i != EOS] for line in ids]

    def translate(self, sources: Ids, limits: Sequence[int]) -> list[tuple[list[int], str]]:
        back = {name: i for i, name in enumerate(self.sides[1])}
        found = []
        for pieces, limit in zip(self.pieces(sources, 0), limits, strict=True):
            (result,) = self.engine.translate_batch(
                [pieces], beam_size=1, max_decoding_length=limit, min_decoding_length=0, max_input_length=0
            )
            ids = [back[piece] for piece in result.hypotheses[0]]
            ids += [EOS] * (len(ids) < limit)
            found.append((ids, self.tokenizer.decode([ids])[0]))
        return found

    def log_probs(self, sources: Ids, targets: Ids) -> list[list[float]]:
        pieces = self.pieces(sources, 0), self.pieces(targets, 1)
        scored = self.engine.score_batch(*pieces, max_input_length=0)
        # An EOS is scored, too, where an output was cut off without one.
        return [list(result.log_probs)[: len(target)] for result, target in zip(scored, targets, strict=True)]
