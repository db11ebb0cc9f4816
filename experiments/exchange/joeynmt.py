"""Reads a Transformer of JoeyNMT as a model of ours: config.yaml, *.ckpt, the vocabularies and sentencepiece models.

- Its names of layers are its own; its function is that of the paper, in post-norm or pre-norm.
- It marks pieces of the sentencepiece model that the vocabulary does not have as unused: a text is split into others.
"""

import math
import re
from pathlib import Path
from typing import Any, Literal

import sentencepiece

from data.tokenizer import Tokenizer
from experiments.exchange.arrays import library
from experiments.exchange.check import Log, Mapping
from experiments.exchange.imported import (
    LONGEST,
    NO_SENTENCEPIECE,
    SPECIAL,
    Origin,
    Special,
    read_proto,
    sentencepiece_of,
    sized,
    translator_of,
    vocabulary_of,
)
from experiments.exchange.torch_models import (
    Function,
    Texts,
    TorchModel,
    arrays_of,
    checkpoint_of,
    parameters_of,
    read_checkpoint,
)
from experiments.translator import Translator
from transformer.checkpoint import brief
from transformer.config import BOS, DecodeConfig, ModelConfig, UserError

Settings = dict[str, Any]

IDS = Special(pad=1, start=2, eos=3, unk=0)

SIDES = {"encoder": "src", "decoder": "trg"}

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
"""Its names of activations, which are ours, and those of torch."""

EPSILON = 1e-6
"""What JoeyNMT adds to the variance in its norms."""

DEFAULTS: dict[str, Settings] = {
    "encoder": {"num_layers": 8, "num_heads": 4, "hidden_size": 512, "ff_size": 2048},
    "decoder": {"num_layers": 4, "num_heads": 8, "hidden_size": 512, "ff_size": 2048},
}
"""Sizes that a model has if config.yaml does not give them."""

NAMES = {
    "self_attn_layer_norm": ("layer_norm", "x_layer_norm"),
    "encoder_attn_layer_norm": ("", "dec_layer_norm"),
    "final_layer_norm": ("feed_forward.layer_norm", "feed_forward.layer_norm"),
    "self_attn": ("src_src_att", "trg_trg_att"),
    "encoder_attn": ("", "src_trg_att"),
    "fc1": ("feed_forward.pwff_layer.0", "feed_forward.pwff_layer.0"),
    "fc2": ("feed_forward.pwff_layer.3", "feed_forward.pwff_layer.3"),
}
"""The parts of a layer as fairseq has them, and as JoeyNMT has them in the encoder and in the decoder."""


def name_of(name: str) -> str:
    """Returns the name of a parameter, given that of fairseq."""
    if found := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(\w+)(?:\.(q|k|v|out)_proj)?\.(weight|bias)", name):
        stack, layer, part, matrix, kind = found.groups()
        part = NAMES[part][list(SIDES).index(stack)]
        matrix = f".{'output' if matrix == 'out' else matrix}_layer" if matrix else ""
        return f"{stack}.layers.{layer}.{part}{matrix}.{kind}"
    tables = {f"{stack}.embed_tokens.weight": f"{side}_embed.lut.weight" for stack, side in SIDES.items()}
    return (tables | {"decoder.output_projection.weight": "decoder.output_layer.weight"}).get(name, name)


