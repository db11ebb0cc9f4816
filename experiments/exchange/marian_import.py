"""Reads a Marian folder of Hugging Face transformers, such as one of OPUS-MT, as a model of ours."""

import os
from pathlib import Path
from typing import Any, Literal

from data.tokenizer import Tokenizer
from experiments.exchange.arrays import library
from experiments.exchange.check import Log, Mapping, Transformers
from experiments.exchange.imported import (
    SPECIAL,
    Origin,
    Special,
    Vocabulary,
    sentencepiece_of,
    translator_of,
    vocabulary_of,
)
from experiments.exchange.marian import ACTIVATIONS, from_marian
from experiments.translator import Translator
from transformer.checkpoint import brief, read_json
from transformer.config import BOS, EOS, PAD, DecodeConfig, ModelConfig, UserError

EPSILON = 1e-5
"""What MarianMTModel adds to the variance in its norms; its config.json has no setting for it."""

NEEDED: dict[str, Any] = {
    "is_encoder_decoder": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
"""Settings of config.json that we have no other value for; one that is missing has this one."""

SIZES = (
    *(f"{side}_{name}" for side in ("encoder", "decoder") for name in ("layers", "ffn_dim")),
    *("max_position_embeddings", "vocab_size", "decoder_vocab_size"),
)
"""Numbers that say how large a model is; and the largest that any of them can be."""
LARGEST = 1 << 20

NEUTRAL: dict[str, Any] = {
    "forced_bos_token_id": None,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "do_sample": False,
    "num_beam_groups": 1,
    "min_new_tokens": None,
}
"""Settings of generation that change outputs, and their values without effect: we have no others."""


def read_marian(folder: Path, log: Log) -> tuple[Translator, Transformers]:
    """Reads a folder of MarianMTModel and MarianTokenizer, and returns the model here and there.

    Raises:
        UserError: a file is missing or damaged, or has a setting that this code does not have; the message names it.
    """
    config = read_json(folder / "config.json")
    check_settings(folder / "config.json", config)
    for path in (folder / "generation_config.json", folder / "tokenizer_config.json"):
        if os.path.lexists(path):
            read_json(path)  # transformers ignores one that is damaged or a broken link, and what it would say
    model, theirs = load(folder)
    generation = {name: getattr(model.generation_config, name, None) for name in (*NEUTRAL, "bad_words_ids")}
    check_generation(generation, model.config)
    separate = bool(theirs.separate_vocabs)
    if separate and model.config.share_encoder_decoder_embeddings:
        raise UserError(f"{folder}: separate_vocabs cannot be with share_encoder_decoder_embeddings")
    source_rows = model.get_encoder().embed_tokens.weight.shape[0]
    target_rows = model.get_decoder().embed_tokens.weight.shape[0]
    target_file = folder / ("target_vocab.json" if separate else "vocab.json")
    target = read_vocabulary(target_file, theirs, target_rows, model.config)
    source = read_vocabulary(folder / "vocab.json", theirs, source_rows, None) if separate else target
    if not separate and source_rows != target_rows:
        raise UserError(
            f"{folder}: vocab_size = {source_rows} and decoder_vocab_size = {target_rows} differ, but "
            f"tokenizer_config.json has no separate_vocabs"
        )
    tokenizer = Tokenizer(
        sentencepiece_of(folder / "target.spm", target.pieces, log),
        Tokenizer(sentencepiece_of(folder / "source.spm", source.pieces, log)),
    )
    arrays = {name: array.detach().float().numpy() for name, array in model.state_dict().items()}
    found = from_marian(model_of(model.config, 1, 1, False), arrays)
    biased = bool(found["output_bias"][target.rows[EOS:]].any())  # PAD and BOS have no probability here
    config_here = model_of(model.config, len(target.rows), len(source.rows), biased)
    weights = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin") and path.is_file())
    languages = f"{theirs.source_lang}-{theirs.target_lang}"
    origin = Origin(folder, "Marian", weights, languages, theirs.model_max_length)
    generation_config = model.generation_config
    decode = DecodeConfig(
        beam=generation_config.num_beams or 1,
        no_repeat_ngram=generation_config.no_repeat_ngram_size or 0,
        min_length=generation_config.min_length or 0,
    )
    translator = translator_of(origin, config_here, found, tokenizer, (source, target), decode, log)
    never = sorted({int(target.rows[PAD])} | ({int(target.rows[BOS])} if target.own_start else set()))
    return translator, Transformers(model, theirs, Mapping(source.rows, target.rows, never))


def check_settings(path: Path, config: dict[str, Any]) -> None:
    """Raises UserError for a setting that a model of ours cannot have."""
    if (kind := config.get("model_type")) != "marian":
        raise UserError(f"{path}: model_type = {kind!r}: of the models of transformers, `import` reads marian")
    for name, needed in NEEDED.items():
        if config.get(name, needed) != needed:
            raise UserError(f"{path}: {name} = {config[name]}; this code needs {needed}")
    for name in ("attention_heads", "ffn_dim"):
        if config.get(f"encoder_{name}") != config.get(f"decoder_{name}"):
            each = (f"{side}_{name} = {config.get(f'{side}_{name}')}" for side in ("encoder", "decoder"))
            raise UserError(f"{path}: {' and '.join(each)}; this code needs equal ones")
    if config.get("activation_function") not in (*ACTIVATIONS.values(), "silu"):
        raise UserError(
            f"{path}: activation_function = {config.get('activation_function')}; this code has "
            f"{', '.join(ACTIVATIONS.values())}"
        )
    width, heads = config.get("d_model"), config.get("encoder_attention_heads")
    if not (type(width) is type(heads) is int and min(heads, width) > 0 and width % 2 == width % heads == 0):
        raise UserError(f"{path}: d_model = {width} must be even, and encoder_attention_heads = {heads} divide it")
    # transformers would make what these say, until the memory is full, before it looks at the weights.
    for name in SIZES:
        value = config.get(name, 1)
        if value is None and name == "decoder_vocab_size":  # as large as the other
            continue
        if not (type(value) is int and 0 < value <= LARGEST):
            raise UserError(f"{path}: {name} = {value!r} must be a whole number from 1 to {LARGEST:,}")
    stacks = config.get("encoder_layers", 1) + 2 * config.get("decoder_layers", 1)
    needed, there = 4 * stacks * width**2, sum(file.stat().st_size for file in weights_of(path.parent))
    if there and needed > there:  # of one byte each, at least
        raise UserError(
            f"{path}: d_model = {width} and {stacks} attention layers are {needed:,} parameters, but the weights have "
            f"only {there:,} bytes"
        )


def weights_of(folder: Path) -> list[Path]:
    """Returns the files with weights of a folder of transformers."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin") and path.is_file())


def check_generation(settings: dict[str, Any], config: Any) -> None:
    """Raises UserError for a setting of generation_config.json that changes outputs, and that we do not have."""
    for name, neutral in NEUTRAL.items():
        if settings[name] not in (neutral, None, []):
            raise UserError(f"generation_config.json: {name} = {settings[name]}; this code needs {neutral}")
    if any(words != [config.pad_token_id] for words in settings["bad_words_ids"] or []):
        raise UserError(f"generation_config.json: bad_words_ids has more than the padding token {config.pad_token_id}")
    for name in ("eos_token_id", "decoder_start_token_id"):
        if not isinstance(getattr(config, name), int):
            raise UserError(f"config.json: {name} = {getattr(config, name)}; this code needs one token")
    if config.forced_eos_token_id not in (None, config.eos_token_id):
        raise UserError(f"config.json: forced_eos_token_id = {config.forced_eos_token_id}, which is not eos_token_id")


def load(folder: Path) -> tuple[Any, Any]:
    """Loads MarianMTModel in float32, and MarianTokenizer. A pickle file is read as weights only: it runs no code."""
    torch, transformers = library("torch"), library("transformers")
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = transformers.MarianMTModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, weights_only=True, output_loading_info=True
        )
        tokenizer = transformers.MarianTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types
        raise UserError(f"{folder} cannot be loaded by transformers: {brief(error)}") from error
    for what, keys in report.items():
        if keys:
            raise UserError(f"{folder}: {what.replace('_', ' ')}: {sorted(map(str, keys))[0]}")
    for stack in (model.get_encoder(), model.get_decoder()):
        positions = stack.embed_positions.weight
        if not torch.allclose(positions, stack.embed_positions.create_weight(), atol=1e-5):
            raise UserError(f"{folder}: embed_positions are not the sinusoids of static_position_embeddings")
    return model, tokenizer


def model_of(config: Any, rows: int, source_rows: int, biased: bool) -> ModelConfig:
    """Returns the settings of our model."""
    width = config.d_model // config.encoder_attention_heads
    shared = config.share_encoder_decoder_embeddings
    tied: Literal["all", "target", "none"] = "all" if shared else "target"
    return ModelConfig(
        vocab_size=rows,
        source_vocab_size=None if source_rows == rows else source_rows,
        tied=tied if config.tie_word_embeddings else "none",
        num_layers=config.encoder_layers,
        decoder_layers=None if config.decoder_layers == config.encoder_layers else config.decoder_layers,
        d_model=config.d_model,
        d_ff=config.encoder_ffn_dim,
        num_heads=config.encoder_attention_heads,
        d_k=width,
        d_v=width,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        activation={theirs: ours for ours, theirs in (*ACTIVATIONS.items(), ("swish", "silu"))}[
            config.activation_function
        ],
        scale_embeddings=config.scale_embedding,
        norm_epsilon=EPSILON,
        output_bias=biased,
    )


def read_vocabulary(path: Path, theirs: Any, rows: int, config: Any) -> Vocabulary:
    """Reads vocab.json, or target_vocab.json.

    Args:
        rows: of the embedding matrix.
        config: that of the model, whose ids are those of the target; None for the source.
    """
    ids = read_json(path)
    try:
        "".join(ids).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path} has a piece that is not valid text: {error.reason}") from error
    by_id = {i: piece for piece, i in ids.items() if type(i) is int}
    if len(by_id) != len(ids) or not all(0 <= i < rows for i in by_id):
        raise UserError(f"{path} does not have one id below {rows} (vocab_size of config.json) for each piece")
    wanted = {"pad_token": theirs.pad_token, "eos_token": theirs.eos_token, "unk_token": theirs.unk_token}
    if missing := [f"{name} {piece!r}" for name, piece in wanted.items() if piece not in ids]:
        raise UserError(f"{path} does not have the {missing[0]}")
    if extra := sorted(set(theirs.added_tokens_encoder) - set(ids)):
        raise UserError(f"{path} does not have the token {extra[0]!r} of added_tokens.json or tokenizer_config.json")
    pad, eos, unk = (ids[piece] for piece in wanted.values())
    if config is not None:
        for name, i in (("pad_token_id", pad), ("eos_token_id", eos)):
            if getattr(config, name) != i:
                raise UserError(f"config.json: {name} = {getattr(config, name)}, but {i} in {path}")
    start = ids.get(SPECIAL[BOS], pad) if config is None else config.decoder_start_token_id
    if not 0 <= start < rows:
        raise UserError(f"config.json: decoder_start_token_id = {start}, which is not below {rows}")
    return vocabulary_of(by_id, rows, Special(pad, start, eos, unk))
