"""The check of an exchange: the same sentences, translated and scored here and in the other program."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from experiments.exchange.arrays import library
from experiments.translator import Translator
from transformer.config import BOS, EOS, PAD, DecodeConfig, ModelConfig, UserError, counted

TOLERANCE = 1e-4
"""Largest difference of log-probabilities per token, in nats, that float32 explains."""

EXTRA = 16
"""Most tokens of an output beyond the length of its source; a model that never ends its outputs would take long."""

Log = Callable[[str], None]
Ids = list[list[int]]


class Peer(Protocol):
    """The model in another program. All ids are ours."""

    name: str
    tolerance: float
    """Largest difference of log-probabilities per token, in nats, with which the exchange is accepted."""
    exact: bool
    """Whether outputs must be equal, too."""
    longest: int
    """Number of positions; 0: no limit."""

    def encode(self, sentences: Sequence[str]) -> Ids:
        """Encodes the source."""

    def translate(self, sources: Ids, limits: Sequence[int]) -> list[tuple[list[int], str]]:
        """Greedy outputs up to EOS, of at most this many tokens, as ids and as text."""

    def log_probs(self, sources: Ids, targets: Ids) -> list[list[float]]:
        """Log-probability of each token of each target."""


class Agreement(NamedTuple):
    """How far two programs agree."""

    sentences: int
    equal: int
    """Number of equal outputs."""
    largest: float
    """Largest difference of the log-probabilities of our outputs per token, in nats."""


def compare(translator: Translator, peer: Peer, sentences: list[str], log: Log) -> Agreement:
    """Translates sentences greedily in both programs, and scores our outputs in both.

    Raises:
        UserError: the programs read a sentence differently, an output differs other than by a tie, or a log-probability
            differs by more than the tolerance.
    """
    greedy = replace(DecodeConfig(), beam=1, alpha=0.0, extra_length=EXTRA)
    # The programs differ by rounding only in float32, whatever the model was trained in.
    model = replace(translator.experiment.model, dtype="float32")
    settings = replace(translator.experiment, model=model, decode=greedy)
    # Silent: that outputs are cut off does not matter here.
    ours = Translator(translator.params, settings, translator.tokenizer, lambda line: None)
    tokenizer = translator.tokenizer
    # A sentence that is normalized to nothing is not translated at all.
    sentences = [sentence for sentence in sentences if len(tokenizer.source.encode([sentence])[0]) > 1]
    if not sentences:
        raise UserError("there is no sentence to check with: give others (--sentences FILE)")
    sources = tokenizer.source.encode(sentences)
    longest = max(map(len, sources)) + greedy.extra_length
    if peer.longest and longest > peer.longest:
        raise UserError(
            f"a sentence of {longest - greedy.extra_length} tokens is too long for the {peer.longest} positions of the "
            f"{peer.name} format: give shorter ones (--sentences FILE)"
        )
    for sentence, mine, read in zip(sentences, sources, peer.encode(sentences), strict=True):
        if mine != read:
            pieces = [" ".join(tokenizer.source.pieces(ids)) for ids in (mine, read)]
            raise UserError(f"{peer.name} reads {sentence!r:.80} as {pieces[1]:.200}, not as {pieces[0]:.200}")
    found = [best[0] for best in ours.n_best(sentences, 1)]
    outputs = [tokenizer.ids(one.pieces) for one in found]
    scores = ours.forced(sources, outputs)
    theirs = peer.log_probs(sources, outputs)
    pairs = list(zip(scores, theirs, strict=True))
    largest = max((abs(sum(mine) - sum(other)) / len(mine) for mine, other in pairs if mine), default=0.0)
    if not largest <= peer.tolerance:
        raise UserError(f"{peer.name} gives other scores, by up to {largest:.1e}, above {peer.tolerance:g}")
    translated = peer.translate(sources, [len(ids) + greedy.extra_length for ids in sources])
    same = [mine == other for mine, (other, _) in zip(outputs, translated, strict=True)]
    log(
        f"{sum(same)} of {counted(len(sentences), 'output')} equal in {peer.name}; "
        f"largest difference of log-probabilities per token {largest:.1e}"
    )
    if peer.exact:
        for i, (other, text) in enumerate(translated):
            if not same[i] and not tied(ours, sources[i], outputs[i], other, peer.tolerance):
                raise UserError(
                    f"{peer.name} translates {sentences[i]!r:.80} as {text!r:.200}, not {found[i].text!r:.200}"
                )
            if same[i] and "<unk>" not in found[i].pieces and text.split() != found[i].text.split():
                raise UserError(f"{peer.name} spells the same pieces as {text!r:.200}, not as {found[i].text!r:.200}")
    return Agreement(len(sentences), sum(same), largest)


def tied(translator: Translator, source: list[int], mine: list[int], other: list[int], tolerance: float) -> bool:
    """Whether the first token in which two outputs differ is equally likely in both, up to rounding."""
    shorter = min(len(mine), len(other))
    at = next((i for i in range(shorter) if mine[i] != other[i]), shorter)
    if at == shorter:
        return False
    likely = translator.forced([source, source], [mine[: at + 1], other[: at + 1]])
    return abs(likely[0][at] - likely[1][at]) <= tolerance


class Mapping(NamedTuple):
    """The ids of another program."""

    source: np.ndarray
    """For each of our ids of the source, theirs, [n]."""
    target: np.ndarray
    never: list[int]
    """Their ids to which our searches and scores give no probability."""

    def back(self, side: Literal[0, 1]) -> dict[int, int]:
        """Returns our id for each of theirs, of the source (0) or the target (1)."""
        each = self[side]
        # BOS may be a copy of another token, and never occurs in a text.
        return {int(each[BOS]): BOS} | {int(theirs): i for i, theirs in enumerate(each) if i != BOS}


class Transformers:
    """MarianMTModel and MarianTokenizer of Hugging Face transformers."""

    name, tolerance, exact = "transformers", TOLERANCE, True

    def __init__(self, model: Any, tokenizer: Any, ids: Mapping):
        self.torch, self.model, self.tokenizer, self.ids = library("torch"), model.eval(), tokenizer, ids
        self.longest: int = model.config.max_position_embeddings
        self.start: int = model.config.decoder_start_token_id
        self.back = [ids.back(0), ids.back(1)]

    @classmethod
    def load(cls, folder: Path, config: ModelConfig) -> "Transformers":
        """Loads an export, whose ids are ours."""
        transformers = library("transformers")
        transformers.utils.logging.disable_progress_bar()
        model = transformers.MarianMTModel.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.MarianTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model, tokenizer, Mapping(np.arange(config.source_rows), np.arange(config.vocab_size), [PAD, BOS]))

    def encode(self, sentences: Sequence[str]) -> Ids:
        return [[self.back[0][i] for i in self.tokenizer(sentence)["input_ids"]] for sentence in sentences]

    def translate(self, sources: Ids, limits: Sequence[int]) -> list[tuple[list[int], str]]:
        found = []
        for source, limit in zip(sources, limits, strict=True):
            with self.torch.no_grad():
                given = self.torch.tensor([self.ids.source[source].tolist()])
                output = self.model.generate(
                    input_ids=given,
                    attention_mask=self.torch.ones_like(given),
                    num_beams=1,
                    do_sample=False,
                    max_new_tokens=limit,
                    max_length=None,
                    forced_eos_token_id=None,
                    suppress_tokens=self.ids.never,
                )
            ids = output[0, 1:].tolist()
            spelled = [i for i in ids if i not in (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)]
            text = self.tokenizer.decode(spelled, clean_up_tokenization_spaces=False)
            mine = [self.back[1][i] for i in ids]
            found.append((mine[: mine.index(EOS) + 1] if EOS in mine else mine, text))
        return found

    def log_probs(self, sources: Ids, targets: Ids) -> list[list[float]]:
        found = []
        for source, target in zip(sources, targets, strict=True):
            wanted = self.torch.tensor([self.ids.target[target].tolist()])
            before = self.torch.cat([self.torch.tensor([[self.start]]), wanted[:, :-1]], 1)
            with self.torch.no_grad():
                logits = self.model(
                    input_ids=self.torch.tensor([self.ids.source[source].tolist()]), decoder_input_ids=before
                ).logits
            logits[:, :, self.ids.never] = -float("inf")
            found.append(logits.log_softmax(-1).gather(2, wanted[:, :, None])[0, :, 0].tolist())
        return found
