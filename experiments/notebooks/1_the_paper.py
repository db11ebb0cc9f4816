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
# # 1. The paper, next to its code
#
# This notebook goes through "Attention Is All You Need" (Vaswani et al., 2017) section by section: an equation, the
# code that computes it, and a picture of what it does. The code is not copied here: it is printed from the library,
# without its docstrings, and the pictures are computed with it.
#
# **Needs** no download, no GPU and no trained model. **Takes** a minute on two cores of a CPU. In Colab, write the
# address of this repository into the next cell; elsewhere leave it empty.

# %%
ADDRESS = ""

import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("experiments") is None or importlib.util.find_spec("transformer") is None:
    if not ADDRESS:
        raise RuntimeError("install this repository (pip install -e .), or write its address into ADDRESS above")
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ADDRESS, "repository"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", "repository"], check=True)
    sys.path.insert(0, str(Path("repository").resolve()))

# %%
import ast
import inspect
import textwrap
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from IPython.display import Markdown

from experiments.presets.paper import BASE, BIG, TABLE3
from experiments.training.views import table
from transformer.attention import (
    AttentionContext,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)
from transformer.config import Experiment, ModelConfig, OptimizerConfig
from transformer.decode import beam_search, candidates, greedy_search, length_penalty
from transformer.layers import EncoderLayer, FeedForward, LayerNorm, Residual, dropout
from transformer.loss import cross_entropy
from transformer.model import Transformer
from transformer.optimizer import adam, inverse_sqrt, learning_rate, make_optimizer
from transformer.positions import SinusoidalPositions
from transformer.segments import same_sentence, segments

plt.style.use("tableau-colorblind10")
plt.rcParams |= {"figure.dpi": 80, "figure.constrained_layout.use": True, "axes.titlesize": 11}


def show(*things):
    """Shows the source code of functions and classes of the library, without docstrings."""
    blocks = []
    for thing in things:
        code = textwrap.dedent(inspect.getsource(thing))
        lines = code.splitlines()
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                doc = node.body[0]
                lines[doc.lineno - 1 : doc.end_lineno] = [None] * (doc.end_lineno - doc.lineno + 1)
        kept = "\n".join(line for line in lines if line is not None)
        blocks.append(f"`{thing.__module__.replace('.', '/')}.py`\n```python\n{kept.strip()}\n```")
    return Markdown("\n".join(blocks))


# %% [markdown]
# The model translates a sentence in two parts. The *encoder* reads the source sentence and turns each of its tokens
# into a vector. The *decoder* writes the target sentence token by token, and looks at these vectors and at what it has
# written so far. A *token* is a word or a piece of a word, and the model knows it by its number in the vocabulary (its
# id).
#
# All code uses the same letters for the dimensions of arrays: B batch (number of rows), S source length, T target
# length, N heads, K width of a head's queries and keys, H width of its values, D $= d_{model}$ (width of the vectors
# between layers), F $= d_{ff}$ (inner width of the feed-forward network), V vocabulary size. The sections below explain
# what heads, queries, keys and values are.
#
# ## 3.1 Encoder and decoder stacks
#
# Encoder and decoder are stacks of layers, and a layer consists of *sub-layers*. An encoder layer has two:
# self-attention, which lets each position collect information from the other positions (section 3.2), and a
# feed-forward network, which transforms each position on its own (section 3.3). A decoder layer has a third one between
# them, attention to the encoder's output.
#
# Around each sub-layer there is a *residual connection*: the input $x$ is added to the sub-layer's output. *Layer
# normalization* then shifts and scales each vector to mean 0 and variance 1:
#
# $$\mathrm{LayerNorm}(x + \mathrm{Sublayer}(x))$$
#
# In the code, `context` contains the masks (section 3.2.3), and `key` is a random key for dropout (section 5.4).

# %%
show(Residual.__call__, EncoderLayer.__call__)

# %% [markdown]
# The effect of the norm. Left: the entries of a vector that is far from mean 0 and variance 1, before and after
# normalization. Right: the standard deviation of the vectors between the layers of an encoder with 12 layers, before
# any training. With the paper's arrangement ("post": normalize after adding) it is 1 after every layer. If the norm is
# inside the residual branch instead ("pre", which is not the paper's), every layer adds to the sum, and the sum grows.

