"""Every setting of an experiment: frozen dataclasses, and no JAX.

The string below a field is its help text on the command line. Defaults are the paper's base model
(Table 3, first row), so a variant is a `dataclasses.replace` of what it changes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, Self

# The reserved ids of every vocabulary: padding, beginning and end of a sentence, what no piece spells.
PAD, BOS, EOS, UNK = 0, 1, 2, 3


class UserError(Exception):
    """Something the user can put right. The message is one line that names what and where.

    No ValueError: tyro catches those that a dataclass raises, and prints a box around them.
    """


def counted(count: int, thing: str, plural: str = "") -> str:
    """A count in a message: 1 line, 2,000 lines, 2 batches. Without a plural the thing takes an s."""
    return f"{count:,} {thing if count == 1 else plural or thing + 's'}"


_LARGEST = 2**31 - 1  # JAX counts in int32


def _counts(section: str, config: Any, names: Iterable[str]) -> None:
    """UserError if one of these settings is not at least 1, or larger than JAX can count."""
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise UserError(f"{section}.{name} must be at least 1, not {value}")
        if value > _LARGEST:
            raise UserError(f"{section}.{name} must be at most {_LARGEST}, not {value}")


@dataclass(frozen=True)
class ModelConfig:
    """The model of section 3. Every knob that Table 3 turns is a field."""

    vocab_size: int = 37_000
    """V: rows of the one embedding matrix. At least the pieces of the vocabulary; more is allowed."""
    num_layers: int = 6
    """N: layers in the encoder, and as many in the decoder."""
    d_model: int = 512
    """D: width of every sub-layer's output. d_k and d_v do not follow from it: set them too."""
    d_ff: int = 2048
    """F: inner width of the feed-forward network."""
    num_heads: int = 8
    """h: attention heads."""
    d_k: int = 64
    """Width of one head's queries and keys; in the paper d_model / h."""
    d_v: int = 64
    """Width of one head's values; in the paper d_model / h."""
    dropout: float = 0.1
    """P_drop: on each sub-layer's output, and on embedding + position."""
    positions: str = "sinusoidal"
    """Position encoding, by its name in transformer.positions.POSITIONS."""
    attention: str = "softmax"
    """Attention, by its name in transformer.attention.ATTENTIONS."""
    norm_type: str = "layer"
    """Norm, by its name in transformer.layers.NORMS."""
    max_positions: int = 1024
    """Rows of a learned position table. Sinusoids need none."""
    norm: Literal["post", "pre"] = "post"
    """Where the norm stands: LayerNorm(x + f(x)) as in the paper, or x + f(LayerNorm(x))."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the products. Parameters, softmax, norm statistics and loss are float32 always."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "num_layers", "d_model", "d_ff", "num_heads", "d_k", "d_v", "max_positions")
        _counts("model", self, sizes)
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"model.dropout must lie in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class DataConfig:
    """Which text, which vocabulary, and how large the batches are (section 5.1)."""

    corpus: str = "grammar"
    """Corpus by its name in data.corpora.CORPORA, or "files": your own text, as the seven fields below say."""
    train_src: str | None = None
    """Your own training text, source side: UTF-8, one sentence a line."""
    train_tgt: str | None = None
    """Its translation, line by line."""
    dev_src: str | None = None
    """Your own validation text, source side."""
    dev_tgt: str | None = None
    """Its translation."""
    test_src: str | None = None
    """Your own test text, source side (optional: without it the validation text is scored)."""
    test_tgt: str | None = None
    """Its translation."""
    languages: str | None = None
    """Of your own text: BCP 47 codes, as in en-fr, nds-de or zh-Hans-en (optional). The target's decides how words are
    counted in BLEU; into German, the paper's BLEU is computed too."""
    train_pairs: int | None = None
    """Take only this many training pairs, from the top. None: all (the endless grammar: 100,000)."""
    vocab_type: Literal["bpe", "unigram"] = "bpe"
    """The sentencepiece algorithm."""
    vocab_size: int = 37_000
    """Pieces in the vocabulary shared by both languages."""
    max_length: int = 128
    """Training pairs with more tokens than this on either side are dropped, and counted."""
    max_unknown: float = 0.01
    """Text of which a greater part of the tokens is <unk>, on either side of any split, is refused."""
    batch_tokens: int = 25_000
    """Token slots of one batch, on the larger side, padding included."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UserError(f"data.max_length must be at least 2, not {self.max_length}")
        _counts("data", self, ("max_length", "batch_tokens"))
        if self.batch_tokens < self.max_length:
            raise UserError(
                f"data.batch_tokens ({self.batch_tokens}) must hold one sentence of data.max_length ({self.max_length})"
            )
        if not 8 <= self.vocab_size < 2**16:
            raise UserError(f"data.vocab_size must lie in [8, 65535] (ids are 16 bit), not {self.vocab_size}")
        if not 0.0 <= self.max_unknown <= 1.0:
            raise UserError(f"data.max_unknown must lie in [0, 1], not {self.max_unknown}")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its schedule (section 5.3)."""

    name: str = "adam"
    """Optimizer, by its name in transformer.optimizer.OPTIMIZERS."""
    schedule: str = "inverse_sqrt"
    """Learning rate over the steps, by its name in transformer.optimizer.SCHEDULES."""
    warmup_steps: int = 4000
    """Steps over which the learning rate rises linearly, before it falls as 1/sqrt(step)."""
    scale: float = 1.0
    """Multiplies the paper's rate, d_model^-0.5 * min(step^-0.5, step * warmup^-1.5)."""
    b1: float = 0.9
    """Adam's beta 1."""
    b2: float = 0.98
    """Adam's beta 2."""
    eps: float = 1e-9
    """Adam's epsilon."""

    def __post_init__(self) -> None:
        _counts("optimizer", self, ("warmup_steps",))
        for name in ("scale", "eps"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise UserError(f"optimizer.{name} must be positive and finite, not {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"optimizer.{name} must lie in [0, 1), not {getattr(self, name)}")


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to write down on the way (sections 5.2, 5.4)."""

    steps: int = 100_000
    """Parameter updates."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and the dropout: below 2^32."""
    label_smoothing: float = 0.1
    """eps_ls: this much probability is taken from the right token and spread over the V - 1 wrong ones."""
    accumulate: int = 1
    """Split each batch into this many parts, and add their gradients up before the update."""
    log_every: int = 100
    """Steps between progress lines."""
    eval_every: int = 1000
    """Steps between validations, each with a checkpoint."""
    eval_sentences: int = 64
    """The first so many sentences of the validation text are translated at each validation, by greedy search: for a
    BLEU that shows how it goes, and for two samples."""
    keep: int = 5
    """Newest checkpoints to keep; the one with the lowest validation loss is kept besides."""
    max_bad_steps: int = 20
    """Stop after this many non-finite steps in a row."""

    def __post_init__(self) -> None:
        counts = ("steps", "accumulate", "log_every", "eval_every", "eval_sentences", "keep", "max_bad_steps")
        _counts("train", self, counts)
        # NumPy knows no negative seed, and JAX takes one modulo 2^32: another seed, but the same parameters.
        if not 0 <= self.seed < 2**32:
            raise UserError(f"train.seed must lie in [0, 4294967295], not {self.seed}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(f"train.label_smoothing must lie in [0, 1), not {self.label_smoothing}")


@dataclass(frozen=True)
class MeshConfig:
    """How devices share the work. What the model computes is the same, but for rounding, and so are its parameters,
    but for the keys' biases: softmax does not see them, and nothing but rounding moves them."""

    data: int = 0
    """Devices that share the rows of a batch, and hold all parameters each. 0: those that the other two leave."""
    fsdp: int = 1
    """Devices that share the rows of a batch, and also the parameters and the optimizer's state."""
    tensor: int = 1
    """Devices that share the heads, the inner width of the feed-forward networks and the vocabulary."""
    step: Literal["pjit", "pmap"] = "pjit"
    """Who divides the work: the compiler, for one program over all devices; or the program, which each device runs on
    its own rows (only along `data`)."""

    def __post_init__(self) -> None:
        if self.data < 0:
            raise UserError(f"mesh.data must be 0 or more, not {self.data}")
        _counts("mesh", self, ("fsdp", "tensor"))
        if self.step == "pmap" and (self.fsdp, self.tensor) != (1, 1):
            raise UserError("mesh.step = pmap shares rows along mesh.data only: mesh.fsdp and mesh.tensor must be 1")


@dataclass(frozen=True)
class DecodeConfig:
    """How to translate (section 6.1)."""

    beam: int = 4
    """Beam size. 1 is greedy search."""
    alpha: float = 0.6
    """Length penalty: a score is log P / ((5 + length) / 6)^alpha."""
    extra_length: int = 50
    """An output may have this many tokens more than its input."""
    batch_size: int = 64
    """Sentences translated at a time (fewer when they are long)."""

    def __post_init__(self) -> None:
        _counts("decode", self, ("beam", "extra_length", "batch_size"))
        if not 0.0 <= self.alpha < math.inf:
            raise UserError(f"decode.alpha must be 0 or more and finite, not {self.alpha}")


@dataclass(frozen=True)
class Experiment:
    """One run from text to score: everything that decides its result."""

    name: str
    """Names the work directory and the record."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    note: str = ""
    """What a reader of the record must know, in a sentence."""

    def __post_init__(self) -> None:
        rows = self.model.vocab_size
        if rows < self.data.vocab_size:
            pieces = counted(self.data.vocab_size, "piece")
            raise UserError(
                f"the vocabulary has {pieces} but the embedding only {counted(rows, 'row')}: "
                f"raise --model.vocab-size or lower --data.vocab-size"
            )

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, for settings read from JSON. One that is missing has its default.

        UserError names a field that is unknown, or says that these are no settings.
        """
        try:
            return _from_dict(cls, settings)
        except (TypeError, AttributeError) as error:
            raise UserError(f"these are not the settings of an experiment: {error}") from error


def _from_dict(cls: Any, settings: dict[str, Any]) -> Any:
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(f"unknown setting {unknown[0]!r} of {cls.__name__}: written by another version?")
    nested = {name: f.type for name, f in known.items() if is_dataclass(f.type)}
    return cls(**{name: _from_dict(nested[name], v) if name in nested else v for name, v in settings.items()})