def read_joeynmt(path: Path, log: Log) -> tuple[Translator, TorchModel]:
    """Reads a checkpoint, or the best one of a folder, and returns the model here and there.

    Raises:
        UserError: a file is missing or damaged, or has a setting that this code does not have; the message names it.
    """
    folder = path if path.is_dir() else path.parent
    checkpoint = checkpoint_of(path, ".ckpt", "best.ckpt")
    yaml = folder / "config.yaml"
    config = read_yaml(yaml)
    model, data, testing = (section_of(yaml, config, name) for name in ("model", "data", "testing"))
    try:
        here, decode = model_of(yaml, model), decode_of(yaml, testing)
    except (TypeError, ValueError) as error:  # dropout: null
        raise UserError(f"{yaml}: a setting of model or testing is of the wrong type: {error}") from error
    tokens = special_tokens(yaml, section_of(yaml, data, "special_symbols"))
    sides = {side: section_of(yaml, data, side) for side in SIDES.values()}
    models = [sentencepiece_model(yaml, side, settings) for side, settings in sides.items()]
    symbols = [read_vocabulary(vocabulary_file(folder, side, settings), tokens) for side, settings in sides.items()]
    if model.get("tied_embeddings") and symbols[0] != symbols[1]:
        raise UserError(f"{yaml}: tied_embeddings = True needs one vocabulary, but src_vocab.txt is not trg_vocab.txt")
    state = read_checkpoint(checkpoint).get("model_state")
    if not isinstance(state, dict):
        raise UserError(f"{checkpoint} is not a checkpoint of JoeyNMT: it has no model_state")
    rows = (len(symbols[0]), len(symbols[1]))
    positions = sinusoids(checkpoint, state, here.d_model)
    state = parameters_of(checkpoint, state, here, rows, name_of, r"(encoder|decoder)\.pe\.pe")
    source_table, target_table = (state[f"{stack}.embed_tokens.weight"] for stack in SIDES)
    if model.get("tied_embeddings") and not source_table.equal(target_table):
        raise UserError(f"{checkpoint}: its src_embed.lut.weight is not trg_embed.lut.weight, as tied_embeddings says")
    source, target = (
        vocabulary_of(dict(enumerate(each)) | {IDS.start: SPECIAL[BOS]}, len(each), IDS) for each in symbols
    )
    tokenizer = Tokenizer(
        sentencepiece_of(models[1], target.pieces, log, restricted=True),
        Tokenizer(sentencepiece_of(models[0], source.pieces, log, restricted=True)),
    )
    lengths = [settings.get("max_length") for settings in sides.values()]
    longest = max((each for each in lengths if type(each) is int and each > 0), default=LONGEST)
    languages = "-".join(str(settings.get("lang")) for settings in sides.values())
    origin = Origin(folder, "JoeyNMT", [checkpoint], languages, longest)
    arrays = arrays_of(here, state)
    translator = translator_of(origin, sized(here, source, target), arrays, tokenizer, (source, target), decode, log)
    scale = math.sqrt(here.d_model) if here.scale_embeddings else 1.0
    function = Function(
        here.num_heads, here.norm == "pre", ACTIVATIONS[here.activation], scale, here.norm_epsilon, positions
    )
    ids = Mapping(source.rows, target.rows, [IDS.pad, IDS.start])
    return translator, TorchModel("JoeyNMT", state, function, ids, texts_of(models, symbols))


def read_yaml(path: Path) -> Settings:
    """Reads a mapping of plain values. UserError names the file if it is missing or has anything else."""
    yaml = library("yaml", "pyyaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(brief(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it is not a mapping of settings")
    return content


def section_of(path: Path, settings: Settings, name: str) -> Settings:
    """Returns a section; an empty one if it is missing. UserError if it is anything else."""
    found = settings.get(name)
    if not isinstance(found, dict | None):
        raise UserError(f"{path}: {name} = {found!r:.80}, which is not a section of settings")
    return found or {}