# %%
small = ModelConfig(vocab_size=1000, num_layers=12, d_model=128, d_ff=512, num_heads=4, d_k=32, d_v=32, dropout=0.0)
tokens = jax.random.randint(jax.random.key(0), (8, 24), 4, 1000)


def spread(config):
    """Standard deviation over D of what enters the encoder, and of what leaves each layer."""
    model = Transformer(config, rngs=nnx.Rngs(0))
    found = segments(tokens)
    context = model.attention_context(padding_mask(tokens), found.position, found.position)
    x = model.embed(tokens, model.position_vectors(found.position))
    deviations = [x.std(axis=-1).mean()]
    for layer in model.encoder:
        x = layer(x, context, None)
        deviations.append(x.std(axis=-1).mean())
    return deviations


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
vector = 1.5 + 3.0 * jax.random.normal(jax.random.key(1), (1, 1, 512))
normalised = LayerNorm(replace(small, d_model=512), rngs=nnx.Rngs(0))(vector)
bins = np.linspace(-9, 12, 60)
left.hist(vector.ravel(), bins, label="$x$", alpha=0.8)
left.hist(normalised.ravel(), bins, label="LayerNorm($x$)", alpha=0.8)
left.set(xlabel="entry", ylabel="how many of 512")
left.legend()
right.plot(spread(small), "o-", label="post, the paper's")
right.plot(spread(replace(small, norm="pre")), "s--", label="pre")
right.set(xlabel="after layer", ylabel="standard deviation", ylim=(0, None))
right.legend()
plt.show()

# %% [markdown]
# ## 3.2.1 Scaled dot-product attention
#
# Attention lets a position read from others. The position has a vector, its *query*; each position that can be read has
# a *key* and a *value*. The dot product of query and key is a *score*: it says how well they match. The softmax turns
# the scores of a query into *attention weights*, which are positive and sum to 1, and the output is the average of the
# values with these weights. For all queries at once, as the rows of matrices:
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{QK^T}{\sqrt{d_k}}\right)V \qquad (1)$$

# %%
show(scaled_dot_product_attention)

# %% [markdown]
# Left: five keys and three queries in a plane. Each key has a value, here a single number. Middle: the attention
# weights. A query's weight is large for a key that points in the same direction, and its output is the weighted average
# of the values.
#
# Right: why the scores are divided by $\sqrt{d_k}$ (the reason is in a footnote of the paper). The dot product of two
# random vectors of width $d_k$ has variance $d_k$. Without the division, the softmax of a wide head would put all
# weight on one key, and its gradient would be close to zero.

# %%
angles = np.radians([20, 60, 130, 200, 290])
keys = 3 * np.stack([np.cos(angles), np.sin(angles)])[None, None]  # [B, N, K, S]
query_angles = np.radians([30, 165, 260])
queries = 3 * np.stack([np.cos(query_angles), np.sin(query_angles)], axis=-1)[None, None]  # [B, N, T, K]
values = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 1, 5, 1)  # [B, N, S, H]
output, weights = scaled_dot_product_attention(jnp.array(queries), jnp.array(keys), values, jnp.array(True))

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
for name, vectors, style in (("key", keys[0, 0].T, {"color": "C0"}), ("query", queries[0, 0], {"color": "C1"})):
    left.quiver(*np.zeros((2, len(vectors))), *vectors.T, scale=1, scale_units="xy", angles="xy", **style)
    for i, vector in enumerate(vectors, start=1):
        left.annotate(f"{name} {i}", 1.22 * vector, ha="center", va="center", **style)
left.set(xlim=(-4.6, 4.6), ylim=(-4.2, 4.2), aspect="equal", title="keys and queries")
middle.imshow(weights[0, 0], vmin=0, vmax=1, cmap="viridis")
for (t, s), weight in np.ndenumerate(weights[0, 0]):
    middle.text(s, t, f"{weight:.2f}", ha="center", va="center", color="black" if weight > 0.5 else "white")
