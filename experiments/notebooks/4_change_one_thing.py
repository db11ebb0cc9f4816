# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Change one thing
#
# Two changes to the model, each a class of a few lines: rotary positions for the paper's sinusoids, and query-key
# normalisation for its scaled dot products. First the laws that a change must not break, then a small experiment with
# three seeds of each, and at the end what it shows and what it does not.
#
# **Needs** no download and no GPU. **Takes** nine minutes on a laptop's CPU. In Colab, write the address of this
# repository into the next cell; elsewhere leave it empty. It writes below `./runs`, and what is there already is not
# trained again.

# %%
ADDRESS = ""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("DATA_DIR", "runs/prepared")
if importlib.util.find_spec("experiments") is None or importlib.util.find_spec("transformer") is None:
    if not ADDRESS:
        raise RuntimeError("install this repository (pip install -e .), or write its address into ADDRESS above")
    subprocess.run(["git", "clone", "--quiet", ADDRESS, "repository"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", "repository"], check=True)
    sys.path.insert(0, str(Path("repository").resolve()))

# %%
# %matplotlib inline
from dataclasses import replace

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

from experiments import Translator, find
from experiments.evaluation.compare import compare
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.records import read_evaluation
from experiments.history import read_metrics
from experiments.inspection.invariants import measure_invariants
from experiments.tables.render import interval
from experiments.training.loop import train
from experiments.training.views import table
from transformer import ModelConfig, UserError
from transformer.attention import ATTENTIONS, MultiHeadAttention, scaled_dot_product_attention
from transformer.model import count_parameters
from transformer.positions import POSITIONS, Positions

# %% [markdown]
# ## Another position encoding
#
# The paper adds a vector to each embedding (section 3.5). Rotary positions (Su et al., 2021) add nothing: they turn
# each query and each key, pair of numbers by pair of numbers, by an angle that grows with its position,
#
# $$q_m = R_m q, \quad k_n = R_n k, \qquad q_m^\top k_n = q^\top R_{n-m}\, k,$$
#
# so that a score depends on how far apart two tokens stand, and not on where. A position encoding of this code is a
# class with three methods, of which it overrides those it needs: `__call__` (a vector to add), `rotate` (queries and
# keys) and `bias` (scores). It rotates the queries and keys of self-attention only: across two languages a distance
# says little.


# %%
class Rotary(Positions):
    """Turns pairs of a head's numbers by position / 10000^(i / half), the paper's wavelengths."""

    def rotate(self, x, positions):  # [B, N, T, K], [B, T]
        half = x.shape[-1] // 2
        frequencies = 10_000.0 ** (-jnp.arange(half) / half)
        angles = positions[:, None, :, None] * frequencies
        a, b = x[..., :half], x[..., half:]
        turned = [a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)]
        return jnp.concatenate(turned, axis=-1).astype(x.dtype)


POSITIONS["rotary"] = Rotary

# %% [markdown]
# From here on `ModelConfig(positions="rotary")` builds it. Its law, in numbers: one query and one key at all pairs of
# positions. Along each diagonal, where the distance is the same, the product is the same.

# %%
query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 32)).astype(np.float32)
places = jnp.arange(40)[None]
rotary = Rotary(ModelConfig(), rngs=nnx.Rngs(0))
queries = rotary.rotate(jnp.broadcast_to(query, (1, 1, 40, 32)), places)[0, 0]
keys = rotary.rotate(jnp.broadcast_to(key, (1, 1, 40, 32)), places)[0, 0]
products = np.asarray(queries @ keys.T)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
image = left.imshow(products, cmap="cividis")
left.set(xlabel="position of the key", ylabel="position of the query", title="product of the same two vectors")
figure.colorbar(image, ax=left)
distances = range(-30, 31)
of_distance = [np.diagonal(products, d) for d in distances]
right.plot(distances, [d.mean() for d in of_distance], ".-")
right.set(xlabel="position of the key - position of the query", ylabel="product", title="... by distance")
plt.show()
print(f"largest spread along a diagonal: {max(np.ptp(d) for d in of_distance):.1e}")

# %% [markdown]
# ## Another attention
#
# The paper divides $QK^\top$ by $\sqrt{d_k}$, since products of long vectors are large and a softmax of large numbers
# learns slowly (section 3.2.1). Query-key normalisation (Henry et al., 2020) makes every query and key a unit vector: a
# score is then a cosine, times a number $g$ that each head learns,
#
# $$\mathrm{softmax}\left(g \, \frac{q^\top k}{\lVert q \rVert \lVert k \rVert}\right) V.$$
#
# A kind of attention is a class that overrides `attend`. Masks, heads, projections and the cache stay as they are.


