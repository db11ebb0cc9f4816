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
# This notebook makes two changes to the model, each a class of a few lines: rotary position embeddings instead of the
# paper's sinusoids, and query-key normalization instead of its scaled dot products (notebook 1 explains both of the
# paper's). It first checks invariants, properties that no change may break. Then it runs a small experiment with three
# seeds per system, and ends with what this does and does not show.
#
# **Needs** no download and no GPU. **Takes** nine minutes on a laptop's CPU. In Colab, write the address of this
# repository into the next cell; elsewhere leave it empty. It writes to `./runs`, and does not repeat training
# runs that are already there.

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
from experiments.evaluation.intervals import interval
from experiments.evaluation.records import read_evaluation
from experiments.history import read_metrics
from experiments.inspection.invariants import measure_invariants
from experiments.training.loop import train
from experiments.training.views import table
from transformer import ModelConfig, UserError
from transformer.attention import ATTENTIONS, MultiHeadAttention, scaled_dot_product_attention
from transformer.model import count_parameters
from transformer.positions import POSITIONS, Positions

# %% [markdown]
# ## Another position encoding
#
# The paper adds a position vector to each embedding (section 3.5). Rotary position embeddings (Su et al., 2021) add
# nothing. Instead they rotate each query and each key: the entries are grouped into pairs, and each pair is rotated by
# an angle that is proportional to the position. With $R_m$ the rotation at position $m$,
#
# $$q_m = R_m q, \quad k_n = R_n k, \qquad q_m^\top k_n = q^\top R_{n-m}\, k,$$
#
# so an attention score depends on the distance between two tokens, and not on their absolute positions.
#
# In this code, a position encoding is a subclass of `Positions` that overrides one or more of three methods: `__call__`
# (a vector that is added to the embedding), `rotate` (applied to queries and keys) and `bias` (added to the scores).
# `rotate` is used only in self-attention: in cross-attention, query and key are positions in two different languages,
# and their distance means little.


# %%
class Rotary(Positions):
    """Rotates pairs of entries by position / 10000^(i / half), the wavelengths of the paper."""

    def rotate(self, x, positions):  # [B, N, T, K], [B, T]
        half = x.shape[-1] // 2
        frequencies = 10_000.0 ** (-jnp.arange(half) / half)
        angles = positions[:, None, :, None] * frequencies
        a, b = x[..., :half], x[..., half:]
        rotated = [a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)]
        return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


POSITIONS["my-rotary"] = Rotary

# %% [markdown]
# The last line registers the class: from now on, `ModelConfig(positions="my-rotary")` uses it. (This encoding and the
# attention below are also built in, as "rotary" and "qk-norm" of `transformer/variants/modern`; names of built-in
# components cannot be reused.) The next cell checks the property numerically. It places the same query and the same key
# at all pairs of positions. Along each diagonal the distance is the same, and so is the dot product.

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
# The paper divides $QK^\top$ by $\sqrt{d_k}$, because dot products of long vectors are large, and a softmax of large
# numbers learns slowly (section 3.2.1). Query-key normalization (Henry et al., 2020) scales every query and key to
# length 1. A score is then a cosine, times a number $g$ that each head learns:
#
# $$\mathrm{softmax}\left(g \, \frac{q^\top k}{\lVert q \rVert \lVert k \rVert}\right) V.$$
#
# A new kind of attention is a subclass of `MultiHeadAttention` that overrides `attend`. Masks, heads, projections and
# the decoding cache stay the same.


# %%
class CosineAttention(MultiHeadAttention):
    """Scores are cosines of queries and keys, times a learned number for each head, initially 10."""

    def __init__(self, config, *, rngs):
        super().__init__(config, rngs=rngs)
        self.scale = nnx.Param(jnp.full((config.num_heads, 1, 1), 10.0))

    def attend(self, queries, keys, values, context):  # [B, N, T, K], [B, N, K, S], [B, N, S, H]
        def unit(x, axis):
            return x / jnp.sqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-6)

        scale = self.scale[...] * queries.shape[-1] ** 0.5  # undoes the division in equation 1
        queries, keys = (unit(queries, 3) * scale).astype(queries.dtype), unit(keys, 2).astype(keys.dtype)
        return scaled_dot_product_attention(queries, keys, values, context.mask, context.bias)


