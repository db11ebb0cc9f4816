"""All settings of an experiment, as frozen dataclasses. This module does not import JAX.

The string below a field is its help text on the command line. The defaults are the paper's base model
(Table 3, first row); a variant is a `dataclasses.replace` of the fields that differ.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

# Reserved ids of every vocabulary: padding, beginning of sentence, end of sentence, unknown.
PAD, BOS, EOS, UNK = 0, 1, 2, 3


class UserError(Exception):
    """An error that the user can fix. The message is one line that names what is wrong and where.

    It is not a ValueError because tyro catches ValueErrors raised by dataclasses and prints them in a box.
    """


def counted(count: int, thing: str, plural: str = "") -> str:
    """Formats a count for a message: 1 line, 2,000 lines, 2 batches. The default plural appends an s."""
    return f"{count:,} {thing if count == 1 else plural or thing + 's'}"


_LARGEST = 2**31 - 1  # JAX counters are int32


def _counts(section: str, config: Any, names: Iterable[str]) -> None:
    """UserError if one of these settings is below 1 or does not fit into an int32."""
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise UserError(f"{section}.{name} must be at least 1, not {value}")
        if value > _LARGEST:
            raise UserError(f"{section}.{name} must be at most {_LARGEST}, not {value}")


_WITH_DECODER = ("encoder-decoder", "recurrent", "mask-predict")
"""The architectures that are nothing without layers in the decoder."""


@dataclass(frozen=True)
class ModelConfig:
    """The model (section 3). Everything that Table 3 varies is a field."""

    architecture: str = "encoder-decoder"
    """Architecture: a name in the registry transformer.model.ARCHITECTURES. The paper has an encoder and a decoder."""
    vocab_size: int = 37_000
    """V: rows of the shared embedding matrix. At least the size of the vocabulary; more is allowed."""
    num_layers: int = 6
    """N: number of layers in the encoder, and in the decoder unless decoder_layers says otherwise."""
    decoder_layers: int | None = None
    """Number of layers in the decoder. None: as many as in the encoder. 0: an architecture without a decoder."""
    shared_layers: int = 1
    """Number of consecutive layers that share one set of parameters, as in the Universal Transformer and ALBERT.
    It must divide the layers of each stack; with all of them, one layer is applied again and again."""
    d_model: int = 512
    """D: width of embeddings and sub-layer outputs. d_k and d_v are not derived from it: set them too."""
    d_ff: int = 2048
    """F: inner width of the feed-forward networks."""
    num_heads: int = 8
    """h: number of attention heads."""
    d_k: int = 64
    """Width of the queries and keys of one head; d_model / h in the paper."""
    d_v: int = 64
    """Width of the values of one head; d_model / h in the paper."""
    dropout: float = 0.1
    """P_drop: dropout rate, applied to each sub-layer output and to the sum of embedding and positional encoding."""
    attention_dropout: float = 0.0
    """Dropout rate of the attention weights, after the softmax. The paper has none."""
    activation_dropout: float = 0.0
    """Dropout rate inside of the feed-forward networks, after the activation. The paper has none."""
    positions: str = "sinusoidal"
    """Positional encoding: a name in the registry transformer.positions.POSITIONS."""
    attention: str = "softmax"
    """Attention: a name in the registry transformer.attention.ATTENTIONS. Those for long inputs are in
    transformer/variants/long."""
    attention_window: int = 256
    """r: number of tokens that self-attention reaches, for the attentions "restricted" and "sparse" (section 4).
    For the architecture "recurrent": length of a segment."""
    attention_memory: int = 256
    """For the architecture "recurrent": number of tokens before its segment that a token attends to."""
    norm_type: str = "layer"
    """Normalization layer: a name in the registry transformer.layers.NORMS."""
    norm_epsilon: float = 1e-6
    """Added to the variance in a normalization layer."""
    feed_forward: str = "ffn"
    """Feed-forward network: a name in the registry transformer.layers.FEED_FORWARDS."""
    activation: str = "relu"
    """Activation of the feed-forward networks: a name in the registry transformer.layers.ACTIVATIONS."""
    biases: bool = True
    """Whether the projections of attention and of the feed-forward networks have biases."""
    initializer: str = "glorot"
    """Initial matrices of attention and feed-forward networks: a name in transformer.initializers.INITIALIZERS."""
    tied: Literal["all", "target", "none"] = "all"
    """Which embedding matrices are one. all: those of source, target and pre-softmax layer, as in the paper. target:
    those of target and pre-softmax layer; the source has its own. none: each has its own."""
    source_vocab_size: int | None = None
    """Rows of the embedding matrix of the source, if it has its own. None: as many as model.vocab_size."""
    scale_embeddings: bool = True
    """Multiply the embeddings by sqrt(d_model), as in the paper."""
    output_bias: bool = False
    """Add a bias to the logits. The paper has none."""
    max_positions: int = 1024
    """Number of learned positional embeddings. Not used by the sinusoidal encoding."""
    norm: Literal["post", "pre"] = "post"
    """Position of the normalization: post is LayerNorm(x + f(x)), as in the paper; pre is x + f(LayerNorm(x))."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of matmul inputs and activations. Parameters, softmax, norm statistics and sums of the loss are float32."""
    kernels: bool = True
    """Use fused kernels where there are any for the device and the type, such as FlashAttention on a GPU in bfloat16.
    They compute the same, up to rounding; turn them off to see the plain operations in a profile."""

    def __post_init__(self) -> None:
        sizes = (
            *("vocab_size", "num_layers", "shared_layers", "d_model", "d_ff", "num_heads", "d_k", "d_v"),
            *("max_positions", "attention_window", "attention_memory"),
        )
        given = [name for name in ("decoder_layers", "source_vocab_size") if getattr(self, name) is not None]
        if self.decoder_layers == 0 and self.architecture not in _WITH_DECODER:
            given.remove("decoder_layers")
        _counts("model", self, (*sizes, *given))
        if self.source_vocab_size is not None and self.tied == "all":
            raise UserError(
                "model.source_vocab_size needs an embedding matrix of the source: --model.tied target or none"
            )
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"model.{name} must lie in [0, 1), not {getattr(self, name)}")
        if not 0.0 < self.norm_epsilon < math.inf:
            raise UserError(f"model.norm_epsilon must be positive and finite, not {self.norm_epsilon}")
        for name, layers in (("num_layers", self.num_layers), ("decoder_layers", self.decoder_depth)):
            if layers % self.shared_layers:
                raise UserError(f"model.shared_layers = {self.shared_layers} does not divide model.{name} = {layers}")

    @property
    def decoder_depth(self) -> int:
        """Number of layers that are applied in the decoder; in the encoder, it is `num_layers`."""
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    @property
    def source_rows(self) -> int:
        """Number of rows of the embedding matrix that embeds the source."""
        return self.vocab_size if self.source_vocab_size is None else self.source_vocab_size


