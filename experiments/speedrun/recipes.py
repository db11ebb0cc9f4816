"""The recipes of the speedrun: changes of the paper's recipe, each alone or several together ("rotary+muon").

Each is one component of transformer/variants/modern, or one setting. Records, also of those that do not help, belong in
experiments/results/speedrun.
"""

from dataclasses import asdict, replace
from functools import reduce
from typing import Any, NamedTuple

from data.corpora import languages_of
from experiments.presets.paper import Change
from experiments.workdir import differences
from transformer.config import Experiment, UserError


class Recipe(NamedTuple):
    """A change of the paper's recipe."""

    what: str
    """What is changed, with its source."""
    change: Change
    checkpoint: str = "average"
    """What is scored: the average of the last checkpoints, as in the paper, "ema" or "last"."""
    distilled: bool = False
    """Whether it trains on text from `distill`, in the folder given by --text."""


def setting(**changes: Any) -> Change:
    """Returns a change of fields of one or more parts of an experiment, such as model={"norm": "pre"}."""

    def change(base: Experiment) -> Experiment:
        return replace(base, **{part: replace(getattr(base, part), **fields) for part, fields in changes.items()})

    return change


def times(part: str, **factors: float) -> Change:
    """Returns a change that multiplies numbers of one part of an experiment."""

    def change(base: Experiment) -> Experiment:
        whole = getattr(base, part)
        values = {name: type(value := getattr(whole, name))(value * factor) for name, factor in factors.items()}
        return replace(base, **{part: replace(whole, **values)})

    return change


def both(*changes: Change) -> Change:
    """Returns several changes as one. It raises UserError if two of them set the same, or one of them sets nothing."""

    def change(base: Experiment) -> Experiment:
        sets = [differences(asdict(each(base)), asdict(base)) for each in changes]
        if not all(sets):
            raise UserError("these recipes cannot be joined: one of them changes nothing in the base of this track")
        every = [name for names in sets for name in names]
        if several := sorted({name for name in every if every.count(name) > 1}):
            raise UserError(f"these recipes cannot be joined: more than one of them sets {', '.join(several)}")
        return reduce(lambda found, each: each(found), changes, base)

    return change