middle.set_xticks(range(5), [f"key {s}\nvalue {s}" for s in range(1, 6)])
middle.set_yticks(range(3), [f"query {t}\noutput {output[0, 0, t - 1, 0]:.2f}" for t in range(1, 4)])
middle.set_title("weights: each row sums to 1")
widths = [1, 4, 16, 64, 256]
for label, style, scaled in (("divided by $\\sqrt{d_k}$", "o-", True), ("not divided", "s--", False)):
    largest = []
    for d_k in widths:
        q, k = (jax.random.normal(key, (1, 1, 64, d_k)) for key in jax.random.split(jax.random.key(2)))
        q = q if scaled else q * d_k**0.5  # undoes the division
        _, found = scaled_dot_product_attention(q, k.swapaxes(2, 3), k, jnp.array(True))
        largest.append(found.max(axis=-1).mean())
    right.plot(widths, largest, style, label=label)
right.set(xscale="log", xlabel="$d_k$", ylabel="largest weight of 64 keys, mean", ylim=(0, 1))
right.set_xticks(widths, widths)
right.minorticks_off()
right.legend()
plt.show()

# %% [markdown]
# ## 3.2.2 Multi-head attention
#
# One attention computes one average. A layer has several, called *heads*: each head $i$ projects the vectors to its own
# queries, keys and values with learned matrices $W_i^Q$, $W_i^K$ and $W_i^V$, and the outputs of all heads are
# concatenated and projected once more, with $W^O$:
#
# $$\mathrm{MultiHead}(Q, K, V) = \mathrm{Concat}(\mathrm{head}_1, \ldots, \mathrm{head}_h)\,W^O, \qquad
# \mathrm{head}_i = \mathrm{Attention}(QW_i^Q, KW_i^K, VW_i^V)$$
#
# The matrices of all heads are stored in one array, with the head as an axis. Therefore nothing has to be split, and
# one einsum (a matrix product over named axes) computes all heads:

# %%
show(MultiHeadAttention.__init__, MultiHeadAttention.__call__)

# %% [markdown]
# "Concatenate, then multiply by $W^O$" is the same as "multiply each head by its own rows of $W^O$, then add". A
# layer's output is therefore a sum with one term for each head, and a head can be removed by leaving out its term;
# notebook 3 does that. The next cell computes the four terms of a layer, and compares their sum with the output of the
# layer:

# %%
attention = MultiHeadAttention(small, rngs=nnx.Rngs(0))
x = jax.random.normal(jax.random.key(3), (1, 6, small.d_model))
everything = AttentionContext(jnp.array(True))
whole = attention(x, attention.project(x), everything)
heads, _ = attention.attend(attention.query(x).swapaxes(1, 2), *attention.project(x), everything)
terms = jnp.einsum("BNTH,NHD->NBTD", heads, attention.output.kernel[...])
print("largest difference:", float(jnp.abs(terms.sum(axis=0) + attention.output.bias[...] - whole).max()))

# %% [markdown]
# ## 3.2.3 Masks: which positions may attend to which
#
# A *mask* forbids attention from a query to some of the keys. There are three:
#
# - **Padding.** Rows of a batch have the same length, and unused positions at the end hold padding. No position
#   attends to padding.
# - **Causal.** In the decoder, no position attends to later ones. The model can then be trained on whole sentences at
#   once, and still learns to write them token by token.
# - **Packing.** Here several sentences are packed into one row, so that batches contain hardly any padding. No position
#   attends to another sentence.

# %%
show(padding_mask, causal_mask, same_sentence, segments)

# %% [markdown]
# An example: a row of nine tokens with a sentence of three, a sentence of four, and two of padding. A yellow cell means
# that the query (row) may attend to the key (column). (What padding attends to does not matter, because nothing attends
# to padding and padding has no loss.)

