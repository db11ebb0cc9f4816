"""What the imports of other programs' models share: a vocabulary of theirs as ours, and the run that is made of it.

- Ids 0 to 3 are PAD, BOS, EOS and UNK here, so the rows of all embedding matrices are permuted. Where their decoding
  starts from another token, such as padding or </s>, our BOS is a copy of it.
- A sentencepiece model splits a text into pieces, another file gives them ids. Both become one sentencepiece model,
  whose piece i is that of id i. Pieces that only the other file has are never chosen for a text; those that only the
  sentencepiece model has are chosen and read as <unk>, as there (data.tokenizer.END_PIECE).
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from data.languages import Languages
from data.tokenizer import END_PIECE, Tokenizer
from experiments.evaluation.records import commit
from experiments.exchange.arrays import library
from experiments.exchange.check import Log
from experiments.exchange.folder import shapes_of
from experiments.translator import Translator
from transformer.config import (
    BOS,
    EOS,
    PAD,
    UNK,
    DataConfig,
    DecodeConfig,
    Experiment,
    ModelConfig,
    UserError,
    counted,
)
from transformer.parameters import named

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
"""Our names of ids 0 to 3."""

LONGEST = 1024
"""Most tokens of a sentence in training, whatever the settings of a model say."""

KINDS: dict[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}
"""Algorithms of sentencepiece, by their number in a model."""


NO_SENTENCEPIECE = (
    "subwords of subword-nmt or fastBPE (@@) are merges of certain pairs in words of Moses, and no sentencepiece model "
    "splits all text like them: retrain that model with sentencepiece, or train one here on its translations"
)
"""Why other subwords do not come in, and what can be done."""


class Vocabulary(NamedTuple):
    """A vocabulary of theirs: one side's, or both sides'."""

    pieces: list[str]
    """Ours, by id."""
    rows: np.ndarray
    """For each row of our matrices, theirs, [at least as many as pieces]."""

    @property
    def own_start(self) -> bool:
        """Whether decoding starts from a token with no other use, such as <s>."""
        return int((self.rows == self.rows[BOS]).sum()) == 1


class Special(NamedTuple):
    """Their ids of the tokens that are PAD, BOS, EOS and UNK here."""

    pad: int
    start: int
    """The token that decoding starts from."""
    eos: int
    unk: int


def vocabulary_of(by_id: dict[int, str], rows: int, special: Special) -> Vocabulary:
    """Returns a vocabulary of theirs in our order of ids.

    Args:
        by_id: pieces.
        rows: of the embedding matrix.
    """
    pad, start, eos, unk = special
    moved = {pad, eos, unk} | ({start} if by_id.get(start) == SPECIAL[BOS] else set())
    others = [i for i in range(rows) if i not in moved]
    named_rows = max(by_id) + 1
    pieces = [*SPECIAL, *(by_id.get(i, f"<unused {i}>") for i in others if i < named_rows)]
    # A piece with one of our names for the special ids, such as <s> where decoding starts from another token.
    pieces = [f"<not {piece}>" if i > UNK and piece in SPECIAL else piece for i, piece in enumerate(pieces)]
    return Vocabulary(pieces, np.array([pad, start, eos, unk, *others]))


def proto_of(model: bytes) -> Any:
    """Returns a sentencepiece model as a message of protobuf."""
    return library("sentencepiece.sentencepiece_model_pb2").ModelProto.FromString(model)


def read_proto(path: Path) -> Any:
    """Reads a sentencepiece model. UserError if it is none, or of an algorithm that this code does not have."""
    try:
        proto = proto_of(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # of protobuf
        raise UserError(f"{path}: this is not a sentencepiece model") from error
    if proto.trainer_spec.model_type not in KINDS:
        raise UserError(f"{path}: its model_type is neither unigram nor bpe")
    return proto


def sentencepiece_of(
    path: Path, pieces: list[str], log: Log, restricted: bool = False, silent: Collection[str] = ()
) -> bytes:
    """Returns a sentencepiece model that splits a text like that in `path`, and has these pieces, by id.

    Args:
        restricted: only pieces of the vocabulary and single characters are chosen for a text.
        silent: pieces that decode to nothing.
    """
    proto = read_proto(path)
    kind = type(proto).SentencePiece
    used = {piece.piece: piece for piece in proto.pieces if piece.type not in (kind.CONTROL, kind.UNKNOWN)}
    used.pop(END_PIECE, None)  # of an export of an imported model
    if not used:
        raise UserError(f"{path}: this is not a sentencepiece model")
    lowest = min(piece.score for piece in used.values()) - 1
    types = {0: kind.CONTROL, 1: kind.CONTROL, 2: kind.CONTROL, 3: kind.UNKNOWN}
    made = [
        used[piece]
        if piece in used and i > UNK
        else kind(
            piece=piece,
            score=0.0 if i <= UNK else lowest,
            type=types.get(i, kind.CONTROL if piece in silent else kind.UNUSED),
        )
        for i, piece in enumerate(pieces)
    ]
    if outside := [piece for name, piece in used.items() if name not in set(pieces)]:
        log(f"{path.name}: {counted(len(outside), 'piece')} that the vocabulary does not have: read as <unk>, as there")
        for piece in outside if restricted else ():
            piece.type = piece.type if len(piece.piece) == 1 else kind.UNUSED
        made += [kind(piece=END_PIECE, score=lowest, type=kind.UNUSED), *outside]
    # A new message, without the sentences with which sentencepiece tests the original pieces when it loads them.
    new = type(proto)(normalizer_spec=proto.normalizer_spec, trainer_spec=proto.trainer_spec, pieces=made)
    if proto.HasField("denormalizer_spec"):
        new.denormalizer_spec.CopyFrom(proto.denormalizer_spec)
    trainer = new.trainer_spec
    trainer.pad_id, trainer.bos_id, trainer.eos_id, trainer.unk_id = PAD, BOS, EOS, UNK
    trainer.pad_piece, trainer.bos_piece, trainer.eos_piece, trainer.unk_piece = SPECIAL
    trainer.vocab_size = len(made)
    serialized: bytes = new.SerializeToString()
    return serialized


def sized(model: ModelConfig, source: Vocabulary, target: Vocabulary) -> ModelConfig:
    """Returns the settings of the model with the rows of these vocabularies."""
    rows, source_rows = len(target.rows), len(source.rows)
    return replace(model, vocab_size=rows, source_vocab_size=None if source_rows == rows else source_rows)


class Origin(NamedTuple):
    """Where a model comes from, and what is known of how it was trained."""

    folder: Path
    format: str
    weights: Sequence[Path]
    """The files with its parameters."""
    languages: str
    """Such as en-de, or anything else if they are not known."""
    longest: int
    """Most tokens of a sentence in training, at most `LONGEST`."""


def translator_of(
    origin: Origin,
    model: ModelConfig,
    arrays: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    sides: tuple[Vocabulary, Vocabulary],
    decode: DecodeConfig,
    log: Log,
) -> Translator:
    """Returns the model as one of ours.

    Args:
        arrays: parameters under our names, with their rows. The axes of heads may be one.
        sides: vocabularies of source and target.
    """
    source, target = (each.rows for each in sides)
    rows = {"embedding": target, "output_embedding": target, "output_bias": target, "source_embedding": source}
    found = arrays | {name: arrays[name][each] for name, each in rows.items() if name in arrays}
    if "output_bias" in found:
        found["output_bias"][[PAD, BOS]] = 0.0  # they have no probability here
    experiment = experiment_of(origin, model, tokenizer, decode)
    template = shapes_of(experiment)
    shapes = named(template)
    leaves = [jax.numpy.asarray(found[name].reshape(shape.shape), np.float32) for name, shape in shapes.items()]
    translator = Translator(jax.tree.unflatten(jax.tree.structure(template), leaves), experiment, tokenizer, log)
    translator.meta, translator.steps, translator.selection = provenance(origin, experiment, tokenizer), [0], "import"
    return translator


def experiment_of(origin: Origin, model: ModelConfig, tokenizer: Tokenizer, decode: DecodeConfig) -> Experiment:
    """Returns the settings of a run with this model."""
    separate = not tokenizer.one_vocabulary
    try:
        languages = str(Languages.parse(origin.languages))
    except UserError:  # multilingual, or not given
        languages = None
    data = DataConfig(
        corpus="files",
        languages=languages,
        vocab_type=KINDS[proto_of(tokenizer.to_bytes()).trainer_spec.model_type],
        vocab_size=tokenizer.size,
        vocabularies="separate" if separate else "shared",
        source_vocab_size=tokenizer.source.size if separate else None,
        max_length=max(2, min(origin.longest, LONGEST)),
    )
    name = re.sub(r"[^\w.-]+", "-", origin.folder.resolve().name).strip(".-") or origin.format.lower()
    note = f"imported from the {origin.format} folder {name}"
    return Experiment(name, model=model, data=data, decode=decode, note=note)


def provenance(origin: Origin, experiment: Experiment, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the metadata of the checkpoint: that of a model whose training is not known."""
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in origin.weights}
    run = origin.folder.resolve().name
    return {
        "experiment": asdict(experiment),
        "vocabulary": tokenizer.sha256,
        "data": {"corpus": "unknown", "hash": "", "sources": {}, "splits": {}},
        "commit": commit(),
        "lineage": [{"how": "import", "run": run, "format": origin.format.lower(), "sha256": sha256}],
        "step": 0,
        "dev_loss": None,
        "seconds": 0.0,
        "target_tokens": 0,
    }


def examples(translator: Translator, count: int) -> list[str]:
    """Returns texts of random pieces of the source, with its language codes in turn, if it has any."""
    tokenizer, chance = translator.tokenizer.source, np.random.default_rng(0)
    pieces = tokenizer.pieces(range(tokenizer.size))
    codes = [piece for piece in pieces if re.fullmatch(r">>.+<<", piece)]
    kept = [i for i in range(UNK + 1, tokenizer.size) if tokenizer.ids([pieces[i]]) == [i] and pieces[i] not in codes]
    texts = tokenizer.decode(chance.choice(kept, length).tolist() for length in chance.integers(1, 24, count))
    return [f"{codes[i % len(codes)]} {text}" if codes else text for i, text in enumerate(texts) if text.strip()]
