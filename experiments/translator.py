"""A trained model that takes and gives text: translate, list the n best, score, look at the attention."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data.tokenizer import Tokenizer
from experiments.registry import check_made_of, check_parts, replaced
from experiments.sentences import (
    BLANK,
    EOS_PIECE,
    SKIPPED,
    BadLines,
    Target,
    Translation,
    one_line,
    targets_of,
    texts_of,
    warnings_of,
)
from experiments.workdir import find_workdir
from transformer.checkpoint import choose, load, read_meta
from transformer.config import EOS, PAD, UNK, DecodeConfig, Experiment, UserError, counted
from transformer.decode import Hypotheses, beam_search, greedy_search, length_penalty, token_log_probs
from transformer.model import AttentionWeights, Transformer
from transformer.train import Params, abstract_model, graph_of

# What a longer line takes is much: memory with the square of its length.
MAX_TOKENS = 4096


class Attention(NamedTuple):
    """The pieces of a sentence pair, EOS included, and the weights between them. A target cut off has no EOS."""

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
        graph: nnx.GraphDef[Transformer] | None = None,
    ):
        self.params, self.experiment, self.tokenizer, self.log = params, experiment, tokenizer, log
        self.graph = graph or graph_of(experiment.model)
        """The model, of the classes that its names mean now: a name that means another one later changes nothing."""
        self.replaced = tuple(sorted((name, *sorted(each.items())) for name, each in replaced().items()))
        """What stands in the place of functions and methods of this code now, for what is compiled depends on it."""
        self.meta: dict[str, Any] = {}
        """What the checkpoint says about itself, when it was loaded from one."""
        self.steps: list[int] = []
        """The checkpoints' steps; several were averaged."""
        self.selection = ""
        """How they were chosen, as in `load`."""
        self.max_tokens = MAX_TOKENS
        """A sentence of more is too long, EOS counted."""

    @classmethod
    def load(
        cls, workdir: str | Path, checkpoint: str | int = "average", log: Callable[[str], None] = log_to_stderr
    ) -> "Translator":
        """From a run's directory, or its name under runs/.

        Args:
            checkpoint: "average" (of the newest that are kept, as in section 6.1), "best", "last", a step, or the
                steps to average with commas between.

        Raises:
            UserError: there is no such run or checkpoint, the vocabulary is not the checkpoint's, or the checkpoints
                to average are not of one experiment.
        """
        run, checkpoint = find_workdir(workdir), str(checkpoint)
        meta = read_meta(run.checkpoints, checkpoint)
        experiment = run.found_last(Experiment.from_dict(meta["experiment"]))
        check_parts(meta.get("parts", {}), log)
        tokenizer = Tokenizer.load(run.vocabulary)
        if tokenizer.sha256 != meta["vocabulary"]:
            raise UserError(
                f"{run.vocabulary} is not the vocabulary that the checkpoints of {run.path} were trained with"
            )
        run.check_mixable(choose(run.checkpoints, checkpoint, experiment.train.keep))
        model = abstract_model(experiment.model)
        check_made_of(meta, model, log)
        graph, state = nnx.split(model, nnx.Param)
        shapes = nnx.to_pure_dict(state)
        loaded = load(run.checkpoints, checkpoint, experiment.train.keep, shapes)
        translator = cls(loaded.params, experiment, tokenizer, log, graph)
        translator.meta, translator.steps = loaded.meta, loaded.meta.get("averaged", loaded.steps)
        translator.selection = loaded.meta.get("selection", checkpoint)
        return translator

    @property
    def model(self) -> Transformer:
        """The model itself, to look inside."""
        return nnx.merge(self.graph, self.params)

    def translate(self, sentences: Iterable[str], bad_lines: BadLines = "refuse") -> list[str]:
        """The best translation of each sentence, in the same order. A blank sentence stays blank.

        One of more than max_tokens is an error, or is skipped: "", with a warning.
        """
        return [best[0].text for best in self.n_best(sentences, 1, bad_lines=bad_lines)]

    def n_best(
        self, sentences: Iterable[str], count: int, first: int = 1, bad_lines: BadLines = "refuse"
    ) -> list[list[Translation]]:
        """For each sentence the `count` best translations of different texts; fewer, if the beam holds fewer.

        Finished ones come first, the best first, then those that were cut off at their length limit, likewise. Where
        hypotheses of different pieces are one text, the first of them stands for it.

        Args:
            count: decode.beam at most.
            first: the number of the first sentence, for what is said of it.
            bad_lines: whether a sentence of more than max_tokens is an error, or is skipped.
        """
        self.check_count(count)
        sources = self.read(texts_of(sentences, "line", first), "line", first, bad_lines)
        results = [[BLANK] if ids == [EOS] else [SKIPPED] for ids in sources]
        decode = self.experiment.decode
        # Some hypotheses may be one text, so a list is chosen from all that the beam holds.
        search = compiled_search(self.graph, decode, 1 if count == 1 else decode.beam, self.replaced)
        waiting = [i for i, ids in enumerate(sources) if len(ids) > 1]
        done = 0
        for rows, width, height in batches(waiting, sources, decode.batch_size):
            found: Hypotheses = jax.device_get(search(self.params, pad(sources, rows, width, height)))
            for i, tokens, scores in zip(rows, found.tokens, found.scores, strict=False):
                results[i] = self.distinct(tokens, scores)[:count]
            done += len(rows)
            if len(waiting) > len(rows):
                self.log(f"translated {done} of {len(waiting)} sentences")
        self.warn_of_outputs([results[i][0] for i in waiting], [first + i for i in waiting])
        return results

    def distinct(self, tokens: np.ndarray, scores: np.ndarray) -> list[Translation]:
        """The hypotheses [K, L] and [K] of a sentence in their order, the first of each text."""
        found: dict[str, Translation] = {}
        for text, ids, score in zip(self.tokenizer.decode(tokens.tolist()), tokens, scores.tolist(), strict=True):
            line = one_line(text)
            if line not in found and (score > -math.inf or not found):  # an empty place of the beam has -inf
                found[line] = Translation(line, score, tuple(self.tokenizer.pieces(ids[ids != PAD])))
        return list(found.values())

    def check_count(self, count: int) -> None:
        """UserError unless the beam holds that many translations."""
        if not (isinstance(count, int) and 1 <= count <= self.experiment.decode.beam):
            raise UserError(f"cannot give {count!r} best of a beam of {self.experiment.decode.beam}")

    def score(
        self, sources: Iterable[str], targets: Iterable[Target], first: int = 1, bad_lines: BadLines = "refuse"
    ) -> list[float]:
        """log P(target | source) / ((5 + length) / 6)^alpha of each given pair, the length in pieces.

        A text is scored in the pieces that sentencepiece splits it into, and EOS. The same text can be spelled by
        other pieces, with another probability, and a search may find these: so the score in a Translation is that of
        its own `pieces`, and `score` gives the same for them, finished or not.

        A blank source has the blank translation with certainty: 0, and -inf for any other. nan: a pair was skipped.

        Args:
            first: the number of the first pair, for what is said of it.
            bad_lines: whether a side of more than max_tokens is an error, or has the pair skipped.
        """
        texts, given = texts_of(sources, "source line", first), targets_of(targets, "target line", first)
        if len(texts) != len(given):
            raise UserError(f"{counted(len(texts), 'source')} but {counted(len(given), 'target')}")
        self.warn(
            [
                f"target line {number} does not end in {EOS_PIECE}: it is scored as a beginning"
                for number, target in enumerate(given, start=first)
                if target and not isinstance(target, str) and target[-1] != EOS_PIECE
            ]
        )
        source_ids = self.read(texts, "source line", first, bad_lines)
        target_ids = self.read(given, "target line", first, bad_lines)
        pairs = list(zip(source_ids, target_ids, strict=True))
        scores = np.array([certain(*pair) for pair in pairs], np.float64)
        waiting = [i for i, (source, target) in enumerate(pairs) if len(source) > 1 and target]
        run = compiled_scoring(self.graph, self.replaced)
        longer = [max(*pair, key=len) for pair in pairs]
        for rows, width, height in batches(waiting, longer, self.experiment.decode.batch_size):
            batch = pad(source_ids, rows, width, height), pad(target_ids, rows, width, height)
            log_probs = np.asarray(run(self.params, *batch)).sum(axis=1)[: len(rows)]
            lengths = np.array([len(target_ids[i]) for i in rows])
            scores[rows] = log_probs / np.asarray(length_penalty(lengths, self.experiment.decode.alpha))
        return scores.tolist()

    def attention(self, source: str, target: Target | None = None) -> Attention:
        """All attention weights for a sentence and a target (None: its own translation, in the pieces found)."""
        (text,) = texts_of([source], "source line", 1)
        if not text:
            raise UserError("attention wants a sentence, not a blank one")
        if target is None:
            target = self.n_best([text], 1)[0][0].pieces  # which says what is to be said of the source
            source_ids = self.encode([text])[0]
        else:
            source_ids = self.read([text], "source line")[0]
        target_ids = self.read(targets_of([target], "target line", 1), "target line")[0]
        if not target_ids:
            raise UserError("attention wants a target, not an empty list of pieces")
        weights = self.model.attention_weights(jnp.array([source_ids]), jnp.array([target_ids]))
        first = jax.device_get(jax.tree.map(lambda w: w[:, 0], weights))
        return Attention(self.tokenizer.pieces(source_ids), self.tokenizer.pieces(target_ids), first)

    def encode(self, given: Sequence[Target]) -> list[list[int]]:
        """Ids: of a text those of its pieces and EOS, of pieces their own. UserError for what is no piece."""
        return [self.tokenizer.encode([one])[0] if isinstance(one, str) else self.tokenizer.ids(one) for one in given]

    def read(
        self, given: Sequence[Target], what: str, first: int = 1, bad_lines: BadLines = "refuse"
    ) -> list[list[int]]:
        """As `encode`, but [] for what is too long and skipped. Warns of what the model cannot know.

        `what` and a number from `first` on say in messages which one it is.
        """
        ids = []
        unknown, skipped, long = [], [], []
        for number, one in enumerate(given, start=first):
            try:
                found = self.encode([one])[0]
            except UserError as error:
                raise UserError(f"{what} {number}: {error}") from error
            ids.append(found)
            if len(found) > self.max_tokens:
                message = f"{what} {number} has {len(found)} tokens; {self.max_tokens} is the most that is taken"
                if bad_lines == "refuse":
                    raise UserError(message)
                skipped.append(f"{message}: skipped")
                found.clear()
            elif len(found) > self.experiment.data.max_length:
                trained = self.experiment.data.max_length
                long.append(f"{what} {number} has {len(found)} tokens; the model was trained on {trained} at most")
            if UNK in found and isinstance(one, str):
                characters = ", ".join(map(repr, self.tokenizer.unknown(one)[:8]))
                unknown.append(
                    f"{what} {number} has what the vocabulary cannot spell, and reads as <unk>: {characters}"
                )
        for messages in (skipped, unknown, long):
            self.warn(messages)
        return ids

    def warn_of_outputs(self, found: list[Translation], numbers: list[int]) -> None:
        """Warns of translations without an end, and with unknown pieces."""
        both = list(zip(numbers, found, strict=True))
        self.warn([f"line {i}: its translation was cut off at the length limit" for i, one in both if not one.finished])
        self.warn([f"line {i}: its translation has <unk>, written ⁇" for i, one in both if "<unk>" in one.pieces])

    def warn(self, messages: list[str]) -> None:
        """Warns of things of one kind."""
        for message in warnings_of(messages):
            self.log(message)


def certain(source: list[int], target: list[int]) -> float:
    """The score of a pair that no model is asked for. nan: it has to be asked, or the pair is skipped."""
    if source != [EOS] or not target:
        return math.nan
    return 0.0 if target == [EOS] else -math.inf


@cache
def compiled_search(
    graph: nnx.GraphDef[Transformer], decode: DecodeConfig, best: int, replaced: tuple[Any, ...] = ()
) -> Callable[..., Hypotheses]:
    """(params, source) -> hypotheses, by greedy search for a beam of 1. `replaced` is a Translator's."""
    if decode.beam == 1:
        search = partial(greedy_search, alpha=decode.alpha, extra_length=decode.extra_length)
    else:
        search = partial(beam_search, beam=decode.beam, alpha=decode.alpha, extra_length=decode.extra_length, best=best)
    return jax.jit(lambda params, source: search(nnx.merge(graph, params), source))


@cache
def compiled_scoring(graph: nnx.GraphDef[Transformer], replaced: tuple[Any, ...]) -> Callable[..., jax.Array]:
    """(params, source, target) -> token log-probabilities."""
    return jax.jit(lambda params, source, target: token_log_probs(nnx.merge(graph, params), source, target))


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