# %%
row = jnp.array([[11, 12, 2, 21, 22, 23, 2, 0, 0]])  # 2 ends a sentence, 0 is padding
names = ["a1", "a2", "end", "b1", "b2", "b3", "end", "pad", "pad"]
found = segments(row)
masks = {
    "padding": padding_mask(row),
    "causal": causal_mask(9),
    "one sentence": same_sentence(found, found),
    "encoder: padding, one sentence": padding_mask(row) & same_sentence(found, found),
    "decoder: causal, one sentence": causal_mask(9) & same_sentence(found, found),
}
figure, axes = plt.subplots(1, 5, figsize=(15, 3.3))
for axis, (title, mask) in zip(axes, masks.items(), strict=True):
    axis.imshow(jnp.broadcast_to(mask, (1, 1, 9, 9))[0, 0], vmin=0, vmax=1, cmap="cividis")
    axis.set_xticks(range(9), names, rotation=90)
    axis.set_yticks(range(9), names)
    axis.set_xticks(np.arange(0.5, 8), minor=True)
    axis.set_yticks(np.arange(0.5, 8), minor=True)
    axis.grid(which="minor", color="gray", linewidth=0.5)
    axis.tick_params(which="minor", length=0)
    axis.set_title(title, fontsize=10)
plt.show()

# %% [markdown]
# ## 3.3 Position-wise feed-forward networks
#
# The second kind of sub-layer is a network with one hidden layer and ReLU, $\max(0, \cdot)$, that is applied to each
# position separately:
#
# $$\mathrm{FFN}(x) = \max(0,\, xW_1 + b_1)\,W_2 + b_2 \qquad (2)$$

# %%
show(FeedForward.__call__)

# %% [markdown]
# Each hidden unit is a ramp that starts at some point, and the output is a sum of ramps: a piecewise linear function
# with at most $d_{ff}$ kinks. The pictures show it for one input and one output, with random weights and biases. In the
# model, the same network is applied to every position: exchanging positions exchanges the outputs, and changes nothing
# else.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 2.8), sharex=True)
line = jnp.linspace(-2, 2, 400).reshape(1, -1, 1)
for axis, width in zip(axes, (2, 8, 64), strict=True):
    network = FeedForward(ModelConfig(d_model=1, d_ff=width), rngs=nnx.Rngs(0))
    slopes, starts = jax.random.normal(jax.random.key(4), (2, width))
    network.inner.kernel[...] = jnp.sign(slopes)[None]
    network.inner.bias[...] = 1.5 * starts
    network.outer.kernel[...] = jax.random.normal(jax.random.key(5), (width, 1)) / width**0.5
    axis.plot(line.ravel(), network(line).ravel())
    axis.set(title=f"$d_{{ff}}$ = {width}", xlabel="$x$", ylabel="FFN($x$)")
plt.show()

network, order = FeedForward(small, rngs=nnx.Rngs(0)), jnp.array([3, 1, 5, 0, 2, 4])
print(
    "positions exchanged, then through it, or the other way round:",
    jnp.allclose(network(x[:, order]), network(x)[:, order], atol=1e-6),
)

# %% [markdown]
# ## 3.4 Embeddings and softmax
#
# The model's first step looks up an *embedding* for each token id: one row of a learned matrix. Its last step computes
# *logits*, one number for each word of the vocabulary; the softmax of the logits is the model's probability for the
# next token. One matrix $E$ with V rows is used three times (*tied embeddings*): for source tokens and for target
# tokens, where a row is multiplied by $\sqrt{d_{model}}$, and for the logits, which are $xE^T$.

# %%
show(Transformer.embed, Transformer.logits)

# %% [markdown]
# Why multiply by $\sqrt{d_{model}}$? The rows of $E$ are initialized with a length of about 1, so that the logits are
# neither large nor small. After the multiplication each entry is about 1 in size, like the entries of the position
# vectors that are added next:

# %%
model = Transformer(small, rngs=nnx.Rngs(0))
embedding, positions = model.embedding[...], model.positions(jnp.arange(64))


def size(x):
    """Root mean square of the entries."""
    return f"{float(jnp.sqrt((x**2).mean())):.3f}"


table(
    ["", "root mean square of an entry"],
    [
        ["a row of E", size(embedding)],
        ["the same, times $\\sqrt{d_{model}}$", size(embedding * small.d_model**0.5)],
        ["a position vector", size(positions)],
    ],
)

# %% [markdown]
# ## 3.5 Positional encoding
#
# Attention does not depend on the order of the positions. To tell the model the order, a vector that depends on the
# position is added to each embedding. Its entries are sines and cosines of different wavelengths:
#
# $$PE_{(pos,\,2i)} = \sin\left(pos / 10000^{2i/d_{model}}\right), \qquad
# PE_{(pos,\,2i+1)} = \cos\left(pos / 10000^{2i/d_{model}}\right)$$

