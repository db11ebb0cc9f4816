"""Folders as fairseq 0.12 and JoeyNMT 2.3 write them, with random weights, and what such models compute.

Names and shapes are those of a state_dict of these programs, which the tests load where the programs are installed. The
functions are computed by PyTorch's own layers.
"""

import json
import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import sentencepiece

from data import grammar

D, F, HEADS = 16, 24, 4
LANGUAGES = ("en", "de")


def train_pieces(path: Path, sides, vocab_size: int = 120, kind: str = "unigram", **options) -> list[str]:
    """Trains a sentencepiece model on some sides of the generated corpus, and returns its pieces without special ones.

    Pieces are in a random order: dict.txt has them by frequency.
    """
    lines = list(grammar.pairs("train", 600))
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(pair[side] for side in sides for pair in lines),
            model_writer=file,
            vocab_size=vocab_size,
            model_type=kind,
            minloglevel=3,
            **options,
        )
    spm = sentencepiece.SentencePieceProcessor(str(path))
    pieces = [spm.id_to_piece(i) for i in range(3, spm.get_piece_size())]
    return [pieces[i] for i in np.random.default_rng(0).permutation(len(pieces))]


def vocabularies(folder: Path, separate: bool, dropped: int, **options) -> tuple[list[Path], list[list[str]]]:
    """Trains one sentencepiece model for both sides, or one for each; all but the `dropped` longest pieces are used."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = [(folder / f"spm.{language}.model", [side]) for side, language in enumerate(LANGUAGES)]
    found = sides if separate else [(folder / "sentencepiece.bpe.model", [0, 1])]
    pieces = [train_pieces(path, given, **options) for path, given in found]
    longest = [set(sorted(each, key=len)[len(each) - dropped :]) for each in pieces]
    kept = [[piece for piece in each if piece not in out] for each, out in zip(pieces, longest, strict=True)]
    paths = [path for path, _ in found]
    return (paths, kept) if separate else (paths * 2, kept * 2)


def random_state(shapes: dict[str, list[int]]):
    """Returns tensors of these shapes; norms have scales near 1."""
    import torch

    torch.manual_seed(0)
    scaled = ("norm.weight",)
    return {name: 0.2 * torch.randn(shape) + 1.0 * name.endswith(scaled) for name, shape in shapes.items()}


FAIRSEQ = {
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in {
        "embed_dim": D, "ffn_embed_dim": F, "layers": 2, "attention_heads": HEADS, "normalize_before": False,
        "learned_pos": False, "layerdrop": 0, "layers_to_keep": None, "embed_path": None,
    }.items()},
    "decoder_input_dim": D, "decoder_output_dim": D, "activation_fn": "relu", "dropout": 0.1,
    "attention_dropout": 0.0, "activation_dropout": 0.0, "relu_dropout": 0.0, "share_all_embeddings": True,
    "share_decoder_input_output_embed": True, "no_scale_embedding": False, "max_source_positions": 128,
    "max_target_positions": 128, "no_token_positional_embeddings": False, "layernorm_embedding": False,
    "adaptive_input": False, "adaptive_softmax_cutoff": None, "cross_self_attention": False,
    "no_cross_attention": False, "quant_noise_pq": 0, "quant_noise_pq_block_size": 8, "quant_noise_scalar": 0,
    "arch": "transformer_tiny",
}  # fmt: skip


def linears(names: str, inputs: int, outputs: int) -> dict[str, list[int]]:
    """Returns the shapes of some linear layers."""
    return {
        f"{name}.{kind}": shape
        for name in names.split()
        for kind, shape in (("weight", [outputs, inputs]), ("bias", [outputs]))
    }


def norms(names: str) -> dict[str, list[int]]:
    return {f"{name}.{kind}": [D] for name in names.split() for kind in ("weight", "bias")}


def fairseq_state(args: dict, rows: list[int]):
    """Returns the parameters of a model with these settings, as the program's state_dict has them."""
    shapes = {}
    for stack, count in zip(("encoder", "decoder"), rows, strict=True):
        shapes |= {f"{stack}.version": [1], f"{stack}.embed_tokens.weight": [count, D]}
        shapes |= {f"{stack}.embed_positions._float_tensor": [1]}
        attentions = ("self_attn",) if stack == "encoder" else ("self_attn", "encoder_attn")
        for layer in range(args[f"{stack}_layers"]):
            each = linears(
                " ".join(f"{name}.{part}_proj" for name in attentions for part in ("k", "v", "q", "out")), D, D
            )
            each |= linears("fc1", D, F) | linears("fc2", F, D)
            each |= norms(" ".join(f"{name}_layer_norm" for name in (*attentions, "final")))
            if stack == "encoder":
                each |= {"in_proj_weight": [3 * D, D], "in_proj_bias": [3 * D], "out_proj_weight": [D, D]}
                each |= {
                    "out_proj_bias": [D],
                    "fc1_weight": [F, D],
                    "fc1_bias": [F],
                    "fc2_weight": [D, F],
                    "fc2_bias": [D],
                }
            shapes |= {f"{stack}.layers.{layer}.{name}": shape for name, shape in each.items()}
        if args[f"{stack}_normalize_before"]:
            shapes |= norms(f"{stack}.layer_norm")
    state = random_state(shapes | {"decoder.output_projection.weight": [rows[1], D]})
    for stack in ("encoder", "decoder"):
        state[f"{stack}.version"][:] = 3
        state[f"{stack}.embed_tokens.weight"][1] = 0.0
    if args["share_all_embeddings"]:
        state["encoder.embed_tokens.weight"] = state["decoder.embed_tokens.weight"]
    if args["share_all_embeddings"] or args["share_decoder_input_output_embed"]:
        state["decoder.output_projection.weight"] = state["decoder.embed_tokens.weight"]
    return state