# %%
class CosineAttention(MultiHeadAttention):
    """Scores are cosines of queries and keys, times a learned number for each head, 10 to begin with."""

    def __init__(self, config, *, rngs):
        super().__init__(config, rngs=rngs)
        self.scale = nnx.Param(jnp.full((config.num_heads, 1, 1), 10.0))

    def attend(self, queries, keys, values, context):  # [B, N, T, K], [B, N, K, S], [B, N, S, H]
        def unit(x, axis):
            return x / jnp.sqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-6)

        scale = self.scale[...] * queries.shape[-1] ** 0.5  # which equation 1 divides by
        queries, keys = (unit(queries, 3) * scale).astype(queries.dtype), unit(keys, 2).astype(keys.dtype)
        return scaled_dot_product_attention(queries, keys, values, context.mask, context.bias)


ATTENTIONS["cosine"] = CosineAttention

# %% [markdown]
# ## Do the laws still hold?
#
# A mask that leaks makes a model that looks excellent in training and is useless afterwards. So before any training,
# four laws that every variant must keep, on a random model and random tokens:
#
# - **causal**: what stands at position $t$ of the target changes no logits at positions up to $t$;
# - **padding**: padding behind a source changes no logits;
# - **cached = full**: decoding token by token with a cache gives the logits of training;
# - **rows**: each row of the attention weights sums to 1.
#
# `experiments/inspection/invariants.py` has them, and `train` tries them before its first step where a part is not of
# this code. The numbers are the largest differences found; float32 rounds at about 1e-6. To see that they can fail,
# there is a third kind of attention, which forgets the mask.


# %%
class LeakingAttention(MultiHeadAttention):
    """What must never happen: every query looks at every key."""

    def attend(self, queries, keys, values, context):
        return scaled_dot_product_attention(queries, keys, values, jnp.array(True))


ATTENTIONS["leaking"] = LeakingAttention

cases = {
    "base": {},
    "rotary": {"positions": "rotary"},
    "cosine": {"attention": "cosine"},
    "leaking": {"attention": "leaking"},
}
small = ModelConfig(vocab_size=50, num_layers=2, d_model=32, d_ff=64, num_heads=4, d_k=8, d_v=8)
errors = {name: measure_invariants(replace(small, **parts)) for name, parts in cases.items()}
assert all(max(errors[name]) < 1e-4 for name in ("base", "rotary", "cosine"))
assert errors["leaking"].causal > 0.01
table(
    ["", "causal", "padding", "cached = full", "rows"],
    [[name, *(f"{error:.0e}" for error in found)] for name, found in errors.items()],
)

# %% [markdown]
# ## The experiment
#
# Three systems that differ in one setting each, three seeds of each, the same text in the same order for each seed. The
# size is chosen so that the whole takes minutes and no system is perfect at the end: 300 steps on 20,000 pairs of the
# embedded corpus, at which a difference in the speed of learning shows. Two things are not the paper's: the norm stands
# before each sub-layer (pre-norm learns from the first steps on), and search is greedy, to save minutes.

# %%
STEPS, SEEDS = 300, range(3)
demo = find("demo")
base = replace(
    demo,
    name="base",
    model=replace(demo.model, d_model=64, d_ff=256, d_k=16, d_v=16, norm="pre"),
    data=replace(demo.data, train_pairs=20_000, batch_tokens=1024),
    optimizer=replace(demo.optimizer, warmup_steps=80),
    train=replace(demo.train, steps=STEPS, log_every=25, eval_every=100, eval_sentences=16, keep=1),
    decode=replace(demo.decode, beam=1, extra_length=10, batch_size=250),
)
systems = {
    name: replace(base, name=name, model=replace(base.model, **cases[name])) for name in cases if name != "leaking"
}
table(
    ["system", "`model.positions`", "`model.attention`", "parameters"],
    [[name, e.model.positions, e.model.attention, f"{count_parameters(e.model):,}"] for name, e in systems.items()],
)


# %%
def path_of(name, seed):
    return Path("runs/change") / f"{name}-{seed}"


def nothing(line):
    """Says nothing."""


records = {}
for seed in SEEDS:
    for name, system in systems.items():
        run = train(replace(system, train=replace(system.train, seed=seed)), path_of(name, seed), log=nothing)
        result = evaluate(run, Translator.load(run.path, "last", nothing), "test", nothing)
        records[name, seed] = read_evaluation(result.record)
        print(f"{name:8} seed {seed}: BLEU {result.scores[0].value:5.2f}")