# %%
show(SinusoidalPositions.__call__)

# %% [markdown]
# Left: the vectors of 100 positions; sines and cosines alternate along the width. Middle: the dot product of two of
# these vectors depends only on the distance of their positions. It is largest for nearby positions, although it does
# not decrease with every step, so the model can recognize neighbors. Right: the paper's reason for sinusoids, "for any
# fixed offset $k$, $PE_{pos+k}$ can be represented as a linear function of $PE_{pos}$". A sine and cosine of the same
# wavelength are a point on a circle, and moving on by $k$ positions rotates the point by the same angle, wherever it
# was.

# %%
D = 128
encoding = SinusoidalPositions(ModelConfig(d_model=D), rngs=nnx.Rngs(0))
vectors = encoding(jnp.arange(100))
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 3.8), width_ratios=[1.3, 1.2, 1])
image = left.imshow(vectors, aspect="auto", cmap="PuOr", vmin=-1, vmax=1)
left.set(xlabel="entry of the vector", ylabel="position")
figure.colorbar(image, ax=left)
for place, style, width in ((20, "-", 5), (50, "-", 2), (80, ":", 2)):  # one upon the other
    curve = vectors @ vectors[place]
    middle.plot(np.arange(100) - place, curve, style, linewidth=width, label=f"from position {place}")
middle.set(xlabel="distance", ylabel="product of two position vectors", xlim=(-50, 50))
middle.legend(fontsize=8)
i, k = 6, 4
circle = vectors[:, 2 * i : 2 * i + 2]  # the sine and the cosine of one frequency
right.plot(circle[:, 1], circle[:, 0], ".", color="lightgray")
for color, start in (("C0", 1), ("C1", 9)):
    for place, filled in ((start, "full"), (start + k, "none")):
        right.plot(circle[place, 1], circle[place, 0], "o", color=color, fillstyle=filled, markersize=9)
        right.annotate(f"{place}", 1.17 * circle[place, ::-1], ha="center", va="center", color=color)
    right.annotate("", circle[start + k, ::-1], circle[start, ::-1], arrowprops={"arrowstyle": "->", "color": color})
right.set(aspect="equal", xlabel=f"entry {2 * i + 1} (cosine)", ylabel=f"entry {2 * i} (sine)", xlim=(-1.4, 1.4))
right.set(title=f"{k} positions further", ylim=(-1.4, 1.4))
plt.show()

# %% [markdown]
# A matrix that rotates every such pair by its angle for $k = 4$ maps each of the 96 position vectors to the one four
# positions later:

# %%
rates = 1 / 10_000 ** (np.arange(0, D, 2) / D)
shift = np.zeros((D, D))
for pair, rate in enumerate(rates):
    sin, cos = np.sin(k * rate), np.cos(k * rate)
    shift[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = [[cos, sin], [-sin, cos]]
print("largest difference:", float(np.abs(vectors[:-k] @ shift.T - vectors[k:]).max()))

# %% [markdown]
# ## 5.3 Optimizer
#
# The learning rate changes from step to step. It first rises linearly (*warmup*), and then falls with the inverse
# square root of the step number:
#
# $$lrate = d_{model}^{-0.5} \cdot \min\left(step\_num^{-0.5},\; step\_num \cdot warmup\_steps^{-1.5}\right) \quad (3)$$

# %%
show(inverse_sqrt, adam)

# %%
base = Experiment("base", model=BASE)
big = Experiment("big", model=BIG)
steps = jnp.unique(jnp.geomspace(1, 100_000, 600).round())
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.3), sharey=True)
for experiment, style in ((base, "-"), (big, "--")):
    peak = float(learning_rate(4000, experiment))
    left.plot(steps, learning_rate(steps, experiment), style, label=f"{experiment.name}, at most {peak:.2e}")
for warmup, style in ((1000, ":"), (4000, "-"), (16_000, "-.")):
    variant = replace(base, optimizer=OptimizerConfig(warmup_steps=warmup))
    right.plot(steps, learning_rate(steps, variant), style, label=f"{warmup:,} warmup steps")
