"""Reads a Transformer of fairseq as a model of ours: checkpoint*.pt, dict.*.txt and a sentencepiece model in a folder.

- Its position vectors are those of tensor2tensor, the program of the paper's authors: of wavelengths that are a little
  different, sines in one half, cosines in the other, and the first position is 2. Ours has them as a table
  (model.positions learned), which continued training would train.
- Its decoder starts from </s>, so our BOS is a copy of it. Its <s> is a piece like others, which no text has.
"""

import math
import re
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import sentencepiece

from data.tokenizer import Tokenizer
from experiments.exchange.arrays import library
from experiments.exchange.check import Log, Mapping
from experiments.exchange.imported import (
    NO_SENTENCEPIECE,
    Origin,
    Special,
    read_proto,
    sentencepiece_of,
    sized,
    translator_of,
    vocabulary_of,
)
from experiments.exchange.torch_models import (
    EMBEDDINGS,
    Function,
    State,
    Texts,
    TorchModel,
    arrays_of,
    checkpoint_of,
    parameters_of,
    read_checkpoint,
)
from experiments.translator import Translator
from transformer.checkpoint import brief
from transformer.config import DecodeConfig, ModelConfig, UserError

EPSILON = 1e-5
"""What fairseq adds to the variance in its norms."""

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
"""Its ids 0 to 3, which dict.txt does not have."""

IDS = Special(pad=1, start=2, eos=2, unk=3)

ACTIVATIONS = ("relu", "gelu")

OFF = (
    *("encoder_learned_pos", "decoder_learned_pos", "no_token_positional_embeddings", "layernorm_embedding"),
    *("adaptive_input", "adaptive_softmax_cutoff", "char_inputs", "cross_self_attention", "no_cross_attention"),
    *("encoder_layerdrop", "decoder_layerdrop", "encoder_layers_to_keep", "decoder_layers_to_keep"),
    *("quant_noise_pq", "quant_noise_scalar", "base_layers", "no_decoder_final_norm"),
    *("encoder_xformers_att_config", "decoder_xformers_att_config"),
)
"""Settings of a model that we do not have: they must be off, 0 or absent."""

# Of a layer of the encoder in newer versions, copies for a faster kernel, which are made anew when it is loaded.
# The others are no parameters: a version number, and what tells the type of position vectors.
WITHOUT = (
    r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)"
    r"|(encoder|decoder)\.(version|embed_positions\.(_float_tensor|weights))"
)

Settings = dict[str, Any]


def read_fairseq(path: Path, log: Log) -> tuple[Translator, TorchModel]:
    """Reads a checkpoint, or the best one of a folder, and returns the model here and there.

    Raises:
        UserError: a file is missing or damaged, or has a setting that this code does not have; the message names it.
    """
    folder = path if path.is_dir() else path.parent
    checkpoint = checkpoint_of(path, ".pt", "checkpoint_best.pt")
    content = read_checkpoint(checkpoint)
    model, task, others = settings_of(checkpoint, content)
    check_settings(checkpoint, model, task, others)
    languages = [str(task.get(f"{side}_lang") or "") for side in ("source", "target")]
    if not all(re.fullmatch(r"[\w.@-]+", each) for each in languages):
        raise UserError(
            f"{checkpoint}: source_lang = {languages[0]!r} and target_lang = {languages[1]!r} are no languages"
        )
    names = [folder / f"dict.{language}.txt" for language in languages]
    symbols = [read_dictionary(name) for name in names]
    models = sentencepiece_models(folder, languages)
    for name, listed, file in zip(names, symbols, models, strict=True):
        pieces = {piece.piece for piece in read_proto(file).pieces}
        if not pieces & set(listed[len(SPECIAL) :]):
            raise UserError(f"{file} is not the sentencepiece model of {name}: they have no piece in common")
        if spaced := sorted(filter(re.compile(r"\s").search, pieces)):
            raise UserError(f"{file} has the piece {spaced[0]!r}, which fairseq splits at its white space")
    config = model_of(checkpoint, model)
    if config.tied == "all" and symbols[0] != symbols[1]:
        raise UserError(f"{names[1]} is not {names[0]}, as share_all_embeddings = True needs")
    given = content.get("model")
    given = upgraded(given) if isinstance(given, dict) else {}
    if "encoder.layers.0.self_attn.q_proj.weight" not in given:
        raise UserError(f"{checkpoint}: arch = {model.get('arch')}; this code needs parameters of a Transformer")
    state = parameters_of(checkpoint, given, config, (len(symbols[0]), len(symbols[1])), without=WITHOUT)
    positions = sinusoids(config.max_positions, config.d_model)
    source, target = (vocabulary_of(dict(enumerate(each)), len(each), IDS) for each in symbols)
    tokenizer = Tokenizer(
        sentencepiece_of(models[1], target.pieces, log, silent=["<not <s>>"]),
        Tokenizer(sentencepiece_of(models[0], source.pieces, log, silent=["<not <s>>"])),
    )
    arrays = arrays_of(config, state) | {"positions.table": positions.numpy()}
    longest = min(model.get(f"max_{side}_positions") or 1024 for side in ("source", "target"))
    origin = Origin(folder, "fairseq", [checkpoint], "-".join(languages), longest)
    here = sized(config, source, target)
    translator = translator_of(origin, here, arrays, tokenizer, (source, target), DecodeConfig(), log)
    scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
    function = Function(config.num_heads, config.norm == "pre", config.activation, scale, EPSILON, positions)
    ids = Mapping(source.rows, target.rows, [IDS.pad])
    return translator, TorchModel("fairseq", state, function, ids, texts_of(models, symbols))


