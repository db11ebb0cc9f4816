"""A trained model with its vocabulary, from text to text: translation, n-best lists, scores, attention weights."""

import math
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data.labels.targets import OF_WORDS
from data.tokenizer import Tokenizer, sentences_in
from data.treebanks.trees import words_in
from experiments.documents import Both, begun_by, history_of, in_context, rounds, without_begin
from experiments.programs import (
    Graph,
    WithDraft,
    batches,
    compiled_alignment,
    compiled_scoring,
    compiled_search,
    few_heights,
    height_for,
    merged,
    pad,
    pad_phrases,
    without_kernels,
)
from experiments.reader import Reader
from experiments.registry import check_origins, check_parts, replaced
from experiments.sentences import (
    BLANK,
    EOS_PIECE,
    SKIPPED,
    BadLines,
    Target,
    Translation,
    counted_alike,
    first_of_each_text,
    one_line,
    targets_of,
)
from experiments.words import Links, aligned, copied, words_of_pieces
from experiments.workdir import find_workdir
from transformer.checkpoint import choose, load, read_meta
from transformer.config import EOS, PAD, DecodeConfig, Experiment, LoraConfig, UserError, counted
from transformer.decode import Hypotheses, length_penalty
from transformer.model import AttentionWeights, Transformer
from transformer.parameters import Params
from transformer.train import abstract_model, graph_of, init_state
from transformer.variants.decoding.alignment import Head
from transformer.variants.decoding.ensemble import Ensemble
from transformer.variants.decoding.sampling import line_keys
from transformer.variants.decoding.speculative import Drafted
from transformer.variants.decoding.trees import codes_of
from transformer.variants.decoding.ways import Given
from transformer.variants.finetuning import merge_lora

LONGEST_DRAFT = 64
"""Pieces that a draft may have at a time."""


class Attention(NamedTuple):
    """Attention weights of a sentence pair, with the subword pieces of both sides.

    The pieces include EOS; a target that was cut off at its length limit has none.
    """

    source: list[str]
    target: list[str]
    weights: AttentionWeights
    """On the host, without the batch axis: [layer, head, query position, key position]."""


class Asked(NamedTuple):
    """Sentences that have been read, and what is given for each: the input of a search."""

    texts: list[str]
    sources: list[list[int]]
    """Ids: [EOS] of a blank sentence, [] of one that is skipped."""
    numbers: list[int]
    """Line numbers, for messages and for sampling."""
    prefixes: list[list[int]]
    """Ids that the translation begins with."""
    phrases: list[list[list[int]]]
    """Ids of each phrase that the translation contains."""
    counts: list[int]
    """How many translations are asked for."""
    hidden: list[int]
    """How many of the ids of the prefix belong to sentences before this one, and not to its translation."""

    def of(self, indices: Sequence[int]) -> "Asked":
        """What is asked of some of the sentences."""
        some: list[Any] = [[each[i] for i in indices] for each in self]
        return Asked(*some)

    def waiting(self) -> list[int]:
        """Indices of the sentences that are translated by the model: neither blank nor skipped."""
        return [i for i, ids in enumerate(self.sources) if len(ids) > 1]


def log_to_stderr(message: str) -> None:
    """Prints a message on stderr, since stdout carries the translations."""
    print(message, file=sys.stderr, flush=True)