left.set(title="base and big: $d_{model}$ 512 and 1024", xlabel="step", ylabel="learning rate")
right.set(title="base with other warmups", xlabel="step")
for axis in (left, right):
    axis.legend()
plt.show()

# %% [markdown]
# A longer warmup takes longer to rise, and it also has a lower peak, because all curves meet on $step^{-0.5}$.
#
# **Adam** is the optimizer ($\beta_1 = 0.9$, $\beta_2 = 0.98$, $\epsilon = 10^{-9}$). It divides a moving average of
# the gradients by the square root of a moving average of their squares. Before the multiplication by the learning rate,
# the result hardly depends on how large the gradients are, but on how well recent gradients agree.
#
# Left: gradients with mean 1 and increasing noise. Right: the effect of $\beta_2$ when all gradients become ten times
# as large at step 500. For a while the steps are too long, until the average of the squares has caught up: after about
# a hundred steps with 0.98, and after more than a thousand with the usual 0.999.


# %%
def directions(gradients, b2=0.98):
    """The updates that Adam computes from a sequence of gradients of one parameter."""
    optimizer = make_optimizer(replace(base, optimizer=OptimizerConfig(b2=b2)))

    def step(state, gradient):
        direction, state = optimizer.update(gradient, state)
        return state, direction

    return jax.lax.scan(step, optimizer.init(jnp.zeros(())), gradients)[1]


figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.3))
noise = jax.random.normal(jax.random.key(6), (300,))
for scale, style in ((0.0, "-"), (0.5, "-"), (4.0, "-")):
    left.plot(directions(1 + scale * noise), style, label=f"noise of {scale:g}")
left.set(title="gradients of mean 1", xlabel="step", ylabel="direction")
jump = jnp.where(jnp.arange(3000) < 500, 1.0, 10.0)
for b2, style in ((0.98, "-"), (0.999, "--")):
    right.plot(directions(jump, b2), style, label=f"$\\beta_2$ = {b2}")
right.set(title="gradients of 1, from step 500 on of 10", xlabel="step", xlim=(300, 2500))
for axis in (left, right):
    axis.legend()
plt.show()

# %% [markdown]
# ## 5.4 Regularization: dropout
#
# During training, *dropout* sets random entries to zero, each with probability $P_{drop} = 0.1$. It is applied to the
# output of each sub-layer, and to the sum of embedding and position vector. The remaining entries are scaled up, so
# that the mean stays the same:

# %%
show(dropout)

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 2.7))
ones = jnp.ones((1, 40, 60))
for axis, rate in zip(axes, (0.0, 0.1, 0.3, 0.5), strict=True):
    kept = dropout(ones, rate, jax.random.key(7))
    axis.imshow(kept[0], cmap="cividis", vmin=0, vmax=2)
    axis.set(title=f"rate {rate}: kept are {float(kept.max()):.2f},\nthe mean is {float(kept.mean()):.2f}")
    axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## 5.4 Regularization: label smoothing
#
# The loss is the cross-entropy between a target distribution $q$ and the model's distribution $p$ over the vocabulary.
# Without smoothing, the target is one-hot: the correct token $y$ has probability 1. *Label smoothing* gives a little of
# that probability to all other tokens:
#
# $$q_v = \begin{cases} 1 - \epsilon & v = y \\ \epsilon / (V - 1) & v \ne y \end{cases}
# \qquad\qquad L = -\sum_v q_v \log p_v$$
#
# with $\epsilon_{ls} = 0.1$. This is the convention of the authors' code. PyTorch and fairseq give $\epsilon / V$ to
# all V tokens, including the correct one, so the same $\epsilon$ means something slightly different there.

# %%
show(cross_entropy)

# %% [markdown]
# Left: both conventions, for a vocabulary of 5, so that the difference is visible. Right: the loss as a function of the
# probability that a model gives to the correct token, if it spreads the rest evenly over the other tokens (V = 37,000).
# With smoothing, the loss is lowest at $1 - \epsilon$ and rises again after that: a model is penalized for being too
# confident. It never reaches 0, because the entropy of the target distribution is a lower bound. Therefore training
# losses with different $\epsilon$ cannot be compared.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4))
V, eps = 5, 0.1
ours = np.full(V, eps / (V - 1))
ours[1] = 1 - eps
theirs = np.full(V, eps / V)
theirs[1] += 1 - eps
places = np.arange(V)
for offset, target, name in (
    (-0.2, ours, "$\\epsilon/(V-1)$: the authors', ours"),
    (0.2, theirs, "$\\epsilon/V$: PyTorch, fairseq"),
):
    bars = left.bar(places + offset, target, 0.38, label=name)
    left.bar_label(bars, [f"{value:.3f}" for value in target], fontsize=8, rotation=90, padding=2)
