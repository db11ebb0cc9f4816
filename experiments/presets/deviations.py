"""The differences between a run and the paper: settings, amount of data, and what this code always does differently.

Each difference names the section of the paper.
"""

from dataclasses import asdict, replace
from typing import Any

from data.corpora import languages_of
from data.languages import primary
from data.treebanks.linear import TAGS
from experiments.presets.parsing import EXPERIMENTS as PARSING
from experiments.presets.wmt14 import EXPERIMENTS as TRANSLATION
from experiments.workdir import ROUNDING, differences, value_of
from transformer.config import LABELLED, Experiment, ModelConfig, counted

# Sentence pairs in the paper's training text (section 5.1), and trees (section 6.3).
PAIRS = {"wmt14-en-de": 4_500_000, "wmt14-en-fr": 36_000_000, "wsj": 40_000, "wsj-semi": 17_000_000}

# Settings that the paper does not specify, or that do not affect the result.
_SILENT = (
    "name",
    "note",
    "data.context",  # said in a sentence of its own
    "data.documents",
    "data.languages",
    "data.max_length",
    "data.max_unknown",
    "data.train_pairs",
    *(f"data.{split}_{side}" for split in ("train", "dev", "test") for side in ("src", "tgt")),
    "model.max_positions",
    "model.vocab_size",
    "model.source_vocab_size",
    "model.decoder_layers",  # the depth of the decoder, which may follow from num_layers, is compared
    "model.norm_epsilon",
    "model.attention_window",  # the paper says how restricted attention would work, and has no model with it
    "model.attention_memory",
    "model.biases",
    "train.seed",
    "train.log_every",
    "train.eval_every",
    "train.eval_sentences",
    "train.max_bad_steps",
    "decode.batch_size",
    "decode.seed",
    *ROUNDING,
)


# The paper's section on a setting. The longest name that is a prefix of the setting's name applies.
_SECTIONS = {
    "model.architecture": "3.1",
    "model.num_layers": "3.1",
    "model.shared_layers": "3.1",
    "model.d_model": "3.1",
    "model.norm": "3.1",
    "model.attention": "3.2.1",
    "model.num_heads": "3.2.2",
    "model.d_k": "3.2.2",
    "model.d_v": "3.2.2",
    "model.d_ff": "3.3",
    "model.feed_forward": "3.3",
    "model.activation": "3.3",
    "model.initializer": "3.3",
    "model.tied": "3.4",
    "model.scale_embeddings": "3.4",
    "model.output_bias": "3.4",
    "model.positions": "3.5",
    "model.vocab_size": "5.1",
    "model.source_vocab_size": "5.1",
    "data": "5.1",
    "data.task": "6.3",
    "model.dtype": "5.2",
    "train": "5.2",
    "optimizer": "5.3",
    "model.dropout": "5.4",
    "model.attention_dropout": "5.4",
    "model.activation_dropout": "5.4",
    "train.loss": "5.4",
    "train.label_smoothing": "5.4",
    "decode": "6.1",
    "decode.only_trees": "6.3",
    "train.keep": "6.1",
    **dict.fromkeys(("init", "branch", "freeze", "lora"), "5"),
}


def section_of(setting: str) -> str:
    """Returns the number of the paper's section on a setting, such as "3.2.2"."""
    return _SECTIONS[max((name for name in _SECTIONS if setting.startswith(name)), key=len)]


def head_widths(model: ModelConfig) -> list[str]:
    """Describes head widths that differ from the paper's d_k = d_v = d_model / h."""
    width = model.d_model / model.num_heads
    return [
        f"model.{name}: {value}, where d_model / h is {model.d_model} / {model.num_heads} = {width:g} (3.2.2)"
        for name, value in (("d_k", model.d_k), ("d_v", model.d_v))
        if value != width
    ]


def decoder_depth(model: ModelConfig, paper: ModelConfig, label: str) -> list[str]:
    """Describes a decoder whose depth is set and is not the paper's. One as deep as the encoder is `num_layers`."""
    if model.decoder_layers is None or model.decoder_depth == paper.decoder_depth:
        return []
    return [f"model.decoder_layers: {model.decoder_depth}; the paper's {label}: {paper.decoder_depth} (3.1)"]


def epsilon_of(model: ModelConfig) -> str:
    """Describes the epsilon of the norms."""
    usual = ModelConfig().norm_epsilon
    if model.norm_epsilon == usual:
        return "layer norms have an epsilon of 1e-6, as in the authors' code; the paper gives none (3.1)"
    return f"norms have an epsilon of {model.norm_epsilon:g}; the authors' code: {usual:g}; the paper gives none (3.1)"