ATTENTIONS["my-cosine"] = CosineAttention

# %% [markdown]
# ## Check the invariants
#
# If a mask leaks, positions see tokens that they should predict: the model looks excellent in training and is useless
# afterwards. Therefore, before any training, check four invariants that every variant must satisfy. They are measured
# on a randomly initialized model and random tokens:
#
# - **causal**: the token at position $t$ of the target changes no logits at positions up to $t$;
# - **padding**: padding after a source changes no logits;
# - **cached = full**: decoding token by token, with a cache of earlier keys and values, gives the same logits as
#   training, which computes all positions at once;
# - **rows**: each row of the attention weights sums to 1.
#
# `experiments/inspection/invariants.py` measures them, and `train` checks them before its first step if a component is
# not built in. The numbers are the largest differences found; float32 rounding is about 1e-6. To show that the check
# can fail, a third kind of attention ignores the mask.


# %%
class LeakingAttention(MultiHeadAttention):
    """A bug on purpose: every query attends to every key."""

    def attend(self, queries, keys, values, context):
        return scaled_dot_product_attention(queries, keys, values, jnp.array(True))


ATTENTIONS["leaking"] = LeakingAttention

cases = {
    "base": {},
    "rotary": {"positions": "my-rotary"},
    "cosine": {"attention": "my-cosine"},
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
# Three systems differ in one setting each, and each is trained with three seeds. For a given seed, all systems see the
# same text in the same order. The size is chosen so that everything takes minutes and no system is perfect at the end:
# 300 steps on 20,000 pairs of the generated corpus, where differences in the speed of learning are visible. Two things
# differ from the paper: the norm is before each sub-layer (*pre-norm*, which learns from the first steps on), and
# translations come from greedy search, to save time.

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
    """Discards a log line."""


records = {}
for seed in SEEDS:
    for name, system in systems.items():
        run = train(replace(system, train=replace(system.train, seed=seed)), path_of(name, seed), log=nothing)
        result = evaluate(run, Translator.load(run.path, "last", nothing), "test", nothing)
        records[name, seed] = read_evaluation(result.record)
        print(f"{name:8} seed {seed}: BLEU {result.scores[0].value:5.2f}")

# %% [markdown]
# If you run this cell again, it trains nothing, because it finds the finished runs. Now the curves, one line per seed:

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
# The table shows means over the seeds with their 95% intervals (Student's t). With three seeds the interval extends 2.5
# standard deviations to each side, and the standard deviation itself is estimated poorly: intervals from three seeds
# are rough.

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
# ## Is the difference due to chance?
#
# `compare` answers two questions. The first is about sentences: would two equally good systems differ this much on
# 1,000 such sentences? The answer, p, comes from resampling the test set (paired bootstrap resampling and approximate
# randomization), and says nothing about other seeds. The second is about seeds: see the last two lines.
# `python -m experiments compare A0,A1,A2 B0,B1,B2` prints the same.

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
# Only what the lines above say, and only for this setting: one artificial corpus of short sentences, one small pre-norm
# model, 300 steps, and one learning rate for all systems. In particular:
#
# - After so few steps, the numbers measure how fast a system learns. Systems that differ here may end up equal.
# - All three systems used the paper's learning rate. A variant that needs another one looks worse than it is.
# - A small p over the sentences of single seeds does not contradict an interval over seeds that contains 0: *these* two
#   models differ, and two others of the same systems may differ the other way.
# - Two comparisons were made. The more comparisons you make, the more of them exclude 0 by chance.
#
# For a claim about translation, use `--parts FILE` with the same classes on `multi30k-tiny` or WMT14, more seeds, and
# several learning rates for each system.
#
# ## What a checkpoint stores
#
# A checkpoint stores the names of its components, and for components from a file the file's path and hash. These
# components came from a notebook, so whoever loads the checkpoint must first run their cells. Otherwise:

# %%
mine = POSITIONS.pop("my-rotary")
try:
    Translator.load(path_of("rotary", 0))
except UserError as error:
    print(error)
POSITIONS["my-rotary"] = mine

# %% [markdown]
# To use the class elsewhere, put it and its registration into a file, say `mine.py`:
# `python -m experiments train demo --parts mine.py --model.positions my-rotary`.
# [docs/extending.md](../../docs/extending.md) has an example of each kind of component.