left.set(xlabel="token; 1 is the right one", ylabel="target probability", ylim=(0, 1.2), xticks=places)
left.legend(fontsize=9)

V = 37_000
confidence = 1 - np.geomspace(1, 1e-6, 300)
confidence = confidence[confidence > 0.3]


@partial(jax.jit, static_argnums=1)
def loss_at(p, smoothing):
    logits = jnp.full(V, jnp.log((1 - p) / (V - 1))).at[4].set(jnp.log(p))
    return cross_entropy(logits[None], jnp.array([4]), smoothing)[0]


for smoothing, style in ((0.0, "-"), (0.1, "--"), (0.2, ":")):
    losses = np.array([loss_at(p, smoothing) for p in confidence])
    (curve,) = right.plot(confidence, losses, style, label=f"$\\epsilon$ = {smoothing}: at least {losses.min():.2f}")
    if smoothing:
        right.plot(confidence[losses.argmin()], losses.min(), "o", color=curve.get_color())
right.set(xlabel="probability of the right token", ylabel="loss, nats", ylim=(0, 5))
right.legend(fontsize=9)
plt.show()

# %% [markdown]
# ## 6.1 Beam search and the length penalty
#
# To translate, the model needs a search over possible translations $y$ of the source $x$. *Greedy search* takes the
# most likely token at each step. *Beam search* keeps several partial translations (*hypotheses*), here four: at each
# step it extends every hypothesis by every token and keeps the best ones. The best translation is the one with the
# highest
#
# $$\frac{\log P(y \mid x)}{lp(y)}, \qquad lp(y) = \left(\frac{5 + |y|}{6}\right)^{\alpha}$$
#
# where $|y|$ is the length and $lp$ the *length penalty* with $\alpha = 0.6$. The penalty and the inner step of the
# search:

# %%
show(length_penalty, candidates)

# %% [markdown]
# The search works with any model that has a `step` method. To see it at work, here is a model that fits into a table:
# the probability of each word depends only on the word before it. Greedy search takes the more likely first word, "a",
# after which no continuation is likely. A beam of 2 also keeps "the", and finds a better sentence.


# %%
class NoCache(NamedTuple):
    """The cache of a model that needs none."""

    def grow(self, capacity):
        return self


class WordTable:
    """P(next | last), from a dict of dicts."""

    def __init__(self, chances):
        self.words = ["pad", "<s>", "</s>", "unk"]
        self.words += sorted({word for after in chances.values() for word in after} - set(self.words))
        self.logits = np.full((len(self.words),) * 2, -np.inf)
        for last, after in chances.items():
            for word, chance in after.items():
                self.logits[self.words.index(last), self.words.index(word)] = np.log(chance)
        self.logits[np.isneginf(self.logits).all(axis=1), 2] = 0.0

    def start_cache(self, source, beam, length):
        return NoCache()

    def step(self, tokens, cache, index, history):
        return jnp.maximum(jnp.array(self.logits), -1e9)[tokens], cache

    def text(self, tokens):
        return " ".join(self.words[token] for token in np.asarray(tokens) if token > 0)


trap = WordTable(
    {
        "<s>": {"a": 0.55, "the": 0.45},
        "a": {"cat": 0.35, "dog": 0.35, "bird": 0.3},
        "the": {"dog": 0.95, "cat": 0.05},
    }
)
source = jnp.array([[5, 2]])
searches = {
    "greedy": greedy_search(trap, source, alpha=0.0, extra_length=4),
    "beam of 2": beam_search(trap, source, beam=2, alpha=0.0, extra_length=4),
}
table(
    ["search", "finds", "with probability"],
    [
        [name, f"`{trap.text(best.tokens[0, 0])}`", f"{np.exp(best.scores[0, 0]):.3f}"]
        for name, best in searches.items()
    ],
)

