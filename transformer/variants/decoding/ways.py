"""The way to decode that the settings, and what is given for each sentence, ask for."""

from typing import NamedTuple

from jax import Array

from transformer.config import DecodeConfig
from transformer.decode import Decodable, Hypotheses, beam_search, greedy_search
from transformer.variants.classifier import label
from transformer.variants.decoding.constraints import constrained_beam_search
from transformer.variants.decoding.rules import rule_of
from transformer.variants.decoding.sampling import sample
from transformer.variants.decoding.speculative import Drafted, speculative_search
from transformer.variants.mask_predict import MaskPredict, mask_predict


class Given(NamedTuple):
    """What is given for each sentence of a batch besides its source."""

    prefixes: Array | None = None
    """[B, P] ids that the outputs begin with, padded (transformer.variants.decoding.rules.prefixed)."""
    phrases: Array | None = None
    """[B, J, M] ids of phrases that the outputs contain, padded (transformer.variants.decoding.constraints)."""
    keys: Array | None = None
    """[B] random keys; sampling needs them (transformer.variants.decoding.sampling.line_keys)."""
    words: Array | None = None
    """[B] number of words; trees need it (transformer.variants.decoding.trees)."""
    places: Array | None = None
    """[B, T] where labels are predicted; models without a decoder need it (transformer.variants.classifier)."""


NOTHING = Given()


def decode(
    model: Decodable,
    source: Array,
    settings: DecodeConfig,
    best: int,
    pieces: int,
    given: Given = NOTHING,
    codes: tuple[int, ...] = (),
) -> Hypotheses:
    """Decodes source ids [B, S]: `best` hypotheses of each, found as the settings say.

    With the default settings and nothing given it is the paper's beam search, as the same compiled program.

    Args:
        pieces: size of the vocabulary, for rules.
        codes: of each piece of a vocabulary of trees, for decode.only_trees (transformer.variants.decoding.trees).
    """
    if given.places is not None:
        return label(model, source, given.places, best)
    alpha, extra_length = settings.alpha, settings.extra_length
    if isinstance(model, MaskPredict):
        iterations, lengths = settings.iterations, settings.beam
        return mask_predict(model, source, iterations=iterations, lengths=lengths, extra_length=extra_length, best=best)
    rule = rule_of(settings, pieces, given.prefixes, codes, given.words)
    if settings.sample:
        assert given.keys is not None and given.phrases is None
        return sample(
            model,
            source,
            given.keys,
            samples=best,
            alpha=alpha,
            extra_length=extra_length,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            rule=rule,
        )
    if given.phrases is not None:
        return constrained_beam_search(
            model,
            source,
            given.phrases,
            beam=settings.beam,
            alpha=alpha,
            extra_length=extra_length,
            best=best,
            rule=rule,
        )
    if settings.beam == 1 and isinstance(model, Drafted) and rule is None:
        return speculative_search(model, source, alpha=alpha, extra_length=extra_length)
    if settings.beam == 1:
        return greedy_search(model, source, alpha=alpha, extra_length=extra_length, rule=rule)
    return beam_search(model, source, beam=settings.beam, alpha=alpha, extra_length=extra_length, best=best, rule=rule)