Documents = Literal["blank", "column"]
"""How text separates documents: see DataConfig.documents."""


@dataclass(frozen=True)
class DataConfig:
    """Task, corpus, vocabulary and batch size (section 5.1)."""

    task: str = "translation"
    """What a target is, and how it is scored: a name in experiments.task.TASKS. Targets of "parsing" and
    "tagged-parsing" are bracketed trees, predicted without and with part-of-speech tags (section 6.3). Those of
    "classification" are labels of texts, of "tagging" labels of words, of "entities" labels of words as B-PER I-PER O
    (model.architecture)."""
    corpus: str = "grammar"
    """Corpus: a name in data.corpora.CORPORA, or "files" for your own text, given by the next seven settings."""
    train_src: str | None = None
    """Your own training text, source side: UTF-8, one sentence per line."""
    train_tgt: str | None = None
    """Your own training text, target side: line i translates line i of the source."""
    dev_src: str | None = None
    """Your own validation text, source side."""
    dev_tgt: str | None = None
    """Your own validation text, target side."""
    test_src: str | None = None
    """Your own test text, source side (optional; by default the validation text is scored)."""
    test_tgt: str | None = None
    """Your own test text, target side (optional)."""
    languages: str | None = None
    """Languages of your own text as BCP 47 codes, such as en-fr, nds-de or zh-Hans-en (optional).
    The target language determines the tokenization for BLEU; for German, the paper's BLEU is computed too."""
    context: int = 1
    """Documents: number of consecutive sentences in a training example, each sentence with up to N - 1 before it in its
    document, joined by <sep> (Tiedemann and Scherrer, 2017). 1: single sentences, as in the paper."""
    documents: Documents = "blank"
    """How your own text separates documents. blank: by a blank line on both sides. column: each line begins with the
    name of its document and a tab, and a document ends where the name changes."""
    train_pairs: int | None = None
    """Use only the first N training pairs. None: all (for the generated grammar corpus, 100,000)."""
    vocab_type: Literal["bpe", "unigram"] = "bpe"
    """The sentencepiece algorithm that learns the vocabulary."""
    vocab_size: int = 37_000
    """Number of subword pieces in the vocabulary, which both languages share."""
    vocabularies: Literal["shared", "separate"] = "shared"
    """shared: one vocabulary for both languages, as in the paper. separate: one for each; data.vocab_size is then that
    of the target. This needs model.tied target or none, since an id stands for another piece on each side."""
    source_vocab_size: int | None = None
    """With separate vocabularies: number of pieces in that of the source. None: as many as data.vocab_size."""
    vocabulary: str | None = None
    """Use this vocabulary instead of learning one: a sentencepiece model with ids 0 to 3 for padding, BOS, EOS, <unk>,
    or the work directory of a run, for its vocabulary. data.vocab_size must be its size. Separate vocabularies are
    those of a run, or of a folder with vocab.model (the target's) and source.model."""
    symbols: str | None = None
    """Texts that are pieces of their own and never split, separated by spaces: "<2de> <2fr>" for text into several
    languages, with one of them at the start of each source line."""
    subword_sampling: float = 0.0
    """Encode the training text anew in each epoch, with randomly drawn pieces. With BPE, the probability of leaving out
    a merge (BPE-dropout, usually 0.1); with unigram, the exponent alpha of the probability of a segmentation
    (usually 0.1 to 0.5). 0: always the most probable pieces, as in the paper."""
    curriculum: int = 0
    """Length curriculum: number of epochs that have the shorter sentences only, more of them in each epoch
    (data/curriculum.py). 0: all sentences in every epoch, as in the paper."""
    max_length: int = 128
    """Maximum length in tokens: training pairs longer than this on either side are dropped and counted."""
    max_unknown: float = 0.01
    """Maximum fraction of <unk> tokens on either side of any split: a corpus with more is rejected."""
    batch_tokens: int = 25_000
    """Batch size in token slots, padding included, on the larger of the source and target sides."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UserError(f"data.max_length must be at least 2, not {self.max_length}")
        _counts("data", self, ("max_length", "batch_tokens", "context"))
        if self.batch_tokens < self.max_length:
            raise UserError(
                f"data.batch_tokens ({self.batch_tokens}) must hold one sentence of data.max_length ({self.max_length})"
            )
        if not 8 <= self.vocab_size < 2**16:
            raise UserError(f"data.vocab_size must lie in [8, 65535] (ids are 16 bit), not {self.vocab_size}")
        if not 8 <= self.source_pieces < 2**16:
            raise UserError(f"data.source_vocab_size must lie in [8, 65535] (ids are 16 bit), not {self.source_pieces}")
        if self.source_vocab_size is not None and self.vocabularies == "shared":
            raise UserError("data.source_vocab_size needs separate vocabularies: set --data.vocabularies separate too")
        for symbol in self.symbol_list:
            if "▁" in symbol or not symbol.isprintable() or symbol in ("<pad>", "<s>", "</s>", "<unk>"):
                raise UserError(f"data.symbols: {symbol!r} is reserved or not printable, so it cannot be a piece")
        if len(set(self.symbol_list)) < len(self.symbol_list):
            raise UserError("data.symbols has a symbol twice")
        if not 0.0 <= self.subword_sampling < 1.0:
            raise UserError(f"data.subword_sampling must lie in [0, 1), not {self.subword_sampling}")
        if not 0 <= self.curriculum <= _LARGEST:
            raise UserError(f"data.curriculum must be 0 or more, not {self.curriculum}")
        if self.curriculum and self.subword_sampling:
            raise UserError("data.curriculum orders sentences by their pieces: leave out --data.subword-sampling")
        if not 0.0 <= self.max_unknown <= 1.0:
            raise UserError(f"data.max_unknown must lie in [0, 1], not {self.max_unknown}")

    @property
    def symbol_list(self) -> list[str]:
        """The texts of `symbols`."""
        return (self.symbols or "").split()

    @property
    def source_pieces(self) -> int:
        """Number of pieces in the vocabulary of the source."""
        return self.vocab_size if self.source_vocab_size is None else self.source_vocab_size


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning rate schedule (section 5.3)."""

    name: str = "adam"
    """Optimizer: a name in the registry transformer.optimizer.OPTIMIZERS."""
    schedule: str = "inverse_sqrt"
    """Learning rate schedule: a name in the registry transformer.optimizer.SCHEDULES."""
    warmup_steps: int = 4000
    """Number of warmup steps: the learning rate increases linearly, then decays as 1/sqrt(step)."""
    scale: float = 1.0
    """Factor on the paper's learning rate, d_model^-0.5 * min(step^-0.5, step * warmup^-1.5)."""
    b1: float = 0.9
    """Adam's beta 1."""
    b2: float = 0.98
    """Adam's beta 2."""
    eps: float = 1e-9
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay, as in AdamW: each step subtracts this times the learning rate times the weights.
    Not applied to biases and to the scales of norms. The paper has none."""
    clip_norm: float = 0.0
    """Gradient clipping: a gradient with a larger global norm is scaled down to this. 0: no clipping, as in the paper.
    The gradient is that of the loss per token."""

    def __post_init__(self) -> None:
        _counts("optimizer", self, ("warmup_steps",))
        for name in ("weight_decay", "clip_norm"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UserError(f"optimizer.{name} must be 0 or more and finite, not {getattr(self, name)}")
        for name in ("scale", "eps"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise UserError(f"optimizer.{name} must be positive and finite, not {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"optimizer.{name} must lie in [0, 1), not {getattr(self, name)}")


@dataclass(frozen=True)
class TrainConfig:
    """Training length, regularization, logging and checkpoints (sections 5.2, 5.4)."""

    steps: int = 100_000
    """Number of training steps (parameter updates)."""
    seed: int = 0
    """Random seed of the initial parameters, the data order and dropout, below 2^32."""
    loss: str = "cross_entropy"
    """Training loss: a name in the registry transformer.train.LOSSES. Validation always uses the cross-entropy."""
    label_smoothing: float = 0.1
    """eps_ls: label smoothing. This much probability moves from the correct token to the V - 1 others."""
    accumulate: int = 1
    """Gradient accumulation: split each batch into N micro-batches and sum their gradients before the update."""
    log_every: int = 100
    """Number of steps between progress lines."""
    eval_every: int = 1000
    """Number of steps between validations. Each validation saves a checkpoint."""
    eval_sentences: int = 64
    """At each validation, translate the first N sentences by greedy search, for a score (BLEU) and two samples."""
    keep: int = 5
    """Number of newest checkpoints to keep, in addition to the one with the lowest validation loss."""
    max_bad_steps: int = 20
    """Stop after this many consecutive steps with a non-finite loss or gradient."""
    ema: float = 0.0
    """Decay of an exponential moving average of the parameters, such as 0.999: what `--checkpoint ema` loads.
    0: none. The paper averages checkpoints instead."""
    best: Literal["loss", "score"] = "loss"
    """What makes a checkpoint the best one: its validation loss, or the score of greedy outputs by the metric of the
    task, such as BLEU. With score, each validation translates the whole validation text."""
    patience: int = 0
    """Early stopping: stop after this many validations in a row without a new best one. 0: train all steps."""
    stop_at: float = 0.0
    """With train.best = score: stop at the first validation whose score is at least this, say a BLEU of 30.
    0: train all steps."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.ema < 1.0:
            raise UserError(f"train.ema must lie in [0, 1), not {self.ema}")
        if not 0 <= self.patience <= _LARGEST:
            raise UserError(f"train.patience must be 0 or more, not {self.patience}")
        if not 0.0 <= self.stop_at < math.inf:
            raise UserError(f"train.stop_at must be 0 or more and finite, not {self.stop_at}")
        if self.stop_at and self.best != "score":
            raise UserError("train.stop_at is a score of the validation text: set --train.best score too")
        counts = ("steps", "accumulate", "log_every", "eval_every", "eval_sentences", "keep", "max_bad_steps")
        _counts("train", self, counts)
        # NumPy rejects negative seeds, and JAX reduces seeds modulo 2^32: different seeds would give equal parameters.
        if not 0 <= self.seed < 2**32:
            raise UserError(f"train.seed must lie in [0, 4294967295], not {self.seed}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(f"train.label_smoothing must lie in [0, 1), not {self.label_smoothing}")


@dataclass(frozen=True)
class MeshConfig:
    """Device mesh: how devices share the work. The mesh changes results only by rounding.

    The key biases are an exception: softmax is invariant to them, and only rounding moves them.
    """

    data: int = 0
    """Data parallelism: devices that share the rows of a batch, each with a full copy of the parameters.
    0: all devices that the other two axes leave."""
    fsdp: int = 1
    """Fully sharded data parallelism: devices that share rows, parameters and optimizer state."""
    tensor: int = 1
    """Tensor parallelism: devices that share attention heads, feed-forward width and vocabulary."""
    step: Literal["pjit", "pmap"] = "pjit"
    """pjit: the compiler partitions one program. pmap: each device runs the step on its own rows (`data` only)."""

    def __post_init__(self) -> None:
        if self.data < 0:
            raise UserError(f"mesh.data must be 0 or more, not {self.data}")
        _counts("mesh", self, ("fsdp", "tensor"))
        if self.step == "pmap" and (self.fsdp, self.tensor) != (1, 1):
            raise UserError("mesh.step = pmap shares rows along mesh.data only: mesh.fsdp and mesh.tensor must be 1")


@dataclass(frozen=True)
class DecodeConfig:
    """Decoding: beam search (section 6.1). From `min_length` on, what came after the paper (transformer/variants)."""

    beam: int = 4
    """Beam size. 1: greedy search."""
    alpha: float = 0.6
    """Length penalty: the score of a hypothesis is log P / ((5 + length) / 6)^alpha."""
    extra_length: int = 50
    """Maximum output length minus input length, in tokens."""
    batch_size: int = 64
    """Number of sentences translated at a time (fewer if they are long)."""
    tag: str | None = None
    """A piece written before each source line, such as <2de> (data.symbols): the language to translate into."""
    min_length: int = 0
    """Minimum output length in pieces, without EOS."""
    no_repeat_ngram: int = 0
    """No sequence of this many pieces occurs twice in an output (Paulus et al., 2018). 0: no such rule."""
    forbid_unk: bool = False
    """No <unk> in an output."""
    replace_unk: bool = False
    """Write the source word that attention points at in place of each <unk>."""
    only_trees: bool = False
    """Parsing: only sequences that are trees over the words of the sentence. The paper decodes without this."""
    sample: bool = False
    """Draw translations at random from the model's distribution instead of searching. Needs a beam of 1."""
    temperature: float = 1.0
    """Sampling: divide the logits by this. Below 1, likely pieces become likelier."""
    top_k: int = 0
    """Sampling: draw only from this many likeliest pieces. 0: from all."""
    top_p: float = 1.0
    """Sampling: draw only from the likeliest pieces that together reach this probability (Holtzman et al., 2020)."""
    seed: int = 0
    """Sampling: seed. A sample depends only on the seed, the line number of its sentence, and its own number."""
    iterations: int = 10
    """Architecture "mask-predict": number of passes through the decoder. decode.beam is then the number of lengths."""

    def __post_init__(self) -> None:
        _counts("decode", self, ("beam", "extra_length", "batch_size", "iterations"))
        if not 0.0 <= self.alpha < math.inf:
            raise UserError(f"decode.alpha must be 0 or more and finite, not {self.alpha}")
        for name in ("min_length", "no_repeat_ngram", "top_k", "seed"):
            if not 0 <= getattr(self, name) <= _LARGEST:
                raise UserError(f"decode.{name} must be from 0 to {_LARGEST}, not {getattr(self, name)}")
        if not 0.0 < self.temperature < math.inf:
            raise UserError(
                f"decode.temperature must be above 0 and finite, not {self.temperature}: "
                f"for the likeliest piece at each step, use greedy search (a beam of 1)"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"decode.top_p must be above 0 and at most 1, not {self.top_p}")
        if self.sample and self.beam > 1:
            raise UserError(f"decode.sample draws each translation by itself: it needs a beam of 1, not {self.beam}")
        for f in fields(self):
            if not self.sample and f.name in OF_SAMPLING and getattr(self, f.name) != f.default:
                raise UserError(f"decode.{f.name} affects only sampling: set decode.sample too, or leave it out")


OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")
"""Settings of decoding that affect only sampling."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021): trains a product of two small matrices in addition to a large one."""

    rank: int = 0
    """Rank r of the products; all other parameters are frozen. 0: no low-rank adaptation."""
    alpha: float = 16.0
    """The product is multiplied by alpha / r."""
    on: str = "query,value"
    """Which matrices: a comma-separated list of query, key, value, output (attention), inner and outer (FFN)."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= _LARGEST:
            raise UserError(f"lora.rank must be 0 or more, not {self.rank}")
        if not 0.0 < self.alpha < math.inf:
            raise UserError(f"lora.alpha must be positive and finite, not {self.alpha}")
        names = ("query", "key", "value", "output", "inner", "outer")
        if wrong := [name for name in self.on.split(",") if name not in names]:
            raise UserError(f"lora.on names {wrong[0]!r}; there are: {', '.join(names)}")


@dataclass(frozen=True)
class Experiment:
    """One experiment, from corpus to score: all settings that determine its result."""

    name: str
    """Name of the work directory and of the record."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    init: str | None = None
    """Start from the parameters of another run: RUN or RUN:CHECKPOINT (average, best, last, a step; default average).
    Its vocabulary may differ (rows of shared pieces are kept), and its depth with --init-layers."""
    init_layers: str | None = None
    """With --init and another depth: which layers to copy, counted from 0, such as encoder=0,2,4 or
    "encoder=0,2,4 decoder=5". Without it, the depths must be equal."""
    branch: str | None = None
    """Continue another run with changed settings: RUN or RUN:CHECKPOINT (last, best, a step; default last).
    Unlike --init this keeps the optimizer's state and the number of steps. The model must be the same."""
    freeze: str | None = None
    """Parameters that are not trained: comma-separated patterns such as encoder or decoder.*.self_attention,
    matched against the names that `inspect` prints or their beginning."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    note: str = ""
    """A remark for the reader of the record, in one sentence."""

    def __post_init__(self) -> None:
        if not (self.name.strip(". ") and self.name.isprintable()) or "/" in self.name:
            raise UserError(f"name {self.name!r} cannot name a run: use letters, digits and hyphens")
        if self.init and self.branch:
            raise UserError("--init and --branch are two ways to start from another run: give one of them")
        if self.init_layers and not self.init:
            raise UserError("--init-layers says which layers to copy from the run of --init, which is missing")
        rows = self.model.vocab_size
        if rows < self.data.vocab_size:
            pieces = counted(self.data.vocab_size, "piece")
            raise UserError(
                f"the vocabulary has {pieces} but the embedding only {counted(rows, 'row')}: "
                f"raise --model.vocab-size or lower --data.vocab-size"
            )
        if self.data.vocabularies == "separate" and self.model.tied == "all":
            raise UserError(
                "separate vocabularies cannot share an embedding matrix: set --model.tied target or none, or "
                "--data.vocabularies shared"
            )
        if self.model.source_rows < self.data.source_pieces:
            pieces, rows = counted(self.data.source_pieces, "piece"), self.model.source_rows
            raise UserError(
                f"the vocabulary of the source has {pieces} but its embedding only {counted(rows, 'row')}: "
                f"raise --model.source-vocab-size or lower --data.source-vocab-size"
            )
        _check_labels(self)
        _check_mask_predict(self)
        if self.decode.top_k > self.data.vocab_size:
            pieces = counted(self.data.vocab_size, "piece")
            raise UserError(f"decode.top_k is {self.decode.top_k}, but the vocabulary has only {pieces}")

    @classmethod
    def from_dict(cls, settings: dict[str, Any], source: Path | None = None) -> Self:
        """Inverse of `dataclasses.asdict`, for settings read from JSON. A missing setting takes its default.

        Args:
            source: the file that the settings were read from, which errors name.

        Raises:
            UserError: an unknown setting (the message suggests similar ones), or a value that is not valid.
        """
        try:
            return _from_dict(cls, settings)
        except UserError as error:
            if source is None:
                raise
            raise UserError(f"{source}: {error}") from error


LABELLED = {"classification": "classifier", "tagging": "tagger", "entities": "tagger"}
"""The tasks whose targets are labels, with the architecture that predicts them."""

_OF_SEARCH = ("beam", "alpha", "extra_length", "batch_size")
"""Settings of decoding that may keep the values of a search: those that predict labels without one ignore them."""


def _only(decode: DecodeConfig, names: Iterable[str], what: str) -> None:
    """UserError if a setting with another name is set: `what` is predicted without a search."""
    for f in fields(decode):
        if f.name not in names and getattr(decode, f.name) != f.default:
            raise UserError(f"decode.{f.name} is for outputs that are searched for: {what} are not")


def _check_labels(experiment: Experiment) -> None:
    """UserError if the task has labels and the model predicts a sequence, or the other way round."""
    task, architecture = experiment.data.task, experiment.model.architecture
    if task in LABELLED and architecture == "encoder-decoder":
        raise UserError(
            f"data.task {task} needs a model that predicts labels: --model.architecture {LABELLED[task]} "
            f"--model.decoder-layers 0 --model.tied target --data.vocabularies separate"
        )
    tasks = [known for known, needed in LABELLED.items() if needed == architecture]
    if tasks and task not in tasks:
        raise UserError(f"model.architecture {architecture} predicts labels: --data.task {' or '.join(tasks)}")
    if task in LABELLED:
        for name in ("context", "documents"):
            if getattr(experiment.data, name) != getattr(DataConfig, name):
                raise UserError(f"data.{name} is for translations of documents: leave it out with data.task {task}")
        _only(experiment.decode, _OF_SEARCH, f"labels of {task}")


def _check_mask_predict(experiment: Experiment) -> None:
    """UserError for the loss of another architecture, and for settings of a search that mask-predict does not make."""
    name, decode = experiment.model.architecture, experiment.decode
    if name != "mask-predict":
        if experiment.train.loss == "mask_predict":
            raise UserError("train.loss mask_predict needs --model.architecture mask-predict")
        if decode.iterations != DecodeConfig.iterations:
            raise UserError(f"decode.iterations is for --model.architecture mask-predict, not for {name}")
        return
    if experiment.data.context > 1:
        raise UserError(f"model.architecture {name} translates single sentences: data.context must be 1")
    known = experiment.model.max_positions
    if known < experiment.data.max_length:
        raise UserError(
            f"mask-predict predicts lengths up to model.max_positions ({known}), which must be at least "
            f"data.max_length ({experiment.data.max_length})"
        )
    if decode.beam > known:
        raise UserError(f"decode.beam is {decode.beam} lengths, but the model knows only model.max_positions ({known})")
    _only(decode, (*_OF_SEARCH, "iterations", "tag", "replace_unk"), f"those of {name}")


def _from_dict(cls: Any, settings: dict[str, Any], prefix: str = "") -> Any:
    if not isinstance(settings, dict):
        raise UserError(
            f"{prefix.rstrip('.') or 'an experiment'} expects an object with settings, not {settings!r:.60}"
        )
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(_unknown_setting(prefix + unknown[0], [prefix + name for name in known]))
    required = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - set(settings)):
        raise UserError(f"the setting {prefix + missing[0]!r} is missing")
    values = {}
    for name, value in settings.items():
        if is_dataclass(known[name].type):
            values[name] = _from_dict(known[name].type, value, f"{prefix}{name}.")
        else:
            values[name] = _typed(prefix + name, known[name].type, value)
    return cls(**values)


def _unknown_setting(name: str, siblings: list[str]) -> str:
    """Returns the error message for an unknown setting: with similar ones, or else with those of its section."""

    def last(dotted: str) -> str:  # a common prefix would make any two settings of a section similar
        return dotted.rpartition(".")[2]

    for names in (siblings, list(_setting_names(Experiment))):
        words = get_close_matches(last(name), list(map(last, names)), n=1)
        if near := [other for other in names if last(other) in words]:
            return f"unknown setting {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"unknown setting {name!r}; there are: {', '.join(siblings)}"


def _setting_names(cls: Any, prefix: str = "") -> Iterator[str]:
    for f in fields(cls):
        yield prefix + f.name
        if is_dataclass(f.type):
            yield from _setting_names(f.type, f"{prefix}{f.name}.")


def _typed(name: str, kind: Any, value: Any) -> Any:
    """Returns the value if it has the type of its field, since JSON has neither integers nor enumerations."""
    options = _options(kind)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif (option is float and type(value) is int) or type(value) is option:
            return value
    null = " or null" if NoneType in options else ""
    raise UserError(f"{name} expects {expected(kind)}{null}, not {value!r:.60}")


def expected(kind: Any) -> str:
    """Describes the values of a type other than None, for messages: "a whole number", "one of post, pre"."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}
    return " or ".join(
        f"one of {', '.join(get_args(option))}" if get_origin(option) is Literal else words.get(option, "a value")
        for option in _options(kind)
        if option is not NoneType
    )


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)  # `Literal[...] | None` is a Union