# %% [markdown]
# **The effect of $\alpha$.** In the next model, every word is followed by another word with probability 0.9, and by the
# end of the sentence with probability 0.1. A product of probabilities decreases with every factor, so without a length
# penalty the shortest sentence wins. The larger $\alpha$ is, the longer is the winner. Lines show the scores of all
# lengths, dots what `beam_search` finds.

# %%
words = [f"w{n}" for n in range(1, 13)]
chain = WordTable({last: {"</s>": 0.1, word: 0.9} for last, word in zip(["<s>", *words], words, strict=False)})
source = jnp.array([[5, 5, 2]])


@jax.jit
def search(alpha):
    best = beam_search(chain, source, beam=4, alpha=alpha, extra_length=9)
    return (best.tokens[0, 0] > 0).sum(), best.scores[0, 0]


figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4))
lengths = np.arange(1, 13)
log_p = np.log(0.9) * (lengths - 1) + np.log(0.1)
for alpha, style in ((0.0, "-"), (0.3, "--"), (0.6, "-."), (1.0, ":")):
    (curve,) = left.plot(lengths, log_p / length_penalty(lengths, alpha), style, label=f"$\\alpha$ = {alpha}")
    left.plot(*search(alpha), "o", color=curve.get_color(), markersize=8)
left.set(xlabel="length, with the end", ylabel="score")
left.legend()
alphas = np.linspace(0, 1, 41)
right.step(alphas, [search(alpha)[0] for alpha in alphas], where="mid")
right.axvline(0.6, color="gray", linestyle=":")
right.set(xlabel="$\\alpha$ (dotted: the paper's)", ylabel="length of what the search finds", ylim=(0, 13))
plt.show()

# %% [markdown]
# ## Table 3: parameters
#
# The number of parameters of each component, counted without allocating any of them. The paper states 65 million for
# the base model and 213 million for the big one. The base model matches with an embedding of 40,960 rows, which is what
# the authors' code created for their vocabulary of about 37,000. The big model would match with about 35,900 rows.


# %%
def parts(config):
    """Millions of parameters, by part."""
    state = nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    counts = {"embedding": 0, "encoder attention": 0, "encoder FFN": 0, "decoder attention": 0}
    counts |= {"attention over the source": 0, "decoder FFN": 0, "norms": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state)):
        keys = [str(part.key) for part in path]
        if keys[0] == "embedding":
            name = "embedding"
        elif "residuals" in keys:
            name = "norms"
        elif "cross_attention" in keys:
            name = "attention over the source"
        else:
            name = f"{keys[0]} {'attention' if 'self_attention' in keys else 'FFN'}"
        counts[name] += leaf.size / 1e6
    return counts


base_parts, big_parts = parts(BASE), parts(BIG)
figure, axis = plt.subplots(figsize=(11, 2.6))
colors = plt.get_cmap("cividis")(np.linspace(0, 1, len(base_parts)))
lefts = np.zeros(2)
for color, name in zip(colors, base_parts, strict=True):
    counts = np.array([big_parts[name], base_parts[name]])
    axis.barh(["big", "base"], counts, left=lefts, color=color, edgecolor="white", label=name)
    lefts += counts
axis.plot([213, 65], ["big", "base"], "kd", label="the paper's total")
axis.set(xlabel="million parameters")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
plt.show()
rows = [[name, f"{base_parts[name]:.2f}", f"{big_parts[name]:.2f}"] for name in base_parts]
totals = [f"**{sum(counts.values()):.2f}**" for counts in (base_parts, big_parts)]
table(["million parameters", "base", "big"], [*rows, ["**all**", *totals], ["the paper", "65", "213"]])

# %% [markdown]
# The other rows of Table 3 for which the paper states the number of parameters:

# %%
published = [row for row in TABLE3 if row.parameters and row.name != "base"]
table(
    ["row", "change", "ours, million", "the paper's"],
    [[row.name, row.what, f"{sum(parts(row.change(base).model).values()):.1f}", row.parameters] for row in published],
)

# %% [markdown]
# Next: notebook 2 trains such a model, and notebook 3 looks inside it.