def model_of(path: Path, model: Settings) -> ModelConfig:
    """Returns the settings of our model; its rows are not those of the embedding matrices.

    Raises:
        UserError: a setting that a model of ours cannot have.
    """
    stacks: dict[str, Settings] = {name: DEFAULTS[name] | section_of(path, model, name) for name in SIDES}
    tied_embeddings, tied_softmax = (bool(model.get(name)) for name in ("tied_embeddings", "tied_softmax"))
    if model.get("initializer") == "xavier_normal":
        raise UserError(
            f"{path}: initializer = xavier_normal, which makes alpha that of DeepNet; this code has alpha 1"
        )
    scales = {}
    for name, stack in stacks.items():
        if (kind := stack.get("type", {"encoder": "recurrent"}.get(name, "transformer"))) != "transformer":
            raise UserError(f"{path}: {name}.type = {kind}; this code needs transformer")
        for size in DEFAULTS[name]:
            if type(stack[size]) is not int or stack[size] < 1:
                raise UserError(f"{path}: {name}.{size} = {stack[size]!r}, which is no count")
        if stack.get("alpha", 1.0) != 1.0:
            raise UserError(f"{path}: {name}.alpha = {stack['alpha']}; this code needs 1")
        if stack.get("layer_norm") not in ("pre", "post"):
            given = stack.get("layer_norm", "missing, and its default differs between versions of JoeyNMT")
            raise UserError(f"{path}: {name}.layer_norm = {given}; this code needs pre or post")
        if (activation := stack.get("activation", "relu")) not in ACTIVATIONS:
            raise UserError(f"{path}: {name}.activation = {activation}; this code has {', '.join(ACTIVATIONS)}")
        embeddings = section_of(path, stack, "embeddings")
        scales[name] = bool(embeddings.get("scale", False))
        if not (name == "decoder" and tied_embeddings) and embeddings.get("embedding_dim", 64) != stack["hidden_size"]:
            given = embeddings.get("embedding_dim", 64)
            raise UserError(
                f"{path}: {name}.embeddings.embedding_dim = {given}, but hidden_size {stack['hidden_size']}"
            )
    encoder, decoder = stacks.values()
    if not tied_embeddings and scales["encoder"] != scales["decoder"]:  # the one matrix is the encoder's
        raise UserError(f"{path}: embeddings.scale of encoder and decoder differ; this code needs equal ones")
    for name in ("hidden_size", "ff_size", "num_heads", "layer_norm", "activation"):
        if encoder.get(name) != decoder.get(name):
            each = f"encoder.{name} = {encoder.get(name)} and decoder.{name} = {decoder.get(name)}"
            raise UserError(f"{path}: {each}; this code needs equal ones")
    width, heads, layers = encoder["hidden_size"], encoder["num_heads"], encoder["num_layers"]
    if width % heads or width % 2:
        raise UserError(f"{path}: hidden_size = {width} must be even, and num_heads = {heads} divide it")
    tied: Literal["all", "target", "none"] = "target" if tied_softmax else "none"
    dropout = encoder.get("dropout", 0.0)
    return ModelConfig(
        num_layers=layers,
        decoder_layers=None if decoder["num_layers"] == layers else decoder["num_layers"],
        d_model=width,
        d_ff=encoder["ff_size"],
        num_heads=heads,
        d_k=width // heads,
        d_v=width // heads,
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        activation=encoder.get("activation", "relu"),
        norm=encoder["layer_norm"],
        norm_epsilon=EPSILON,
        scale_embeddings=scales["encoder"],
        tied="all" if tied_embeddings and tied_softmax else tied,
    )


def decode_of(path: Path, testing: Settings) -> DecodeConfig:
    """Returns the settings of our search. UserError for one that changes outputs, and that we do not have."""
    for name in ("repetition_penalty", "no_repeat_ngram_size"):
        if testing.get(name, -1) > 1:
            raise UserError(f"{path}: {name} = {testing[name]}; this code needs none")
    return DecodeConfig(
        beam=testing.get("beam_size", 1),
        alpha=max(0.0, float(testing.get("alpha") or testing.get("beam_alpha") or 0)),
        min_length=testing.get("min_output_length", 1),
        forbid_unk=not testing.get("generate_unk", True),
    )


def special_tokens(path: Path, given: Settings) -> list[str]:
    """Returns the tokens of ids 0 to 3. UserError if they have other ids, or if there are more."""
    for name, wanted in (("unk", IDS.unk), ("pad", IDS.pad), ("bos", IDS.start), ("eos", IDS.eos)):
        if given.get(f"{name}_id", wanted) != wanted:
            raise UserError(f"{path}: special_symbols.{name}_id = {given[f'{name}_id']}; JoeyNMT gives it id {wanted}")
    for name in ("sep_token", "lang_tags"):
        if given.get(name):
            raise UserError(f"{path}: special_symbols.{name} = {given[name]}; this code has no prompts")
    defaults = {"unk": "<unk>", "pad": "<pad>", "bos": "<s>", "eos": "</s>"}
    return [str(given.get(f"{name}_token", token)) for name, token in defaults.items()]


