"""A trained model that takes and gives text: translate, list the n best, score, look at the attention."""

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data.tokenizer import Tokenizer
from experiments.parts import check_made_of, check_parts, classes_of
from experiments.workdir import find_workdir
from transformer.checkpoint import choose, load, read_meta
from transformer.config import PAD, DecodeConfig, Experiment, ModelConfig, UserError
from transformer.decode import Hypotheses, beam_search, greedy_search, length_penalty, token_log_probs
from transformer.model import AttentionWeights, Transformer
from transformer.train import Params, graph_of, outline

# A longer line is refused: attention takes memory with the square of the length.
MAX_TOKENS = 4096


class Translation(NamedTuple):
    """One hypothesis and its score, log P / ((5 + length) / 6)^alpha."""

    text: str
    score: float


class Attention(NamedTuple):
    """The pieces of a sentence pair, EOS included, and the weights between them."""

    source: list[str]
    target: list[str]
    weights: AttentionWeights
    """On the host, without the batch axis: [layer, head, from, to]."""


def log_to_stderr(message: str) -> None:
    """Translations go to stdout, so everything said about them goes here."""
    print(message, file=sys.stderr, flush=True)


class Translator:
    """Parameters, their experiment and their vocabulary.

    What is compiled is kept per (shape, settings): the first call of each kind is slow.
    """

    def __init__(
        self,
        params: Params,
        experiment: Experiment,
        tokenizer: Tokenizer,
        log: Callable[[str], None] = log_to_stderr,
    ):
        self.params, self.experiment, self.tokenizer, self.log = params, experiment, tokenizer, log
        self.meta: dict[str, Any] = {}
        """What the checkpoint says about itself, when it was loaded from one."""
        self.steps: list[int] = []
        """The checkpoints' steps; several were averaged."""
        self.selection = ""
        """How they were chosen, as in `load`."""

    @classmethod
    def load(
        cls, workdir: str | Path, checkpoint: str = "average", log: Callable[[str], None] = log_to_stderr
    ) -> "Translator":
        """From a run's directory, or its name under runs/.

        Args:
            checkpoint: "average" (of the newest that are kept, as in section 6.1), "best", "last", a step, or the
                steps to average with commas between.

        Raises:
            UserError: there is no such run or checkpoint, the vocabulary is not the checkpoint's, or the checkpoints
                to average are not of one experiment.
        """
        run = find_workdir(workdir)
        meta = read_meta(run.checkpoints, checkpoint)
        experiment = Experiment.from_dict(meta["experiment"])
        check_parts(meta.get("parts", {}), log)
        tokenizer = Tokenizer.load(run.vocabulary)
        if tokenizer.sha256 != meta["vocabulary"]:
            raise UserError(
                f"{run.vocabulary} is not the vocabulary that the checkpoints of {run.path} were trained with"
            )
        run.check_mixable(choose(run.checkpoints, checkpoint, experiment.train.keep))
        model = outline(experiment.model)
        check_made_of(meta, model, log)
        shapes = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        loaded = load(run.checkpoints, checkpoint, experiment.train.keep, shapes)
        translator = cls(loaded.params, experiment, tokenizer, log)
        translator.meta, translator.steps = loaded.meta, loaded.meta.get("averaged", loaded.steps)
        translator.selection = loaded.meta.get("selection", checkpoint)
        return translator

    @property
    def model(self) -> Transformer:
        """The model itself, to look inside."""
        return nnx.merge(graph_of(self.experiment.model), self.params)

    def translate(self, sentences: list[str]) -> list[str]:
        """The best translation of each sentence, in the same order. A blank sentence stays blank."""
        return [best[0].text for best in self.n_best(sentences, 1)]

    def n_best(self, sentences: list[str], count: int, first: int = 1) -> list[list[Translation]]:
        """For each sentence the `count` best translations, best first. At most decode.beam.

        Warnings number the sentences from `first` on.
        """
        self.check_count(count)
        sources = self.warned(self.encode(sentences, first), first)
        results = [[Translation("", 0.0)] * count for _ in sentences]
        model = self.experiment.model
        search = compiled_search(model, self.experiment.decode, count, classes_of(model))
        waiting = [i for i, sentence in enumerate(sentences) if sentence.strip()]
        done = 0
        for rows, width, height in batches(waiting, sources, self.experiment.decode.batch_size):
            found: Hypotheses = jax.device_get(search(self.params, pad(sources, rows, width, height)))
            for i, tokens, scores in zip(rows, found.tokens, found.scores, strict=False):
                texts = map(one_line, self.tokenizer.decode(tokens.tolist()))
                results[i] = [Translation(*both) for both in zip(texts, scores.tolist(), strict=True)]
            done += len(rows)
            if len(waiting) > len(rows):
                self.log(f"translated {done} of {len(waiting)} sentences")
        return results

    def check_count(self, count: int) -> None:
        """UserError unless the beam holds that many translations."""
        if not 1 <= count <= self.experiment.decode.beam:
            raise UserError(f"cannot give {count} best of a beam of {self.experiment.decode.beam}")

    def score(self, sources: list[str], targets: list[str]) -> list[float]:
        """log P(target | source) / ((5 + length) / 6)^alpha of each given pair, its EOS counted.

        It is the score that `n_best` gives, but for a translation that its length limit cut off: that has no EOS.
        """
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sources but {len(targets)} targets")
        source_ids, target_ids = self.warned(self.encode(sources)), self.warned(self.encode(targets))
        run = compiled_scoring(self.experiment.model, classes_of(self.experiment.model))
        scores = np.zeros(len(sources))
        longer = [max(a, b, key=len) for a, b in zip(source_ids, target_ids, strict=True)]
        for rows, width, height in batches(list(range(len(sources))), longer, self.experiment.decode.batch_size):
            batch = pad(source_ids, rows, width, height), pad(target_ids, rows, width, height)
            log_probs = np.asarray(run(self.params, *batch)).sum(axis=1)[: len(rows)]
            lengths = np.array([len(target_ids[i]) for i in rows])
            scores[rows] = log_probs / np.asarray(length_penalty(lengths, self.experiment.decode.alpha))
        return scores.tolist()

    def attention(self, source: str, target: str | None = None) -> Attention:
        """All attention weights for a sentence and a target (None: its own translation)."""
        target = self.translate([source])[0] if target is None else target
        ids = self.encode([source, target])
        weights = self.model.attention_weights(jnp.array([ids[0]]), jnp.array([ids[1]]))
        first = jax.device_get(jax.tree.map(lambda w: w[:, 0], weights))
        return Attention(self.tokenizer.pieces(ids[0]), self.tokenizer.pieces(ids[1]), first)

    def encode(self, sentences: list[str], first: int = 1) -> list[list[int]]:
        """Ids with EOS. UserError for what cannot fit, or is no text; sentences are numbered from `first` on."""
        for number, text in enumerate(sentences, start=first):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"line {number} is not valid text: {error.reason}") from error
        ids = self.tokenizer.encode(sentences)
        for number, sentence in enumerate(ids, start=first):
            if len(sentence) > MAX_TOKENS:
                raise UserError(
                    f"line {number} has {len(sentence)} tokens; {MAX_TOKENS} is the most that is translated"
                )
        return ids

    def warned(self, ids: list[list[int]], first: int = 1) -> list[list[int]]:
        """The same. Warns of sentences longer than any in training."""
        trained = self.experiment.data.max_length
        for number, sentence in enumerate(ids, start=first):
            if len(sentence) > trained:
                self.log(
                    f"warning: line {number} has {len(sentence)} tokens; the model was trained on {trained} at most"
                )
        return ids


