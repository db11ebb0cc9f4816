"""Mask-predict (Ghazvininejad et al., 2019): all tokens of a translation are predicted at once, then the least certain
of them again, for a constant number of iterations. The paper names "making generation less sequential" as a goal.

The decoder has no causal mask. It reads a target in which some tokens are masked, and predicts them from the others: a
conditional masked language model. EOS is never masked, and says how long the target is; this length is predicted from
the mean of the encoder's outputs. Training with train.loss = "cross_entropy", which masks everything, leaves a model
that translates in one iteration.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import AttentionContext, padding_mask
from transformer.config import BOS, EOS, PAD, Experiment, ModelConfig
from transformer.decode import Hypotheses, length_limits, without_padding
from transformer.dropout import random_bits, split_key
from transformer.loss import tied_cross_entropy
from transformer.matmul import einsum
from transformer.model import ARCHITECTURES, Transformer
from transformer.segments import Segments, same_sentence, segments
from transformer.train import LOSSES, Batch
from transformer.variants.classifier import mean_of_sources

MASK = BOS
"""The id of a masked token: no target contains BOS, which the paper's decoder begins with."""


class MaskPredict(Transformer):
    """The Transformer with a decoder that sees all of the target that is not masked."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        init = jax.nn.initializers.normal(config.d_model**-0.5)
        self.lengths = nnx.Param(init(rngs.params(), (config.max_positions, config.d_model)))

    def decode(
        self,
        target: Array,
        memory: Array,
        source: Array,
        key: Array | None = None,
        weights: list[Array] | None = None,
    ) -> Array:
        """The decoder of `Transformer.decode`, with all of the target masked: only its length is used."""
        return self.fill(jnp.where(can_be_masked(target), MASK, target), memory, source, key, weights)

    def predicted(self, target: Array) -> Array:
        """Targets without EOS, which is not predicted."""
        return jnp.where(target == EOS, PAD, target)

    def fill(
        self,
        written: Array,
        memory: Array,
        source: Array,
        key: Array | None = None,
        weights: list[Array] | None = None,
    ) -> Array:
        """Outputs [B, T, D] for a target with masked tokens, each of which predicts the token in its own place.

        Args:
            written: ids [B, T], MASK where they are masked.
            memory: encoder output [B, S, D] of the source ids [B, S].
        """
        layers = self.applied(self.decoder)
        keys = split_key(key, len(layers) + 1)
        found = segments(written)
        tokens = found._replace(number=jnp.where(written == PAD, 0, found.number))
        mask = same_sentence(found, tokens)
        context = self.attention_context(mask, found.position, found.position, tokens=tokens)
        memory_context = AttentionContext(same_sentence(found, segments(source)) & padding_mask(source))
        x = self.embed(written, self.position_vectors(found.position), keys[0])
        for layer, layer_key in zip(layers, keys[1:], strict=True):
            x, _ = layer(x, layer.cross_attention.project(memory), context, memory_context, layer_key, weights)
        return self.decoder_norm(x) if self.config.norm == "pre" else x

    def length_log_probs(self, found: Segments, source: Array, memory: Array) -> Array:
        """Log-probabilities [B, T, max_positions] of the lengths 1, 2, ... of the sentence of each target token.

        Only the sentences in `found` are used: the arguments are those of `mean_of_sources`.
        """
        return jax.nn.log_softmax(einsum("BTD,LD->BTL", mean_of_sources(found, source, memory), self.lengths[...]))


def masked_cross_entropy(
    model: Transformer, batch: Batch, key: Array | None, experiment: Experiment
) -> tuple[Array, Array]:
    """Training loss: (sum, count) over masked tokens, of which a sentence of n has 1 to n, all numbers equally likely.

    The negative log-likelihood of the length is added once for each sentence. Without a key, everything is masked.
    """
    assert isinstance(model, MaskPredict)  # the settings were checked
    source, target = batch["source"], batch["target"]
    keys = split_key(key, 3)
    hidden = masked_tokens(keys[0], target)
    memory = model.encode(source, keys[1])
    x = model.fill(jnp.where(hidden, MASK, target), memory, source, keys[2])
    loss, count = tied_cross_entropy(
        x,
        model.output_table,
        jnp.where(hidden, target, PAD),
        experiment.train.label_smoothing,
        model.config.kernels,
        model.logits_bias,
    )
    return loss + length_loss(model, memory, source, target), count


def can_be_masked(target: Array) -> Array:
    """Whether tokens [B, T] are neither padding nor EOS."""
    return (target != PAD) & (target != EOS)


def masked_tokens(key: Array | None, target: Array) -> Array:
    """Chooses the tokens to mask [B, T]: one of each sentence, and each other one with the probability of its sentence,
    which is uniform in [0, 1]. Their number is then uniform from 1 to the length of the sentence, without EOS."""
    if key is None:
        return can_be_masked(target)
    found = segments(target)
    uniform = [random_bits(each, target.shape).astype(jnp.float32) / 2.0**32 for each in jax.random.split(key, 3)]
    first = jnp.arange(target.shape[1]) - found.position
    rate, which = (jnp.take_along_axis(each, first, axis=1) for each in uniform[:2])
    always = found.position == jnp.floor(which * (sentence_lengths(target) - 1)).astype(jnp.int32)
    return can_be_masked(target) & (always | (uniform[2] < rate))


def sentence_lengths(target: Array) -> Array:
    """Length of the sentence of each token [B, T], with EOS."""
    found = segments(target)
    return (same_sentence(found, found)[:, 0] & (target != PAD)[:, None]).sum(axis=-1)


def length_loss(model: MaskPredict, memory: Array, source: Array, target: Array) -> Array:
    """Negative log-likelihood of the lengths of all sentences of a batch, in nats. A longer one counts as the longest
    that the model knows."""
    found = segments(target)
    known = model.length_log_probs(found, source, memory)
    index = jnp.minimum(sentence_lengths(target), known.shape[-1]) - 1
    chosen = jnp.take_along_axis(known, jnp.maximum(index, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where((found.position == 0) & (target != PAD), chosen, 0.0).sum()


def mask_predict(
    model: MaskPredict, source: Array, *, iterations: int, lengths: int, extra_length: int, best: int = 1
) -> Hypotheses:
    """Decodes source ids [B, S] in a constant number of passes through the decoder.

    The `lengths` likeliest lengths are tried in parallel. In iteration t of T, the n (T - t) / T tokens that were
    predicted with the lowest probability are predicted again, given the others. n does not count EOS.

    Returns:
        The `best` hypotheses by the mean log-probability of their tokens, which is their score.
    """
    B, S = source.shape
    L = S + extra_length
    memory = model.encode(source)
    one = Segments(jnp.ones((B, 1)), jnp.zeros((B, 1)))  # a row is one sentence
    known = model.length_log_probs(one, source, memory)[:, 0]
    limits = length_limits(source, extra_length)[:, None]
    candidates = 1 + jnp.arange(known.shape[1])
    _, likely = jax.lax.top_k(jnp.where(candidates <= jnp.maximum(limits, 1), known, -jnp.inf), lengths)
    length = jnp.where(limits > 0, jnp.minimum(likely + 1, jnp.maximum(limits, 1)), 0).reshape(-1, 1)

    memory, source = (jnp.repeat(x, lengths, axis=0) for x in (memory, source))  # [B * lengths, S, ...]
    place = jnp.arange(L)
    inner = place < length - 1
    start = jnp.where(inner, MASK, jnp.where(place == length - 1, EOS, PAD))

    def again(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        tokens, log_probs = state
        rank = jnp.argsort(jnp.argsort(jnp.where(inner, log_probs, jnp.inf), axis=1), axis=1)
        hidden = inner & (rank < (length - 1) * (iterations - t) // iterations)
        x = model.fill(jnp.where(hidden, MASK, tokens), memory, source)
        each = jax.nn.log_softmax(without_padding(model.logits(x))).at[..., EOS].set(-jnp.inf)
        return (
            jnp.where(hidden, each.argmax(axis=-1).astype(tokens.dtype), tokens),
            jnp.where(hidden, each.max(axis=-1), log_probs),
        )

    tokens, log_probs = jax.lax.fori_loop(0, iterations, again, (start, jnp.zeros(start.shape)))
    scores = (log_probs.sum(axis=1) / jnp.maximum(length[:, 0], 1)).reshape(B, lengths)
    scores, order = jax.lax.top_k(scores, best)
    tokens, log_probs = (
        jnp.take_along_axis(x.reshape(B, lengths, L), order[..., None], axis=1) for x in (tokens, log_probs)
    )
    return Hypotheses(tokens.astype(jnp.int32), scores, log_probs)


ARCHITECTURES.build_in({"mask-predict": MaskPredict})
LOSSES.build_in({"mask_predict": masked_cross_entropy})