class Translator(Reader):
    """The parameters of a trained model, its experiment and its vocabulary.

    Compiled programs are cached by (shape, settings), so the first call with each is slow.
    """

    def __init__(
        self,
        params: Params | tuple[Params, ...],
        experiment: Experiment,
        tokenizer: Tokenizer,
        log: Callable[[str], None] = log_to_stderr,
        graph: Graph | None = None,
    ):
        self.params: Any = params
        self.experiment, self.tokenizer, self.log = experiment, tokenizer, log
        self.progress: Callable[[int, int], None] = self.log_progress
        """Called after each batch of several, with the number of sentences translated and of all in the call."""
        self.graph: Graph = graph or graph_of(without_kernels(experiment.model))
        """The model's structure. Its classes are looked up here, once: re-registering a name later has no effect."""
        self.replaced = tuple(sorted((name, *sorted(each.items())) for name, each in replaced().items()))
        """Functions and methods of this code that are currently replaced: part of the key of the compilation cache."""
        self.meta: dict[str, Any] = {}
        """Metadata of the checkpoint; empty for an ensemble, and if the parameters did not come from one."""
        self.steps: list[int] = []
        """Steps of the checkpoints used; if there are several, they were averaged."""
        self.selection = ""
        """How the checkpoints were selected: the `checkpoint` argument of `load`."""
        self.members: Sequence[tuple[str, Translator]] = ()
        """Names and translators of the models of an ensemble; none of a single model."""
        self.height: Callable[[int], int] = few_heights if experiment.data.context > 1 else height_for
        """The padded height of a batch with this many sentences."""

    @classmethod
    def load(
        cls,
        workdir: str | Path | Sequence[str | Path],
        checkpoint: str | int = "average",
        log: Callable[[str], None] = log_to_stderr,
    ) -> "Translator":
        """Loads a model from the work directory of a run, or by the run's name under runs/.

        Args:
            workdir: a run; or a list of runs, for the ensemble of their models, with the settings of the first.
            checkpoint: "average" (of the newest `train.keep` checkpoints, section 6.1), "best" (lowest validation
                loss), "last", a step, or a comma-separated list of steps to average.

        Raises:
            UserError: the run or checkpoint does not exist, the vocabulary is not the one that the checkpoint was
                trained with, the checkpoints to average are from different experiments, or the runs of an ensemble
                have different vocabularies.
        """
        if not isinstance(workdir, str | Path):
            return cls.ensemble([(str(one), cls.load(one, checkpoint, log)) for one in workdir])
        run, checkpoint = find_workdir(workdir), str(checkpoint)
        meta = read_meta(run.checkpoints, checkpoint)
        experiment = run.with_current_data(Experiment.from_dict(meta["experiment"], run.checkpoints))
        check_parts(meta.get("parts", {}), log)
        tokenizer = Tokenizer.load(run.path)
        if tokenizer.sha256 != meta["vocabulary"]:
            raise UserError(
                f"{run.vocabulary} is not the vocabulary that the checkpoints of {run.path} were trained with"
            )
        run.check_averageable(choose(run.checkpoints, checkpoint, experiment.train.keep))
        model = abstract_model(without_kernels(experiment.model))
        check_origins(meta, model, log)
        graph = nnx.split(model)[0]
        shapes = jax.eval_shape(lambda: init_state(experiment).params)
        loaded = load(run.checkpoints, checkpoint, experiment.train.keep, shapes)
        params, merged = merge_lora(loaded.params, experiment.lora), replace(experiment, lora=LoraConfig())
        translator = cls(params, merged, tokenizer, log, graph)
        translator.meta = loaded.meta | {"experiment": loaded.meta["experiment"] | {"lora": asdict(merged.lora)}}
        translator.steps = loaded.meta.get("averaged", loaded.steps)
        translator.selection = loaded.meta.get("selection", checkpoint)
        return translator

    @classmethod
    def ensemble(cls, members: Sequence[tuple[str, "Translator"]]) -> "Translator":
        """Returns one translator that averages the probabilities of several, with the settings of the first.

        Args:
            members: translators with their names, for messages; a single one is returned unchanged.

        Raises:
            UserError: there are none, or their vocabularies differ.
        """
        if not members:
            raise UserError("an ensemble needs at least one run")
        name, first = members[0]
        if len(members) == 1:
            return first
        for other, member in members:
            member.check_has_probabilities("an ensemble")
            if member.tokenizer.sha256 != first.tokenizer.sha256:
                raise UserError(f"{name} and {other} have different vocabularies: they cannot be an ensemble")
            rows, theirs = first.experiment.model.vocab_size, member.experiment.model.vocab_size
            if rows != theirs:
                raise UserError(
                    f"the embeddings of {name} and {other} have {rows:,} and {theirs:,} rows: no ensemble is possible"
                )
        params, graphs = zip(*((member.params, member.graph) for _, member in members), strict=True)
        together = cls(params, first.experiment, first.tokenizer, first.log, graphs)
        together.members = tuple(members)
        return together

    def with_draft(self, draft: "Translator", length: int) -> "Translator":
        """Returns a translator whose greedy search is speculative (transformer.variants.decoding.speculative).

        The outputs are those of this one, in fewer steps.

        Args:
            draft: a smaller model with the same vocabulary.
            length: number of pieces that it drafts at a time.

        Raises:
            UserError: another vocabulary, or settings of decoding that are not those of a greedy search.
        """
        if draft.tokenizer.sha256 != self.tokenizer.sha256:
            raise UserError("the draft has another vocabulary than the model it drafts for")
        if not (isinstance(length, int) and 1 <= length <= LONGEST_DRAFT):
            raise UserError(f"a draft has from 1 to {LONGEST_DRAFT} pieces at a time, not {length!r}")
        for each in (self, draft):
            each.check_searched("a draft")
            if each.members or isinstance(each.graph, WithDraft):
                raise UserError("a draft is of one model for one model, not of an ensemble")
        if self.experiment.data.context > 1:
            raise UserError("a draft is for single sentences: data.context is 1")
        decode = self.experiment.decode
        if decode.beam != 1 or decode.sample:
            raise UserError(
                f"a draft speeds up greedy search: it needs a beam of 1, not {decode.beam}, and no sampling"
            )
        for name in ("min_length", "no_repeat_ngram", "forbid_unk", "replace_unk", "only_trees"):
            if getattr(decode, name) != getattr(DecodeConfig, name):
                raise UserError(f"decode.{name} cannot be used with a draft")
        assert isinstance(self.graph, nnx.GraphDef) and isinstance(draft.graph, nnx.GraphDef)
        graph = WithDraft(self.graph, draft.graph, length)
        both = Translator((self.params, draft.params), self.experiment, self.tokenizer, self.log, graph)
        both.meta, both.steps, both.selection, both.max_tokens = self.meta, self.steps, self.selection, self.max_tokens
        return both

    @property
    def model(self) -> Transformer:
        """The model as an nnx module, for inspection. UserError for an ensemble."""
        model = merged(self.graph, self.params)
        if isinstance(model, Drafted):
            return model.model
        if isinstance(model, Ensemble):
            raise UserError("an ensemble has no parameters or attention weights of its own: load one run")
        return model

    def translate(
        self,
        sentences: Iterable[str],
        bad_lines: BadLines = "refuse",
        prefixes: Iterable[Target] | None = None,
        constraints: Iterable[Sequence[Target]] | None = None,
    ) -> list[str]:
        """Returns the best translation of each sentence, in the same order. A blank sentence stays blank.

        For a model of documents (data.context), it is the boundary between two documents.

        A sentence of more than max_tokens raises UserError or, with bad_lines="skip", gives "" and a warning.
        `prefixes` and `constraints` are those of `n_best`.
        """
        found = self.n_best(sentences, 1, bad_lines=bad_lines, prefixes=prefixes, constraints=constraints)
        return [best[0].text for best in found]

    def n_best(
        self,
        sentences: Iterable[str],
        count: int,
        first: int = 1,
        bad_lines: BadLines = "refuse",
        prefixes: Iterable[Target] | None = None,
        constraints: Iterable[Sequence[Target]] | None = None,
        choose: Callable[[list[Translation]], Translation] | None = None,
        log_probs: bool = False,
        before: Sequence[tuple[str, str]] = (),
    ) -> list[list[Translation]]:
        """Returns up to `count` distinct translations of each sentence; fewer, if the beam holds fewer.

        Finished hypotheses come first, best first, then those that were cut off at the length limit, best first. If
        several hypotheses spell the same text with different pieces, only the first of them is returned. Samples are
        in the order drawn, so that the list is the beginning of a longer one; those of equal text are also dropped.

        Args:
            count: at most decode.beam; any number of samples.
            first: line number of the first sentence, for messages and for sampling.
            bad_lines: whether a sentence of more than max_tokens is an error ("refuse") or is skipped ("skip").
            prefixes: what the translation of each sentence begins with, "" for anything. A text stands for its own
                pieces: a word at its end may be continued, and a space after it is ignored.
            constraints: for each sentence a list of phrases that its translation contains. A text stands for its own
                pieces: it begins a word, and its last word may be continued. Needs beam search.
            choose: selects one of the `count` hypotheses or samples of a sentence, which may have equal texts.
            log_probs: whether the translations have the log-probabilities of their pieces, as the search found them.
            before: the sentences that come before the first one in its document, with their translations.
        """
        asked = self.ask(sentences, count, first, bad_lines, prefixes, constraints)
        if self.experiment.data.context > 1:
            results = self.answer_documents(asked, before, choose, log_probs)
        elif before:
            raise UserError("this is a model of single sentences (data.context): it has no use for those before")
        else:
            results = self.answer(asked, choose, log_probs)
        self.warn_of_answers(asked, results)
        return results

    def ask(
        self,
        sentences: Iterable[str],
        count: int,
        first: int = 1,
        bad_lines: BadLines = "refuse",
        prefixes: Iterable[Target] | None = None,
        constraints: Iterable[Sequence[Target]] | None = None,
    ) -> Asked:
        """Reads and checks the arguments of `n_best`, with warnings about them."""
        self.check_count(count)
        if prefixes is not None or constraints is not None:
            if isinstance(self.graph, WithDraft):
                raise UserError("prefixes and constraints cannot be used with a draft")
            self.check_searched("prefixes and constraints")
        texts = self.source_texts(sentences, "line", first)
        sources = self.read(texts, "line", first, bad_lines, self.tokenizer.source)
        begun = self.read_prefixes(prefixes, sources, first)
        phrases = self.read_phrases(constraints, sources, first)
        numbers = list(range(first, first + len(texts)))
        return Asked(texts, sources, numbers, begun, phrases, [count] * len(texts), [0] * len(texts))

    def answer_documents(
        self,
        asked: Asked,
        before: Sequence[tuple[str, str]] = (),
        choose: Callable[[list[Translation]], Translation] | None = None,
        log_probs: bool = False,
    ) -> list[list[Translation]]:
        """`answer` for sentences of documents, which a blank sentence, or one that is skipped, separates.

        Each is translated together with those before it, whose translations are given: the search continues them. So
        the first sentences of all documents are one batch, the second ones are the next, and there is one line for each
        sentence, whatever the model predicts.
        """
        data, extra = self.experiment.data, self.experiment.decode.extra_length
        separators = self.separators()
        if any(asked.phrases):
            raise UserError("constraints are for models of single sentences, and this run is of documents")
        results: list[list[Translation]] = [[] for _ in asked.texts]
        history, most = history_of(asked.sources), data.context - 1
        earlier = [self.both(*pair) for pair in before[-most:]]
        known: dict[int, Both] = {}
        done, count = 0, len(asked.waiting())
        for group in rounds(asked.sources):
            step = asked.of(group)
            for place, i in enumerate(group):
                ids, begun = asked.sources[i], asked.prefixes[i]
                pairs = (earlier if history[i].start == 0 else []) + [known[k] for k in history[i][-most:]]
                pairs = begun_by(pairs[-most:], ids, (), data.max_length, extra // 2)
                if len(ids) > 1:
                    step.sources[place], step.prefixes[place] = in_context(pairs, ids, begun, *separators)
                    step.hidden[place] = len(step.prefixes[place]) - len(begun)
            for i, found in zip(group, self.answer(step, choose, log_probs), strict=True):
                results[i] = found
                known[i] = Both(asked.sources[i][:-1], self.encode([found[0].text])[0][:-1])
            done += len(step.waiting())
            if done < count:
                self.progress(done, count)
        return results

    def last_sentence(self, source: list[int]) -> list[int]:
        """The ids of a source without those of the sentences before it."""
        separator = self.tokenizer.source.separator
        return source if separator is None else sentences_in(source, separator)[-1]

    def separators(self) -> tuple[int, int]:
        """Ids of the piece between sentences in source and target. UserError if there is none."""
        source, target = self.tokenizer.source.separator, self.tokenizer.separator
        if source is None or target is None:
            raise UserError("the vocabulary has no piece between sentences: this is no run on documents (data.context)")
        return source, target

    def both(self, source: str, target: str) -> Both:
        """The ids of a sentence and of its translation, without EOS."""
        (text,) = self.source_texts([source])
        return Both(self.encode([text], self.tokenizer.source)[0][:-1], self.encode([target])[0][:-1])

    def answer(
        self,
        asked: Asked,
        choose: Callable[[list[Translation]], Translation] | None = None,
        log_probs: bool = False,
    ) -> list[list[Translation]]:
        """The translations of what is asked, as `n_best` returns them, without warnings about them."""
        sources, begun, phrases = asked.sources, asked.prefixes, asked.phrases
        blank = BLANK._replace(log_probs=(0.0,)) if log_probs else BLANK
        results = [[blank] if ids == [EOS] else [SKIPPED] for ids in sources]
        decode = self.experiment.decode
        waiting = asked.waiting()
        most = height_for(max(map(len, phrases), default=1) or 1)
        longest = height_for(max((len(ids) for each in phrases for ids in each), default=1))
        done = 0
        # A sentence without constraints, or with one translation, is searched as if there were no others.
        for constrained, several in product((False, True), repeat=2):
            group = [i for i in waiting if (bool(phrases[i]), asked.counts[i] > 1) == (constrained, several)]
            # The score of a sentence alone is computed from its log-probabilities.
            search = self.search(max((asked.counts[i] for i in group), default=1), log_probs or any(asked.hidden))
            for rows, width, height in batches(group, sources, decode.batch_size, self.height):
                given = Given(
                    prefixes=jnp.array(pad(begun, rows, width + decode.extra_length, height)) if any(begun) else None,
                    phrases=jnp.array(pad_phrases(phrases, rows, (height, most, longest))) if constrained else None,
                    words=self.word_counts([asked.texts[i] for i in rows], height),
                    keys=self.keys([asked.numbers[i] for i in rows], height),
                    places=self.padded_places([asked.texts[i] for i in rows], width, height),
                )
                found: Hypotheses = jax.device_get(search(self.params, pad(sources, rows, width, height), given))
                for row, i in enumerate(rows):
                    hypotheses = jax.tree.map(operator.itemgetter(row), found)
                    found_here = self.translations(hypotheses, asked.texts[i], asked.hidden[i])
                    if not log_probs:
                        found_here = [one._replace(log_probs=()) for one in found_here]
                    results[i] = (found_here if choose else first_of_each_text(found_here))[: asked.counts[i]]
                done += len(rows)
                if len(waiting) > len(rows):
                    self.progress(done, len(waiting))
        if decode.replace_unk:
            self.replace_unknown(results, asked.texts, list(map(self.last_sentence, sources)))
        return [[choose(best)] if choose else first_of_each_text(best) for best in results]

    def search(self, count: int, log_probs: bool = False) -> jax.stages.Wrapped:
        """The compiled search for `count` translations of each sentence."""
        decode = self.experiment.decode
        # Several hypotheses may spell the same text, so an n-best list is selected from the whole beam.
        # Labels are all different.
        best = count if decode.sample or self.tokenizer.labels_of or count == 1 else decode.beam
        if decode.only_trees and not self.tokenizer.of_trees:
            raise UserError("decode.only_trees is for parsing, and the outputs of this run are no trees (data.task)")
        if decode.replace_unk and self.tokenizer.of_trees:
            raise UserError("decode.replace_unk is for texts, and the outputs of this run are trees (data.task)")
        codes = codes_of(self.tokenizer.symbols) if decode.only_trees else ()
        return compiled_search(self.graph, decode, best, self.replaced, self.tokenizer.size, log_probs, codes)

    def word_counts(self, texts: list[str], height: int) -> jax.Array | None:
        """The numbers of words of a batch, for trees over them; None without decode.only_trees."""
        if not self.experiment.decode.only_trees:
            return None
        counts = [len(words_in(text)) for text in texts]
        return jnp.array(counts + [0] * (height - len(counts)), jnp.int32)

    def padded_places(self, texts: list[str], width: int, height: int) -> jax.Array | None:
        """Where the labels of a batch are predicted, [height, T]; None unless the model predicts labels."""
        if (places := self.places(texts, width)) is None:
            return None
        columns = width if self.tokenizer.labels_of == OF_WORDS else 1
        return jnp.array(pad(places, list(range(len(places))), columns, height))

    def keys(self, numbers: list[int], height: int) -> jax.Array | None:
        """The random keys of a batch of lines with these numbers; None without sampling."""
        decode = self.experiment.decode
        return line_keys(decode.seed, numbers + [0] * (height - len(numbers))) if decode.sample else None

    def warn_of_answers(self, asked: Asked, results: list[list[Translation]]) -> None:
        """Warns about the best translation of each sentence, if it lacks anything."""
        waiting = asked.waiting()
        self.warn_of_outputs([results[i][0] for i in waiting], [asked.numbers[i] for i in waiting])
        self.warn(
            [
                f"line {asked.numbers[i]}: its translation was cut off before it contained all constraints"
                for i in waiting
                if not all(contains(self.tokenizer.ids(results[i][0].pieces), ids) for ids in asked.phrases[i])
            ]
        )

    def log_progress(self, done: int, count: int) -> None:
        """Logs how many sentences are translated."""
        self.log(f"translated {done} of {count} sentences")

    def replace_unknown(self, results: list[list[Translation]], texts: list[str], sources: list[list[int]]) -> None:
        """Writes what attention points at in place of each <unk> of translations; see `copied`."""
        found = [(i, k) for i, best in enumerate(results) for k, one in enumerate(best) if "<unk>" in one.pieces]
        if not found:
            return
        source_ids = [sources[i] for i, _ in found]
        target_ids = [self.tokenizer.ids(results[i][k].pieces) for i, k in found]
        for (i, k), attended in zip(found, self.attended(source_ids, target_ids), strict=True):
            surfaces = self.tokenizer.source.surfaces(texts[i])
            pointed = attended[:, : len(surfaces)].argmax(axis=1).tolist()  # not at EOS, which is no word
            pieces = copied(results[i][k].pieces, surfaces, self.tokenizer.source.pieces(sources[i]), pointed)
            text = self.tokenizer.output(texts[i], one_line(self.tokenizer.join(pieces)))
            results[i][k] = results[i][k]._replace(text=text, copied=tuple(pieces))

    def align(
        self, sentences: Sequence[str], translations: Sequence[Translation], head: Head | None = None
    ) -> list[Links]:
        """Aligns the words of each translation with those of its sentence, by attention in one forced pass.

        Words are separated by whitespace. Each target word points at the source word that it attends to most, summed
        over the pieces of both (experiments.words.aligned).

        Args:
            head: whose attention; see transformer.variants.decoding.alignment.

        Raises:
            UserError: the model has no such head, or the outputs are trees.
        """
        self.check_alignable(head)
        texts = self.source_texts(sentences)
        counted_alike(texts, translations, "translation", "translations")
        targets = [self.tokenizer.ids(one.pieces) for one in translations]
        links = []
        spelling = self.tokenizer.source
        found = self.attended(self.encode(texts, spelling), targets, head)
        for text, one, weights in zip(texts, translations, found, strict=True):
            pieces = [piece for piece in one.copied or one.pieces if piece != EOS_PIECE]
            source = words_of_pieces(spelling, spelling.surfaces(text), text) if pieces else []
            if self.experiment.decode.tag:  # it is no word of the sentence
                source = [word - 1 for word in source]
            links.append(aligned(weights, source, words_of_pieces(self.tokenizer, pieces, one.text)))
        return links

    def check_alignable(self, head: Head | None = None) -> None:
        """Raises UserError for trees, and if the model, or a model of an ensemble, does not have this head."""
        if isinstance(self.graph, WithDraft):
            raise UserError("alignments cannot be used with a draft")
        self.check_searched("alignments")
        if self.tokenizer.of_trees:
            raise UserError("the words of a tree are those of its sentence, one by one: there is nothing to align")
        if head is None:
            return
        model = merged(self.graph, self.params)
        assert not isinstance(model, Drafted)
        for each in model.models if isinstance(model, Ensemble) else (model,):
            depth, heads = each.config.decoder_depth, each.config.num_heads
            if not (0 <= head.layer < depth and 0 <= head.number < heads):
                raise UserError(
                    f"there is no head {head.layer + 1}.{head.number + 1}: the decoder has "
                    f"{counted(depth, 'layer')} of {counted(heads, 'head')}"
                )

    def attended(
        self, sources: list[list[int]], targets: list[list[int]], head: Head | None = None
    ) -> list[np.ndarray]:
        """Returns the attention [T, S] of each target to its source, for ids; no rows for an empty target."""
        results = [np.zeros((0, len(source)), np.float32) for source in sources]
        run = compiled_alignment(self.graph, self.replaced, head)
        waiting = [i for i, target in enumerate(targets) if target]
        for rows, *batch in self.padded(waiting, sources, targets):
            for i, weights in zip(rows, np.asarray(run(self.params, *batch)), strict=False):
                results[i] = weights[: len(targets[i]), : len(sources[i])]
        return results

    def compile(self, sentences: Sequence[str], shapes: Params) -> None:
        """Compiles what `translate` runs for these sentences, for parameters of these shapes, before there are any."""
        sources = self.read(self.source_texts(sentences), "line", 1, "skip", self.tokenizer.source)
        decode = self.experiment.decode
        first = set(rounds(sources)[0]) if self.experiment.data.context > 1 else range(len(sources))
        waiting = [i for i, ids in enumerate(sources) if len(ids) > 1 and i in first]
        for _, width, height in batches(waiting, sources, decode.batch_size, self.height):
            given = self.nothing(width, height)
            self.search(1).lower(shapes, jax.ShapeDtypeStruct((height, width), np.int32), given).compile()

    def warm_up(self, width: int, height: int) -> None:
        """Compiles the search for one translation of each sentence of a batch of this shape."""
        given = self.nothing(width, height)
        jax.block_until_ready(self.search(1)(self.params, pad([], [], width, height), given))  # ends at once

    def nothing(self, width: int, height: int) -> Given:
        """What is given for a batch of empty rows."""
        return Given(
            words=self.word_counts([], height),
            keys=self.keys([], height),
            places=self.padded_places([], width, height),
        )

    def translations(self, found: Hypotheses, source: str, hidden: int = 0) -> list[Translation]:
        """Returns the hypotheses of one sentence, whose arrays have no batch axis, in order.

        Args:
            hidden: leave out this many tokens, those of the sentences before.
        """
        if hidden:
            decode = self.experiment.decode
            found = without_begin(found, hidden, decode.alpha, ranked=not decode.sample)
        texts = self.tokenizer.decode(found.tokens.tolist())
        each: list[Translation] = []
        for k, (text, score) in enumerate(zip(texts, found.scores.tolist(), strict=True)):
            if score > -math.inf or not each:  # an empty slot of the beam has score -inf
                written = found.tokens[k] != PAD
                log_probs = () if found.log_probs is None else tuple(found.log_probs[k][written].tolist())
                pieces = tuple(self.tokenizer.pieces(found.tokens[k][written]))
                if self.tokenizer.separator is not None:  # one that was predicted ends no line of the output
                    text = " ".join(filter(None, text.split("\n")))
                line = self.tokenizer.output(source, one_line(text))
                each.append(Translation(line, score, pieces, log_probs=log_probs))
        return each

    @property
    def most(self) -> int:
        """The longest n-best list of a search: the beam. Of the labels of a text, all; of those of words, the best."""
        if self.tokenizer.labels_of:
            return 1 if self.tokenizer.labels_of == OF_WORDS else len(set(self.tokenizer.symbols) - {""})
        return self.experiment.decode.beam

    def check_count(self, count: int) -> None:
        """Raises UserError unless the beam is large enough for an n-best list of `count`; samples can be any number."""
        if self.experiment.decode.sample:
            if not (isinstance(count, int) and count >= 1):
                raise UserError(f"cannot draw {count!r} samples: it must be at least 1")
            return
        if self.tokenizer.labels_of == OF_WORDS and count != 1:
            raise UserError("labels of words have no n-best list: each word has its own likeliest label")
        if not (isinstance(count, int) and 1 <= count <= self.most):
            most = counted(self.most, "label") if self.tokenizer.labels_of else f"a beam of {self.most}"
            raise UserError(f"an n-best list of {count!r} does not fit {most}: it must be from 1 to {self.most}")

    def score(
        self, sources: Iterable[str], targets: Iterable[Target], first: int = 1, bad_lines: BadLines = "refuse"
    ) -> list[float]:
        """Returns log P(target | source) / ((5 + length) / 6)^alpha for each pair; the length counts pieces.

        A target given as text is scored in the pieces that sentencepiece splits it into, plus EOS. The same text can
        be spelled with other pieces, which have another probability, and a search may find those. The score of a
        Translation is therefore that of its `pieces`, and `score` returns the same value for these, finished or not.

        A blank source translates to a blank target with certainty: score 0, and -inf for any other target. The score
        of a pair that was skipped is nan.

        Args:
            first: line number of the first pair, for messages.
            bad_lines: whether a pair with a side of more than max_tokens is an error ("refuse") or is skipped ("skip").
        """
        found = self.log_probs(sources, targets, first, bad_lines)
        alpha = 0.0 if self.tokenizer.labels_of else self.experiment.decode.alpha
        penalties = np.asarray(length_penalty(np.array([len(each) for each in found]), alpha))
        return [sum(each) / float(by) if each else math.nan for each, by in zip(found, penalties, strict=True)]

    def log_probs(
        self,
        sources: Iterable[str],
        targets: Iterable[Target],
        first: int = 1,
        bad_lines: BadLines = "refuse",
        before: Sequence[Sequence[tuple[str, str]]] | None = None,
    ) -> list[list[float]]:
        """Returns the log-probability of each piece of each target, given its source and the pieces before it.

        They add up to log P(target | source), whose quotient by the length penalty is the `score`. A pair that was
        skipped has none. Arguments and blank sentences are as for `score`.

        Args:
            before: for each pair those that come before it in its document. None: the pairs are those of documents in
                order, with a blank pair between two. A model of single sentences sees none of them.
        """
        self.check_has_probabilities("scores of given targets")
        texts = self.source_texts(sources, "source line", first)
        given = targets_of(targets, "target line", first)
        if len(texts) != len(given):
            raise UserError(f"{counted(len(texts), 'source')} but {counted(len(given), 'target')}")
        self.warn(
            [
                f"target line {number} does not end in {EOS_PIECE}: it is scored as an unfinished translation"
                for number, target in enumerate(given, start=first)
                if target and not isinstance(target, str) and target[-1] != EOS_PIECE
            ]
        )
        source_ids = self.read(texts, "source line", first, bad_lines, self.tokenizer.source)
        if self.tokenizer.labels_of:
            return self.forced(source_ids, self.read_labels(texts, given, first))
        target_ids = self.read(given, "target line", first, bad_lines)
        if self.experiment.data.context == 1:
            return self.forced(source_ids, target_ids)
        most = self.experiment.data.context - 1
        if before is not None:
            counted_alike(texts, before, "context", "contexts")
            context = [[self.both(*pair) for pair in pairs[-most:]] for pairs in before]
        else:
            both = zip(source_ids, target_ids, strict=True)
            pairs = [Both(source[:-1], [i for i in target if i != EOS]) for source, target in both]
            history = history_of([ids if target else [] for ids, target in zip(source_ids, target_ids, strict=True)])
            context = [[pairs[k] for k in each[-most:]] for each in history]
        return self.forced_in_context(source_ids, target_ids, context)

    def forced_in_context(
        self, sources: list[list[int]], targets: list[list[int]], before: Sequence[Sequence[Both]]
    ) -> list[list[float]]:
        """`forced` for sentences of documents: the log-probabilities of each alone, given those right before it."""
        data, separators = self.experiment.data, self.separators()
        joined = []
        for source, target, pairs in zip(sources, targets, before, strict=True):
            context = begun_by(pairs, source, target, data.max_length)
            joined.append(in_context(context if len(source) > 1 and target else [], source, target, *separators))
        found = self.forced([source for source, _ in joined], [target for _, target in joined])
        return [each[len(each) - len(target) :] for each, target in zip(found, targets, strict=True)]

    def forced(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        """`log_probs` of ids."""
        pairs = list(zip(sources, targets, strict=True))
        results = [log_probs_of_blank(*pair) for pair in pairs]
        waiting = [i for i, (source, target) in enumerate(pairs) if len(source) > 1 and target]
        run = compiled_scoring(self.graph, self.replaced)
        for rows, *batch in self.padded(waiting, sources, targets):
            for i, found in zip(rows, np.asarray(run(self.params, *batch), np.float64), strict=False):
                results[i] = found[: len(targets[i])].tolist()
                if self.tokenizer.labels_of:  # of these alone: EOS is certain, as in a translation of labels
                    labelled = zip(results[i], targets[i], strict=True)
                    results[i] = [*(value for value, label in labelled if label not in (PAD, EOS)), 0.0]
        return results

    def padded(
        self, waiting: list[int], sources: list[list[int]], targets: list[list[int]]
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Yields (indices, sources, targets) of batches of pairs, both sides padded to one width."""
        longer = [max(pair, key=len) for pair in zip(sources, targets, strict=True)]
        for rows, width, height in batches(waiting, longer, self.experiment.decode.batch_size):
            yield rows, pad(sources, rows, width, height), pad(targets, rows, width, height)

    def attention(self, source: str, target: Target | None = None) -> Attention:
        """Returns all attention weights for a sentence and a target (None: the model's own translation)."""
        (text,) = self.source_texts([source], "source line")
        if not text:
            raise UserError("attention needs a sentence that is not blank")
        if target is None:
            target = self.n_best([source], 1)[0][0].pieces  # also gives the warnings about the source
            source_ids = self.encode([text], self.tokenizer.source)[0]
        else:
            source_ids = self.read([text], "source line", tokenizer=self.tokenizer.source)[0]
        target_ids = self.read(targets_of([target], "target line", 1), "target line")[0]
        if not target_ids:
            raise UserError("attention needs a target with at least one piece")
        weights = self.model.attention_weights(jnp.array([source_ids]), jnp.array([target_ids]))
        first = jax.device_get(jax.tree.map(lambda w: w[:, 0], weights))
        return Attention(self.tokenizer.source.pieces(source_ids), self.tokenizer.pieces(target_ids), first)

    def warn_of_outputs(self, found: list[Translation], numbers: list[int]) -> None:
        """Warns about translations that were cut off or contain <unk>."""
        both = list(zip(numbers, found, strict=True))
        self.warn([f"line {i}: its translation was cut off at the length limit" for i, one in both if not one.finished])
        self.warn([f"line {i}: its translation has <unk>, written ⁇" for i, one in both if "⁇" in one.text])


def log_probs_of_blank(source: list[int], target: list[int]) -> list[float]:
    """Returns the log-probabilities of a pair with a blank source; none for any other pair, or if it is skipped."""
    if source != [EOS]:
        return []
    return [0.0] if target == [EOS] else [-math.inf] * len(target)


def contains(ids: Sequence[int], phrase: Sequence[int]) -> bool:
    """Returns whether `phrase` occurs in `ids`."""
    return any(list(ids[i : i + len(phrase)]) == list(phrase) for i in range(len(ids)))