# %% [markdown]
# Run this cell again and it trains nothing: a run that is there is found. Now the curves, one line for each seed.

# %%
colours = dict(zip(systems, ("#0072B2", "#E69F00", "#009E73"), strict=True))  # Okabe and Ito's, for all eyes
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name, seed in records:
    rows = read_metrics(path_of(name, seed) / "metrics.jsonl")
    label = name if seed == 0 else None
    trained = [row for row in rows if "loss" in row]
    left.plot([row["step"] for row in trained], [row["loss"] for row in trained], color=colours[name], label=label)
    valid = [row for row in rows if "dev_ppl" in row]
    right.plot(
        [row["step"] for row in valid], [row["dev_ppl"] for row in valid], "o-", color=colours[name], label=label
    )
left.set(xlabel="step", ylabel="nats per target token", title="training loss, label-smoothed")
right.set(xlabel="step", ylabel="perplexity per token", title="validation", yscale="log")
right.set_yticks([2, 3, 5, 10], ["2", "3", "5", "10"])
right.minorticks_off()
left.legend()
plt.show()

# %% [markdown]
# The table: means over the seeds with their 95% intervals by Student's t. With three seeds the interval is 2.5 standard
# deviations to each side, and the standard deviation itself is known badly: intervals of three seeds are rough.

# %%
bleu = {name: [records[name, seed]["scores"][0]["value"] for seed in SEEDS] for name in systems}
ppl = {name: [records[name, seed]["dev_ppl"] for seed in SEEDS] for name in systems}
gain = {name: interval([b - a for a, b in zip(bleu["base"], bleu[name], strict=True)]) for name in systems}
table(
    ["system", "validation perplexity", "BLEU, test", "BLEU of each seed", "BLEU - base's, same seed"],
    [
        [
            name,
            interval(ppl[name]),
            interval(bleu[name]),
            ", ".join(f"{value:.1f}" for value in bleu[name]),
            "" if name == "base" else gain[name],
        ]
        for name in systems
    ],
)

# %% [markdown]
# ## Is it chance?
#
# `compare` asks two questions. Over the sentences of the test set: would two equally good systems differ so much on
# 1,000 such sentences (paired bootstrap resampling, and approximate randomisation)? That p says nothing about another
# seed. Over the seeds: the last two lines. `python -m experiments compare A0,A1,A2 B0,B1,B2` prints the same.

# %%
for name in ("rotary", "cosine"):
    runs = [[str(path_of(system, seed)) for seed in SEEDS] for system in ("base", name)]
    print(*compare(*runs, "test"), sep="\n", end="\n\n")

# %%
for name in ("rotary", "cosine"):
    mean, half, n = gain[name]
    if mean - half > 0:
        verdict = "better than base here: the interval over seeds leaves out 0"
    elif mean + half < 0:
        verdict = "worse than base here: the interval over seeds leaves out 0"
    else:
        verdict = "not shown to be better or worse: the interval over seeds holds 0"
    print(f"{name}: {mean:+.2f} ± {half:.2f} BLEU over {n} seeds. {name} is {verdict}.")

# %% [markdown]
# ## What can be concluded
#
# Only what the lines above say, and only of this setting: one artificial corpus of short sentences, one small pre-norm
# model, 300 steps, one learning rate for all. In particular:
#
# - After so few steps a number measures how fast a system learns. Systems that differ here may end at the same place.
# - The learning rate was the paper's for all three. A variant that wants another one looks worse than it is.
# - Small p over the sentences of single seeds, beside an interval over seeds that holds 0, is no contradiction: *these*
#   two models differ, and two others of the same systems may differ the other way.
# - Two comparisons were made. The more one makes, the more of them leave out 0 by chance.
#
# For a claim about translation: `--parts FILE` with the same classes on `multi30k-tiny` or WMT14, more seeds, and a few
# learning rates for each system.
#
# ## What a checkpoint says of it
#
# A checkpoint has the names of its parts, and for parts of a file the file and its hash. These came from a notebook, so
# whoever loads it must run their cells first. Without them:

# %%
mine = POSITIONS.pop("rotary")
try:
    Translator.load(path_of("rotary", 0))
except UserError as error:
    print(error)
POSITIONS["rotary"] = mine

# %% [markdown]
# In a file, say `rotary.py`, the same class goes anywhere: `python -m experiments train demo --parts rotary.py
# --model.positions rotary`. [docs/extending.md](../../docs/extending.md) shows one for each kind of part.
