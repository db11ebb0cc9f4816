"""The encoder with a head that labels a text, or each of its tokens, in place of the decoder.

Devlin et al. (2019), BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, section 3.2. One
linear layer maps vectors of the encoder to labels. Their text is labelled by the vector of a first token that is made
for it; here by the mean over all tokens of the text, which an encoder that was trained for translation has too.

A target is a sentence of a vocabulary of labels, so that packing, batches and the loss are those of translation: one
label and EOS for a text; for tokens a label, or PAD for none, in the place of each source token. Parameters have the
names that they have in `Transformer`; the matrix of the labels is `embedding`, by which a decoder would embed them.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import padding_mask
from transformer.config import EOS, PAD, UNK, ModelConfig, UserError
from transformer.decode import Decodable, Hypotheses, without_padding
from transformer.matmul import einsum
from transformer.model import ARCHITECTURES, AttentionWeights, Transformer
from transformer.segments import Segments, same_sentence, segments


class Encoder(Transformer):
    """The Transformer without a decoder."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        if config.decoder_depth or config.tied != "target":
            raise UserError(
                f"model.architecture {config.architecture} is an encoder with a head, and labels have a matrix of "
                f"their own: --model.decoder-layers 0 --model.tied target"
            )
        super().__init__(config, rngs=rngs)

    def predicted(self, target: Array) -> Array:
        """Labels without the EOS that separates them: it says nothing about the text."""
        return jnp.where(target == EOS, PAD, target)

    def attention_weights(self, source: Array, target: Array) -> AttentionWeights:
        """Attention weights of the encoder for source ids [B, S]. Those of the decoder have no layers."""
        weights: list[Array] = []
        self.encode(source, weights=weights)
        B, N, S, T = len(source), self.config.num_heads, source.shape[1], target.shape[1]
        return AttentionWeights(jnp.stack(weights), jnp.zeros((0, B, N, T, T)), jnp.zeros((0, B, N, T, S)))


def mean_of_sources(found: Segments, source: Array, memory: Array) -> Array:
    """For each target token, by its sentence, the mean of the encoder outputs [B, S, D] of its source -> [B, T, D].

    Args:
        found: sentence of each target token, [B, T].
        source: ids [B, S].
    """
    own = (same_sentence(found, segments(source)) & padding_mask(source))[:, 0]
    share = own / jnp.maximum(own.sum(axis=-1, keepdims=True), 1)
    return einsum("BTS,BSD->BTD", share.astype(memory.dtype), memory)


class Classifier(Encoder):
    """One label for each text: a linear layer over the mean of its encoder outputs (BERT, section 3.2)."""

    def outputs(self, source: Array, target: Array, key: Array | None = None) -> Array:
        """Source ids [B, S], target ids [B, T] -> [B, T, D]: at each target position, the mean of its source."""
        memory = self.encode(source, key)
        return mean_of_sources(segments(target), source, memory).astype(memory.dtype)


class Tagger(Encoder):
    """One label for each source token: a linear layer over its encoder output (BERT, section 3.2)."""

    def outputs(self, source: Array, target: Array, key: Array | None = None) -> Array:
        """Source ids [B, S], target ids [B, S] in the same places -> [B, S, D]."""
        if source.shape != target.shape:
            raise ValueError(f"a tagger needs targets in the places of their sources, not {target.shape}")
        return self.encode(source, key)


ARCHITECTURES.build_in({"classifier": Classifier, "tagger": Tagger})


def label(model: Decodable, source: Array, places: Array, best: int = 1) -> Hypotheses:
    """The likeliest labels of texts or tokens, each independent of the others: one pass, without a search.

    Args:
        source: [B, S] ids of one sentence a row.
        places: [B, T], 1 where the model predicts a label and 0 elsewhere; T is 1 for a classifier and S for a tagger.
        best: how many labels of each text, the likeliest first.

    Returns:
        Hypotheses of T + 1 tokens: labels, PAD where there is none, and EOS. Scores are sums of log-probabilities.
    """
    log_probs = jax.nn.log_softmax(without_padding(model(source, places)))
    found, labels = jax.lax.top_k(log_probs.at[..., : UNK + 1].set(-jnp.inf), best)  # [B, T, best]
    wanted = places[..., None] != PAD
    labels, found = jnp.where(wanted, labels, PAD).mT, jnp.where(wanted, found, 0.0).mT
    end = ((0, 0), (0, 0), (0, 1))
    return Hypotheses(
        jnp.pad(labels.astype(jnp.int32), end, constant_values=EOS), found.sum(axis=-1), jnp.pad(found, end)
    )