def write_fairseq_folder(folder: Path, *, separate=False, dropped=0, old=False, pieces=(), **settings):
    """Writes the folder, and returns the settings, the parameters and the dictionaries.

    Args:
        separate: a sentencepiece model and a dictionary for each language.
        dropped: number of pieces of a sentencepiece model, the longest ones, that dict.txt does not have.
        old: settings as one argparse.Namespace, as before version 0.10.
        pieces: options of `vocabularies`.
    """
    import torch

    _, kept = vocabularies(folder, separate, dropped, **dict(pieces))
    symbols = []
    for language, each in zip(LANGUAGES, kept, strict=True):
        more = [f"madeupword{i:04d}" for i in range(-(len(each) + 4) % 8)]
        (folder / f"dict.{language}.txt").write_text(
            "".join(f"{piece} 7\n" for piece in [*each, *more]), encoding="utf-8"
        )
        symbols.append(["<s>", "<pad>", "</s>", "<unk>", *each, *more])
    shared = {} if not separate else {"share_all_embeddings": False}
    args = FAIRSEQ | shared | settings
    state = fairseq_state(args, [len(each) for each in symbols])
    task = {"source_lang": "en", "target_lang": "de", "data": "data-bin"}
    given = (
        {"args": Namespace(**args, **task, task="translation")}
        if old
        else {"args": None, "cfg": {"model": Namespace(**args), "task": {"_name": "translation", **task}, "bpe": None}}
    )
    extra = {"train_iterator": {"epoch": 3}, "best": np.float64(2.5), "val_loss": torch.tensor(2.5)}
    torch.save(
        given | {"model": state, "extra_state": extra, "last_optimizer_state": {}}, folder / "checkpoint_best.pt"
    )
    return args, state, symbols


def layers_of(kind, state, names, stack: str, count: int, pre: bool, activation, epsilon: float):
    """Returns PyTorch's own encoder or decoder with these parameters, given by its own names."""
    import torch

    options = {
        "dropout": 0.0,
        "activation": activation,
        "layer_norm_eps": epsilon,
        "batch_first": True,
        "norm_first": pre,
    }
    made = getattr(torch.nn, f"Transformer{kind}")(
        getattr(torch.nn, f"Transformer{kind}Layer")(D, HEADS, F, **options),
        count,
        norm=torch.nn.LayerNorm(D, eps=epsilon) if pre else None,
        **({"enable_nested_tensor": False} if kind == "Encoder" else {}),
    )
    found = {f"norm.{each}": state[f"{stack}.layer_norm.{each}"] for each in ("weight", "bias") if pre}
    for layer in range(count):
        for mine, theirs in names.items():
            for each in ("weight", "bias"):
                given = [state[f"{stack}.layers.{layer}.{name}.{each}"] for name in theirs.split()]
                dot = "_" if mine.endswith("in_proj") else "."
                found[f"layers.{layer}.{mine}{dot}{each}"] = torch.cat(given)
    made.load_state_dict(found)
    return made.eval()