def sentencepiece_model(path: Path, side: str, settings: Settings) -> Path:
    """Returns the file of one side. UserError for a setting of texts that this code does not have."""
    tokenizer = section_of(path, settings, "tokenizer_cfg")
    if (level := settings.get("level")) != "bpe":
        raise UserError(f"{path}: {side}.level = {level}; this code needs bpe, with a sentencepiece model")
    if (kind := settings.get("tokenizer_type", settings.get("bpe_type", "sentencepiece"))) != "sentencepiece":
        raise UserError(f"{path}: {side}.tokenizer_type = {kind}: {NO_SENTENCEPIECE}")
    for name in ("lowercase", "normalize"):
        if settings.get(name):
            raise UserError(f"{path}: {side}.{name} = True; this code reads text as it is")
    if (kind := tokenizer.get("pretokenizer") or "none") != "none":
        raise UserError(f"{path}: {side}.tokenizer_cfg.pretokenizer = {kind}; this code reads text as it is")
    if not tokenizer.get("model_file"):
        raise UserError(f"{path}: {side}.tokenizer_cfg.model_file is missing")
    found = path.parent / Path(str(tokenizer["model_file"])).name
    if read_proto(found).trainer_spec.byte_fallback:
        raise UserError(f"{found} has byte pieces (byte_fallback), which JoeyNMT does not decode")
    return found


def vocabulary_file(folder: Path, side: str, settings: Settings) -> Path:
    """Returns the file with the vocabulary of one side: that of training, or the one that it was given."""
    written, given = folder / f"{side}_vocab.txt", settings.get("voc_file")
    return folder / Path(str(given)).name if given and not written.exists() else written


def read_vocabulary(path: Path, special: list[str]) -> list[str]:
    """Reads a vocabulary, and returns its pieces by id, special ones first. UserError if a piece occurs twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from error
    first: dict[str, int] = {}
    for number, piece in enumerate(lines, start=1):
        if first.setdefault(piece, number) != number:
            raise UserError(f"{path}: line {number} has {piece!r:.80} a second time")
    return list(dict.fromkeys([*special, *lines]))


def sinusoids(path: Path, state: Settings, width: int) -> Any:
    """Returns the position vectors of a model, [positions, D]. UserError if they are not the paper's sinusoids."""
    torch = library("torch")
    tables: list[Any] = [state.get(f"{stack}.pe.pe") for stack in SIDES]
    count = tables[0].shape[1] if torch.is_tensor(tables[0]) and tables[0].ndim == 3 else 0
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10_000) / width))
    angles = torch.arange(count, dtype=torch.float32)[:, None] * rates
    wanted = torch.stack([torch.sin(angles), torch.cos(angles)], 2).flatten(1)
    for stack, table in zip(SIDES, tables, strict=True):
        same = torch.is_tensor(table) and table.shape == (1, count, width)
        if not (count and same and torch.allclose(table[0].float(), wanted, atol=1e-3)):
            raise UserError(f"{path}: its {stack}.pe.pe are not the sinusoids of a model of its settings")
    return tables[0][0].float()


def texts_of(models: list[Path], symbols: list[list[str]]) -> Texts:
    """Returns the reading of a text and the spelling of ids by JoeyNMT, with the models as they are."""
    source, target = (restricted(path, set(known)) for path, known in zip(models, symbols, strict=True))
    ids = {piece: i for i, piece in enumerate(symbols[0])}

    def encode(text: str) -> list[int]:
        return [*(ids.get(piece, IDS.unk) for piece in source.encode(text, out_type=str)), IDS.eos]

    def spell(found: list[int]) -> str:
        spelled: str = target.decode([symbols[1][i] for i in found])
        return spelled.replace("▁", " ").strip()

    return Texts(encode, spell)


def restricted(path: Path, known: set[str]) -> sentencepiece.SentencePieceProcessor:
    """Returns a sentencepiece model as JoeyNMT uses it: other pieces than these and single characters are unused."""
    proto = read_proto(path)
    kind = type(proto).SentencePiece
    for piece in proto.pieces:
        if piece.type not in (kind.CONTROL, kind.UNKNOWN, kind.USER_DEFINED):
            piece.type = kind.NORMAL if piece.piece in known or len(piece.piece) == 1 else kind.UNUSED
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