def settings_of(path: Path, content: Settings) -> tuple[Settings, Settings, Settings]:
    """Returns the settings of the model, of the task, and all others that are known by their names."""
    if isinstance(content.get("args"), Namespace):  # of older versions: all in one
        every = flat(content["args"])
        return every, every | {"_name": every.get("task", "translation")}, every
    sections = content.get("cfg")
    if not isinstance(sections, dict) or not all(
        isinstance(sections.get(name), dict | Namespace) for name in ("model", "task")
    ):
        raise UserError(f"{path} is not a checkpoint of fairseq: it has no settings (args or cfg)")
    others = {name: flat(found).get("_name") for name in ("bpe", "tokenizer") if (found := sections.get(name))}
    return flat(sections["model"]), flat(sections["task"]), others


def flat(section: Any) -> Settings:
    """Returns the settings of a section; those of encoder: {layers: 6} as encoder_layers."""
    if not isinstance(section, dict | Namespace):
        return {"_name": section}
    given = dict(section) if isinstance(section, dict) else vars(section)
    nested = {name: value for name, value in given.items() if isinstance(value, dict)}
    return given | {f"{name}_{key}": value for name, inner in nested.items() for key, value in inner.items()}


def check_settings(path: Path, model: Settings, task: Settings, others: Settings) -> None:
    """Raises UserError for a setting that a model of ours cannot have."""
    if (kind := task.get("_name")) != "translation":
        raise UserError(f"{path}: task = {kind}; this code needs translation")
    if (kind := others.get("bpe")) not in (None, "sentencepiece"):
        raise UserError(f"{path}: bpe = {kind}: {NO_SENTENCEPIECE}")
    if (kind := others.get("tokenizer")) not in (None, "space"):
        raise UserError(f"{path}: tokenizer = {kind}; this code reads text as it is")
    for name in OFF:
        if model.get(name):
            raise UserError(f"{path}: {name} = {model[name]}; this code needs it off")


def model_of(path: Path, model: Settings) -> ModelConfig:
    """Returns the settings of our model. Its rows are not those of the embedding matrices."""
    sizes = {"encoder_embed_dim": 512, "encoder_ffn_embed_dim": 2048, "encoder_attention_heads": 8}
    sizes |= {"encoder_layers": 6, "decoder_layers": 6}
    counts = {name: model.get(name, size) for name, size in sizes.items()}
    counts |= {name: model.get(name) or 1024 for name in ("max_source_positions", "max_target_positions")}
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise UserError(f"{path}: {name} = {value!r}, which is no count")
    width, inner, heads, layers, decoder_layers, *longest = counts.values()
    decoder_width = model.get("decoder_embed_dim", width)
    before = bool(model.get("encoder_normalize_before"))
    for name, given, needed in (
        ("decoder_embed_dim", decoder_width, width),
        ("decoder_input_dim", model.get("decoder_input_dim", decoder_width), width),
        ("decoder_output_dim", model.get("decoder_output_dim", decoder_width), width),
        ("decoder_ffn_embed_dim", model.get("decoder_ffn_embed_dim", inner), inner),
        ("decoder_attention_heads", model.get("decoder_attention_heads", 8), heads),
        ("decoder_normalize_before", bool(model.get("decoder_normalize_before")), before),
    ):
        if given != needed:
            raise UserError(f"{path}: {name} = {given}, but {needed} in the encoder; this code needs equal ones")
    if width % heads or width < 4:
        raise UserError(f"{path}: encoder_attention_heads = {heads} do not divide encoder_embed_dim = {width}")
    if (activation := model.get("activation_fn", "relu")) not in ACTIVATIONS:
        raise UserError(f"{path}: activation_fn = {activation}; this code has {', '.join(ACTIVATIONS)}")
    tied: Literal["all", "target", "none"] = "none"
    if model.get("share_decoder_input_output_embed"):
        tied = "target"
    if model.get("share_all_embeddings"):
        tied = "all"
    return ModelConfig(
        num_layers=layers,
        decoder_layers=None if decoder_layers == layers else decoder_layers,
        d_model=width,
        d_ff=inner,
        num_heads=heads,
        d_k=width // heads,
        d_v=width // heads,
        positions="learned",
        max_positions=max(longest),
        activation=activation,
        norm="pre" if before else "post",
        norm_epsilon=EPSILON,
        scale_embeddings=not model.get("no_scale_embedding"),
        tied=tied,
        dropout=model.get("dropout") or 0.0,
        attention_dropout=model.get("attention_dropout") or 0.0,
        activation_dropout=model.get("activation_dropout") or model.get("relu_dropout") or 0.0,  # its older name
    )