@cache
def compiled_search(
    model: ModelConfig, decode: DecodeConfig, best: int, classes: tuple[Any, ...]
) -> Callable[..., Hypotheses]:
    """(params, source) -> hypotheses, by greedy search for a beam of 1. `classes` are the model's `classes_of`."""
    graph = graph_of(model)
    if decode.beam == 1:
        search = partial(greedy_search, alpha=decode.alpha, extra_length=decode.extra_length)
    else:
        search = partial(beam_search, beam=decode.beam, alpha=decode.alpha, extra_length=decode.extra_length, best=best)
    return jax.jit(lambda params, source: search(nnx.merge(graph, params), source))


@cache
def compiled_scoring(model: ModelConfig, classes: tuple[Any, ...]) -> Callable[..., jax.Array]:
    """(params, source, target) -> token log-probabilities."""
    graph = graph_of(model)
    return jax.jit(lambda params, source, target: token_log_probs(nnx.merge(graph, params), source, target))


def one_line(text: str) -> str:
    """A translation is one line, though a vocabulary with pieces for single bytes can spell a line break."""
    return text.replace("\n", " ").replace("\r", " ")


def width_for(length: int) -> int:
    """The padded width for a group whose longest sentence has `length` tokens: few widths, so few compilations."""
    width = 16
    while width < length:
        width += max(16, width // 2 // 16 * 16)
    return width


def height_for(count: int) -> int:
    """The padded height for so many sentences: 1, 2, 4, 8, ... Each is one more program to compile."""
    return 1 << (count - 1).bit_length()


def batches(rows: list[int], ids: list[list[int]], batch_size: int) -> Iterator[tuple[list[int], int, int]]:
    """Groups sentences of about one length: (their numbers, width, height), where height counts the padded rows too.

    The longest come first. All groups are full but the last.
    """
    waiting = sorted(rows, key=lambda i: len(ids[i]), reverse=True)
    while waiting:
        width = width_for(len(ids[waiting[0]]))
        most = max(1, batch_size * 64 // max(width, 64))
        group, waiting = waiting[:most], waiting[most:]
        yield group, width, min(most, height_for(len(group)))


def pad(ids: list[list[int]], rows: list[int], width: int, height: int) -> np.ndarray:
    """[height, width] int32: the sentences `rows`, padded to the right, then empty rows."""
    padded = np.full((height, width), PAD, np.int32)
    for row, i in enumerate(rows):
        padded[row, : len(ids[i])] = ids[i]
    return padded
