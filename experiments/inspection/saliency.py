"""Which tokens of a text its labels are predicted from, by two measures, of which neither is an explanation.

Attention rollout (Abnar and Zuidema, 2020, Quantifying Attention Flow in Transformers): the product over layers of the
mean attention of the heads, averaged with the identity for the residual connection. For the label of a text it is the
mean over its tokens, as their outputs are averaged.

Gradient x input (Shrikumar et al., 2017): the derivative of the log-probability of a label by the embedding of each
token, times that embedding; the absolute value of the sum over D.

Both are shown as shares: those of all tokens sum to 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from data.labels.targets import OF_WORDS
from experiments.programs import Graph, merged
from experiments.sentences import Target
from experiments.translator import Attention, Translator
from transformer.config import EOS, UNK, UserError
from transformer.decode import without_padding
from transformer.model import AttentionWeights, Transformer

MEASURES = ("attention rollout", "gradient x input")


class Saliency(NamedTuple):
    """The labels of a text, and the share of each source token in each of them."""

    attention: Attention
    """The pieces of the source, the labels, and the attention weights of the encoder."""
    shares: np.ndarray
    """[1, measure, label, source token], float32: of a "layer" with a "head" for each of MEASURES."""


def saliency_of(translator: Translator, sentence: str, target: Target | None = None) -> Saliency:
    """Computes both measures for a text and given labels. None: those that the model predicts.

    UserError for a blank text, and for labels that cannot be those of the text.
    """
    tokenizer = translator.tokenizer
    (text,) = translator.source_texts([sentence], "source line")
    if not text:
        raise UserError("attention needs a sentence that is not blank")
    (source,) = translator.read([text], "source line", tokenizer=tokenizer.source)
    labels = translator.translate([sentence])[0] if target is None else target
    (target_ids,) = translator.read_labels([text], [labels])
    of_words = tokenizer.labels_of == OF_WORDS
    places = [i for i, label in enumerate(target_ids) if label > UNK]
    wanted = [target_ids[i] for i in places]
    encoder: Any = encoder_weights(translator.model, source)
    by_gradient = gradients(translator.graph, translator.params, source, target_ids, places)
    shares = np.stack([rollout(encoder, places if of_words else None), by_gradient])
    none: Any = np.zeros((0, encoder.shape[1], 0, 0), np.float32)
    weights = AttentionWeights(encoder, none, none)
    return Saliency(Attention(tokenizer.source.pieces(source), tokenizer.pieces(wanted), weights), shares[None])


def encoder_weights(model: Transformer, source: list[int]) -> np.ndarray:
    """Returns the attention weights of the encoder, [layer, N, S, S]."""
    weights: list[Array] = []
    model.encode(jnp.array([source]), weights=weights)
    return np.asarray(jnp.stack(weights)[:, 0])


def rollout(weights: np.ndarray, places: list[int] | None) -> np.ndarray:
    """Attention rollout: weights [layer, N, S, S] -> shares [T, S] of the tokens at `places`; None: of their mean."""
    product = np.eye(weights.shape[-1])
    for layer in weights.astype(np.float64).mean(axis=1):
        product = (layer + np.eye(len(layer))) / 2 @ product
    rows = product.mean(axis=0, keepdims=True) if places is None else product[places]
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


def gradients(graph: Graph, params: Any, source: list[int], target: list[int], places: list[int]) -> np.ndarray:
    """Gradient x input, as shares [T, S], of the labels at `places` of a target.

    The sentence is embedded by a table with a row for each of its positions, whose gradient is that of each token.
    """
    ids = jnp.array([[*range(UNK + 1, UNK + len(source)), EOS]])
    rows = jnp.asarray(params["source_embedding"])[jnp.array([*range(UNK + 1), *source[:-1]])]

    @jax.jit
    def log_probs(rows: Array) -> Array:
        logits = merged(graph, params | {"source_embedding": rows})(ids, jnp.array([target]))
        each = jax.nn.log_softmax(without_padding(logits))[0]
        return each[jnp.array(places), jnp.array(target)[jnp.array(places)]]

    found = (jax.jacrev(log_probs)(rows) * rows).sum(axis=-1)  # [T, row]
    shares = np.abs(np.asarray(found)[:, np.asarray(ids[0])])
    shares[shares.sum(axis=1) == 0] = 1  # a certain label has no gradient: all tokens alike
    return shares / shares.sum(axis=1, keepdims=True)