def read_dictionary(path: Path) -> list[str]:
    """Reads dict.txt, and returns its pieces by id. UserError if a line is no piece with a count, or occurs twice."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from error
    symbols, known = list(SPECIAL), set(SPECIAL)
    for number, line in enumerate(lines[: -1 if lines[-1] == "" else None], start=1):
        piece, _, count = line.rstrip().rpartition(" ")
        if not piece or not count.isdecimal():
            raise UserError(f"{path}: line {number} is not a piece and its count: {line!r:.80}")
        if piece in known:
            raise UserError(f"{path}: line {number} has {piece!r:.80} a second time")
        symbols.append(piece)
        known.add(piece)
    return symbols


def sentencepiece_models(folder: Path, languages: list[str]) -> list[Path]:
    """Returns the sentencepiece models of source and target: one for both, or those with their languages in the name.

    Raises:
        UserError: there is none, or it is not clear which is which.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix in (".model", ".spm") and path.is_file())
    if not found:
        raise UserError(f"{folder} has no sentencepiece model (*.model or *.spm) beside its dict: {NO_SENTENCEPIECE}")
    if len(found) == 1:
        return found * 2
    chosen = [[path for path in found if language in re.split(r"[._-]", path.name)] for language in languages]
    if any(len(each) != 1 for each in chosen):
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder} has {names}: keep one sentencepiece model, or one with each language in its name")
    return [path for each in chosen for path in each]


def upgraded(state: State) -> State:
    """Returns parameters of older versions under their newer names."""
    norms = {"encoder": ("self_attn", "final"), "decoder": ("self_attn", "encoder_attn", "final")}
    found = {}
    for name, tensor in state.items():
        if old := re.fullmatch(r"((encoder|decoder)\.layers\.\d+)\.layer_norms\.(\d)\.(weight|bias)", name):
            found[f"{old[1]}.{norms[old[2]][int(old[3])]}_layer_norm.{old[4]}"] = tensor
        elif old := re.fullmatch(r"(.*_attn)\.in_proj_(weight|bias)", name):
            for each, part in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{old[1]}.{each}_proj.{old[2]}"] = part
        else:
            found[name.replace("decoder.embed_out", EMBEDDINGS["output_embedding"])] = tensor
    if EMBEDDINGS["embedding"] in found:
        found.setdefault(EMBEDDINGS["output_embedding"], found[EMBEDDINGS["embedding"]])
    return found


def sinusoids(count: int, width: int) -> Any:
    """Returns the vectors of the first positions, [count, width], computed as by fairseq, in float32."""
    torch = library("torch")
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10_000) / (half - 1)))
    angles = torch.arange(IDS.pad + 1, IDS.pad + 1 + count, dtype=torch.float32)[:, None] * rates
    zeros = torch.zeros(count, width % 2)
    return torch.cat([torch.sin(angles), torch.cos(angles), zeros], 1)


def texts_of(models: list[Path], symbols: list[list[str]]) -> Texts:
    """Returns the reading of a text and the spelling of ids by fairseq, with the models as they are."""
    source, target = (sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in models)
    ids = {piece: i for i, piece in enumerate(symbols[0])}

    def encode(text: str) -> list[int]:
        pieces = " ".join(source.encode(text, out_type=str)).split()
        return [*(ids.get(piece, IDS.unk) for piece in pieces), IDS.eos]

    def spell(found: list[int]) -> str:
        spelled: str = target.decode([symbols[1][i] for i in found if symbols[1][i] != SPECIAL[0]])
        return spelled

    return Texts(encode, spell)