def deviations(experiment: Experiment, splits: dict[str, Any] | None = None) -> list[str]:
    """Returns a list of sentences, one per difference; those of settings come first.

    The experiment is compared with the most similar model of the paper for its task, and for the same language pair if
    the paper has it: base or big, or the parser.

    Args:
        splits: the counts in the manifest of the prepared data, if it is prepared.
    """
    languages = languages_of(experiment.data)
    pair = "-".join(map(primary, languages or ()))
    ours = asdict(experiment)
    is_parsing = experiment.data.task in TAGS
    presets = PARSING if is_parsing else TRANSLATION
    papers = [replace(preset, model=replace(preset.model, dtype="float32")) for preset in presets]
    papers = [paper for paper in papers if paper.data.corpus in (f"wmt14-{pair}", experiment.data.corpus)] or papers
    in_each = [[name for name in differences(asdict(p), ours) if not name.startswith(_SILENT)] for p in papers]
    differing, paper = min(zip(in_each, papers, strict=True), key=lambda both: len(both[0]))
    label = paper.name.removeprefix("wmt14-")
    theirs = asdict(paper)
    lines = [
        f"{name}: {value_of(ours, name)}; the paper's {label}: {value_of(theirs, name)} ({section_of(name)})"
        for name in differing
    ]
    lines += decoder_depth(experiment.model, paper.model, label)
    lines += head_widths(experiment.model)
    if not experiment.model.decoder_depth:
        lines.append(
            "encoder only, with a head (Devlin et al., 2019): labels are predicted in one pass; the paper's models "
            "have a decoder, which writes a sequence token by token (3.1)"
        )
    if is_parsing:
        word = "its tag" if TAGS[experiment.data.task] else "XX whatever its tag"
        lines += [
            f"targets have a vocabulary of their symbols, and a word is {word}; the paper does not say (6.3)",
            f"dropout and warmup of the paper's {label} are from the authors' code, its steps those of base; "
            f"the paper does not say (6.3)",
            f"heads of the paper's {label} are d_model / h = 128 wide and its d_ff is 2,048, as in base; "
            f"the paper does not say (6.3)",
        ]
    elif experiment.data.task not in LABELLED:
        if f"wmt14-{pair}" not in PAIRS:
            lines.append(f"languages: {languages or 'not given'}; the paper's: en-de and en-fr (5.1)")
        rows, pieces = experiment.model.vocab_size, experiment.data.vocab_size
        lines.append(
            f"{rows:,} rows in the embedding for {pieces:,} pieces; "
            f"the paper's parameter counts fit 40,960 for 37,000 (3.4)"
        )
    if experiment.data.context > 1:
        lines.append(
            f"several sentences in a sequence: up to {experiment.data.context} consecutive ones of a document, with a "
            f"separator between two; the paper's are single (5.1)"
        )
    if paper.data.corpus == "wmt14-en-fr" and experiment.data.vocab_type == "bpe":
        lines.append("the vocabulary uses byte-pair encoding; the paper's English-French one uses word-pieces (5.1)")
    if splits:
        train, pairs = splits["train"], PAIRS[paper.data.corpus]
        kept, too_long = counted(train["kept"], "training pair"), counted(train["too_long"], "pair")
        lines.append(f"{kept}, {train['kept'] / pairs:.3g} times the paper's {pairs:,} (5.1)")
        if train["too_long"]:
            lines.append(f"{too_long} of more than {experiment.data.max_length} tokens a side are left out (5.1)")
        if train.get("shortened"):
            shortened = counted(train["shortened"], "example")
            lines.append(
                f"{shortened} of more than {experiment.data.max_length} tokens a side have fewer sentences (5.1)"
            )
    else:
        if experiment.data.train_pairs:
            lines.append(f"at most {counted(experiment.data.train_pairs, 'training pair')} (5.1)")
        lines.append(f"pairs of more than {experiment.data.max_length} tokens a side are left out (5.1)")
    return [
        *lines,
        f"batches of at most {experiment.data.batch_tokens:,} token slots a side, with sentences of all lengths; "
        f"the paper's: about 25,000 tokens, with sentences of similar length (5.1)",
        f"checkpoints every {counted(experiment.train.eval_every, 'step')}; the paper: every 10 minutes (6.1)",
        "the vocabulary is learned by sentencepiece on at most 2,000,000 lines; the authors' code had its own (5.1)",
        "the projections of queries, keys, values and heads have biases; the paper's equations have none (3.2.2)"
        if experiment.model.biases
        else "the feed-forward networks have no biases; the paper's equation has them (3.3)",
        epsilon_of(experiment.model),
        "smoothing gives eps / (V - 1) to each wrong token, as in the authors' code; the paper does not say (5.4)",
        *(
            ["decoding starts from a BOS token; the authors' code has a zero vector (3.4)"]
            if experiment.model.decoder_depth and experiment.model.architecture != "mask-predict"
            else []
        ),
    ]