def deep_encoder(base: Experiment) -> Experiment:
    """Layers move from the decoder to the encoder: of N and N, 3N/2 and N/2, which have nearly as many FLOPs."""
    layers = base.model.num_layers
    model = replace(base.model, num_layers=layers + layers // 2, decoder_layers=layers - layers // 2)
    return replace(base, model=model)


def gated(base: Experiment) -> Experiment:
    """A gated network with as many parameters: three matrices in place of two, each two thirds as wide."""
    width = round(base.model.d_ff * 2 / 3 / 8) * 8
    return replace(base, model=replace(base.model, feed_forward="gated", activation="swish", d_ff=width))


def distilled(base: Experiment) -> Experiment:
    """Text in files, of the same languages as the corpus."""
    languages = languages_of(base.data)
    return replace(base, data=replace(base.data, languages="-".join(languages) if languages else None))


def pieces(share: float) -> Change:
    """Returns a change of the size of the vocabulary."""

    def change(base: Experiment) -> Experiment:
        size = int(base.data.vocab_size * share)
        model = replace(base.model, vocab_size=size)
        return replace(base, data=replace(base.data, vocab_size=size), model=model)

    return change


RECIPES: dict[str, Recipe] = {
    "paper": Recipe("nothing: the paper's recipe (section 5)", lambda base: base),
    "pre-norm": Recipe("pre-norm (Xiong et al., 2020)", setting(model={"norm": "pre"})),
    "rms-norm": Recipe("RMSNorm (Zhang and Sennrich, 2019)", setting(model={"norm_type": "rms"})),
    "rotary": Recipe("rotary position embeddings (Su et al., 2021)", setting(model={"positions": "rotary"})),
    "qk-norm": Recipe("query-key normalization (Henry et al., 2020)", setting(model={"attention": "qk-norm"})),
    "swiglu": Recipe("gated feed-forward network, of equal size (Shazeer, 2020)", gated),
    "deep-encoder": Recipe("deep encoder, shallow decoder (Kasai et al., 2021)", deep_encoder),
    "half-batch": Recipe("batches half as large", times("data", batch_tokens=0.5)),
    "double-batch": Recipe("batches twice as large", times("data", batch_tokens=2)),
    "double-rate": Recipe("twice the learning rate", times("optimizer", scale=2)),
    "quadruple-rate": Recipe("four times the learning rate", times("optimizer", scale=4)),
    "half-rate": Recipe("half the learning rate", times("optimizer", scale=0.5)),
    "short-warmup": Recipe("warmup in a quarter of the steps", times("optimizer", warmup_steps=0.25)),
    "wsd": Recipe(  # the decay takes the place of averaging, which would mix in checkpoints of a larger rate
        "warmup, stable, decay (Hu et al., 2024), and the last checkpoint",
        setting(optimizer={"schedule": "wsd"}),
        "last",
    ),
    "quarter-length": Recipe("a schedule that ends after a quarter of the steps", times("train", steps=0.25)),
    "schedule-free": Recipe(
        "schedule-free Adam (Defazio et al., 2024)",
        setting(optimizer={"name": "schedule_free", "schedule": "constant"}),
    ),
    "adamw": Recipe("weight decay of 0.1 (Loshchilov and Hutter, 2019)", setting(optimizer={"weight_decay": 0.1})),
    "muon": Recipe("Muon for the matrices of the layers (Jordan et al., 2024)", setting(optimizer={"name": "muon"})),
    "ema": Recipe("moving average of the parameters (0.999)", setting(train={"ema": 0.999}), "ema"),
    "r-drop": Recipe("R-Drop (Liang et al., 2021)", setting(train={"loss": "r_drop"})),
    "bpe-dropout": Recipe("BPE-dropout of 0.1 (Provilkov et al., 2020)", setting(data={"subword_sampling": 0.1})),
    "curriculum": Recipe(
        "short sentences first, for two epochs (Kocmi and Bojar, 2017)", setting(data={"curriculum": 2})
    ),
    "half-vocabulary": Recipe("a vocabulary half as large", pieces(0.5)),
    "distilled": Recipe(
        "sequence-level distillation (Kim and Rush, 2016), without the FLOPs of the teacher",
        distilled,
        distilled=True,
    ),
    "no-smoothing": Recipe("no label smoothing", setting(train={"label_smoothing": 0.0})),
    "double-dropout": Recipe("twice the dropout", times("model", dropout=2)),
    "half-dropout": Recipe("half the dropout", times("model", dropout=0.5)),
}
"""Recipes by name, in the order of the paper's sections."""


def find_recipe(name: str) -> Recipe:
    """Returns a recipe, or the sum of several, as "rotary+muon". UserError names those that there are."""
    parts = name.split("+")
    if unknown := [part for part in parts if part not in RECIPES]:
        raise UserError(f"unknown recipe {unknown[0]!r}; the recipes are: {', '.join(RECIPES)}")
    if len(parts) > 1 and ("paper" in parts or len(set(parts)) < len(parts)):
        raise UserError(f"{name!r}: a sum of recipes has each of them once, and the paper's is in all of them")
    if parts != (ordered := [known for known in RECIPES if known in parts]):  # one recipe would have two names
        raise UserError(f"{name!r}: a sum has its recipes in the order of the list: {'+'.join(ordered)}")
    found = [RECIPES[part] for part in parts]
    if len(found) == 1:
        return found[0]
    chosen = [recipe.checkpoint for recipe in found if recipe.checkpoint != "average"]
    if len(chosen) > 1:
        raise UserError(f"{name!r}: these recipes cannot be joined: they score the checkpoints {', '.join(chosen)}")
    return Recipe(
        what="; ".join(recipe.what for recipe in found),
        change=both(*(recipe.change for recipe in found)),
        checkpoint=chosen[0] if chosen else "average",
        distilled=any(recipe.distilled for recipe in found),
    )