def logits_of(encoder, decoder, embed, output):
    """Returns the function from ids of a source and of a target before each token to logits [T, V]."""
    import torch

    def logits(source: list[int], before: list[int]):
        with torch.no_grad():
            memory = encoder(embed[0](source)[None])
            mask = torch.nn.Transformer.generate_square_subsequent_mask(len(before))
            return (decoder(embed[1](before)[None], memory, tgt_mask=mask) @ output.T)[0]

    return logits


FAIRSEQ_LAYER = {
    "self_attn.in_proj": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "self_attn.out_proj": "self_attn.out_proj",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm1": "self_attn_layer_norm",
}
FAIRSEQ_CROSS = {
    "multihead_attn.in_proj": "encoder_attn.q_proj encoder_attn.k_proj encoder_attn.v_proj",
    "multihead_attn.out_proj": "encoder_attn.out_proj",
    "norm2": "encoder_attn_layer_norm",
    "norm3": "final_layer_norm",
}


def fairseq_logits(args: dict, state):
    """Returns the function of fairseq's model, from its ids."""
    import torch

    options = (args["encoder_normalize_before"], args["activation_fn"], 1e-5)
    names = FAIRSEQ_LAYER | {"norm2": "final_layer_norm"}
    encoder = layers_of("Encoder", state, names, "encoder", args["encoder_layers"], *options)
    decoder = layers_of("Decoder", state, FAIRSEQ_LAYER | FAIRSEQ_CROSS, "decoder", args["decoder_layers"], *options)

    def embed(table):
        def vectors(ids: list[int]):
            half = D // 2
            rates = [10_000 ** (-i / (half - 1)) for i in range(half)]
            places = range(2, 2 + len(ids))  # after the padding index
            angles = torch.tensor([[place * rate for rate in rates] for place in places])
            scale = 1.0 if args["no_scale_embedding"] else math.sqrt(D)
            return scale * table[ids] + torch.cat([angles.sin(), angles.cos()], 1)

        return vectors

    tables = [embed(state[f"{stack}.embed_tokens.weight"]) for stack in ("encoder", "decoder")]
    return logits_of(encoder, decoder, tables, state["decoder.output_projection.weight"])


JOEY_LAYER = {
    "encoder": {
        "self_attn.in_proj": "src_src_att.q_layer src_src_att.k_layer src_src_att.v_layer",
        "self_attn.out_proj": "src_src_att.output_layer",
        "norm1": "layer_norm",
        "norm2": "feed_forward.layer_norm",
        "linear1": "feed_forward.pwff_layer.0",
        "linear2": "feed_forward.pwff_layer.3",
    },
    "decoder": {
        "self_attn.in_proj": "trg_trg_att.q_layer trg_trg_att.k_layer trg_trg_att.v_layer",
        "self_attn.out_proj": "trg_trg_att.output_layer",
        "multihead_attn.in_proj": "src_trg_att.q_layer src_trg_att.k_layer src_trg_att.v_layer",
        "multihead_attn.out_proj": "src_trg_att.output_layer",
        "norm1": "x_layer_norm",
        "norm2": "dec_layer_norm",
        "norm3": "feed_forward.layer_norm",
        "linear1": "feed_forward.pwff_layer.0",
        "linear2": "feed_forward.pwff_layer.3",
    },
}
POSITIONS = 5000


def joey_config(sides, *, scale=True, tied_embeddings=True, tied_softmax=True, decoder_layers=2, **stack):
    """Returns config.yaml of JoeyNMT, as a dict."""
    each = {"type": "transformer", "num_heads": HEADS, "hidden_size": D, "ff_size": F, "dropout": 0.1, "freeze": False}
    each |= {"embeddings": {"embedding_dim": D, "scale": scale, "dropout": 0.1}, "layer_norm": "post"} | stack
    return {
        "name": "tiny",
        "model_dir": "models/tiny",
        "data": {
            "train": "train",
            "dataset_type": "plain",
            **{
                side: {"lang": language, "max_length": 100, "lowercase": False, "level": "bpe", "normalize": False}
                | {"tokenizer_type": "sentencepiece", "tokenizer_cfg": {"model_file": f"elsewhere/{path.name}"}}
                for side, language, path in zip(("src", "trg"), LANGUAGES, sides, strict=True)
            },
        },
        "testing": {"beam_size": 5, "beam_alpha": 1.0, "eval_metrics": ["bleu"]},
        "training": {"batch_size": 4, "load_model": None},
        "model": {
            "initializer": "xavier_uniform",
            "tied_embeddings": tied_embeddings,
            "tied_softmax": tied_softmax,
            "encoder": each | {"num_layers": 2},
            "decoder": each | {"num_layers": decoder_layers},
        },
    }


def joey_positions():
    """Returns the table of JoeyNMT's position vectors, [1, positions, D]."""
    import torch

    places, table = torch.arange(POSITIONS)[:, None].float(), torch.zeros(1, POSITIONS, D)
    rates = torch.exp(torch.arange(0, D, 2).float() * -(math.log(10_000.0) / D))
    table[0, :, 0::2], table[0, :, 1::2] = torch.sin(places * rates), torch.cos(places * rates)
    return table


def joey_state(model: dict, rows: list[int]):
    """Returns the parameters of a model with these settings, as the program's state_dict has them."""
    shapes = {"src_embed.lut.weight": [rows[0], D], "trg_embed.lut.weight": [rows[1], D]}
    for stack, names in JOEY_LAYER.items():
        for layer in range(model[stack]["num_layers"]):
            of_attention = " ".join(theirs for mine, theirs in names.items() if "attn" in mine)
            each = linears(of_attention, D, D) | linears(names["linear1"], D, F) | linears(names["linear2"], F, D)
            each |= norms(" ".join(theirs for mine, theirs in names.items() if "norm" in mine))
            shapes |= {f"{stack}.layers.{layer}.{name}": shape for name, shape in each.items()}
        if model[stack]["layer_norm"] == "pre":
            shapes |= norms(f"{stack}.layer_norm")
    state = random_state(shapes | {"decoder.output_layer.weight": [rows[1], D]})
    state["encoder.pe.pe"] = state["decoder.pe.pe"] = joey_positions()
    if model["tied_embeddings"]:
        state["src_embed.lut.weight"] = state["trg_embed.lut.weight"]
    if model["tied_softmax"]:
        state["decoder.output_layer.weight"] = state["trg_embed.lut.weight"]
    return state


def write_joey_folder(folder: Path, *, separate=False, dropped=0, pieces=(), **settings):
    """Writes the folder, and returns config.yaml, the parameters and the vocabularies."""
    import torch
    import yaml

    paths, kept = vocabularies(folder, separate, dropped, **dict(pieces))
    symbols = [["<unk>", "<pad>", "<s>", "</s>", *each] for each in kept]
    for side, each in zip(("src", "trg"), symbols, strict=True):
        (folder / f"{side}_vocab.txt").write_text("".join(f"{piece}\n" for piece in each), encoding="utf-8")
    config = joey_config(paths, **({"tied_embeddings": False} if separate else {}) | settings)
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))), encoding="utf-8")
    state = joey_state(config["model"], [len(each) for each in symbols])
    stats = {"steps": 300, "best_ckpt_score": np.float64(7.5)}
    torch.save({"model_state": state, "optimizer_state": {}, "stats_state": stats}, folder / "300.ckpt")
    (folder / "best.ckpt").symlink_to("300.ckpt")
    return config, state, symbols


def joey_logits(config: dict, state):
    """Returns the function of JoeyNMT's model, from its ids."""
    import torch

    model = config["model"]
    activation = {"swish": torch.nn.functional.silu}.get(given := model["encoder"].get("activation", "relu"), given)
    options = (model["encoder"]["layer_norm"] == "pre", activation, 1e-6)
    stacks = [
        layers_of(kind, state, JOEY_LAYER[stack], stack, model[stack]["num_layers"], *options)
        for kind, stack in (("Encoder", "encoder"), ("Decoder", "decoder"))
    ]
    scale = math.sqrt(D) if model["encoder"]["embeddings"]["scale"] else 1.0

    def embed(table):
        return lambda ids: scale * table[ids] + joey_positions()[0, : len(ids)]

    tables = [embed(state[f"{side}_embed.lut.weight"]) for side in ("src", "trg")]
    return logits_of(*stacks, tables, state["decoder.output_layer.weight"])
