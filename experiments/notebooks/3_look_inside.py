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
# # 3. Look inside
#
# This notebook examines what the attention heads of a trained model do (notebook 1 explains attention and heads). It
# shows their weights on one sentence, where each head attends on average over a whole text, how much worse the model
# translates without it, and the figures of the paper's appendix, made with this model.
#
# **Needs** the run of notebook 2; if it does not exist, it is trained first. No GPU. **Takes** one to two minutes on
# two cores of a CPU, if the run exists. In Colab, write the address of this repository into the next cell;
# elsewhere leave it empty.

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
from dataclasses import replace

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

import experiments
from data.dataset import prepare
from data.grammar import pairs
from experiments import find
from experiments.inspection.attention import merge, merged, pair_of, to_page, words
from experiments.inspection.figures import attention_maps
from experiments.inspection.heads import Head, heads, looks, without
from experiments.programs import pad, width_for
from experiments.training.loop import train
from experiments.training.views import table
from experiments.translator import Translator
from transformer.train import graph_of

plt.style.use("tableau-colorblind10")
plt.rcParams |= {"figure.dpi": 72, "figure.constrained_layout.use": True, "axes.titlesize": 10}

# %%
run = Path("runs/demo")
if not (run / "checkpoints" / str(find("demo").train.steps)).exists():
    train(find("demo"), run, log=lambda line: None)
translator = experiments.load(run, log=lambda line: None)
config = translator.experiment.model
data = prepare(translator.experiment.data, log=lambda line: None)
sources, references = data.text("dev", "source"), data.text("dev", "target")
print(f"{config.num_layers} layers of {config.num_heads} heads, checkpoints {translator.steps} averaged")
print(f"{len(sources):,} validation sentences; the first one:\n  {sources[0]}\n  {references[0]}")

# %% [markdown]
# ## The weights of one sentence
#
# The model has three kinds of attention: encoder self-attention (the source attends to the source), decoder
# self-attention (the translation attends to what has been written so far), and cross-attention (the translation attends
# to the source). `translator.attention` returns the weights of all of them for a sentence and its translation. The
# model works on subword pieces; here they are merged into words: the weight on a word is the sum over its pieces, and
# the weights from a word are the average over its pieces.
#
# In each map, rows are queries (the positions that attend) and columns are keys (the positions that are attended to).
# Every row sums to 1. In the decoder, the row of a word is the step that predicts it, and the columns are shifted by
# one: the start token `<s>`, then the words before.

# %%
sentence = "Because this aunt bought his chair, it is white."
pair = pair_of(translator, "demo", sentence, None)
attention = merged(pair.attention)
print(pair.sentence, pair.translation, sep="\n")
print("encoder: the source looks at itself")
attention_maps(attention, "encoder")
plt.show()

# %%
print("decoder: the translation looks at what precedes")
attention_maps(attention, "decoder")
plt.show()

# %%
print("cross: the translation looks at the source")
attention_maps(attention, "cross")
plt.show()

# %% [markdown]
# In the second layer, the cross-attention is nearly a word alignment. It leaves the diagonal where German has a
# different word order: in the first clause, the German verb is at the end.
#
# ## A page to explore
#
# Twenty-four maps next to each other are hard to read, and a base model has 144.
# `python -m experiments attention RUN TEXT` writes one HTML page, which needs no network, in which you can point at
# words, select heads and read exact weights. The same from Python:

# %%
page = run / "figures" / "attention.html"
page.parent.mkdir(exist_ok=True)
page.write_text(to_page(pair, by_words=True), encoding="utf-8")
print(f"{page.stat().st_size / 1e3:,.0f} kB")
print(f"open {page} in a browser (in Colab: download it from the files on the left)")

# %% [markdown]
# ## What each head attends to
#
# One sentence may not be typical. The following numbers are averages over all validation sentences and their reference
# translations, for each head:
#
# - **entropy** of its weights in bits, averaged over the queries. It is 0 for a head that puts all weight on one
#   position, and higher the more the weight is spread;
# - **distance** between query and key in positions, weighted by attention;
# - **shares** of its weight that go to the position before the query, to the query's own position, to the one after it,
#   and to the end of the sentence (for the decoder: to the start token `<s>`, because there is no end yet). In decoder
#   self-attention, "same" is the piece that was written last.
#
# The weights of a head sum to 1, so a head that finds nothing relevant still has to put its weight somewhere. Often
# that is a position where it does no harm: the end of the sentence, `<s>`, or a full stop.

# %%
found = looks(translator, sources, references)
every = list(heads(config))


def numbers_of(head):
    """The statistics of one head, in the order of the columns below."""
    of = found[head.attention]
    edge = of.first if head.attention == "decoder" else of.last
    return [float(x[head.layer, head.number]) for x in (of.entropy, of.distance, of.previous, of.same, of.next, edge)]


columns = ["entropy", "distance", "previous", "same", "next", "end or `<s>`"]
statistics = np.array([numbers_of(head) for head in every])
table(
    ["head", *columns], [[f"`{head}`", *(f"{x:.2f}" for x in row)] for head, row in zip(every, statistics, strict=True)]
)

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 6.2), width_ratios=[1, 1, 3], sharey=True)
places = np.arange(len(every))
kinds = {"encoder": "C0", "decoder": "C1", "cross": "C3"}
colors = [kinds[head.attention] for head in every]
for axis, column, label in ((left, 0, "entropy, bits"), (middle, 1, "mean distance, positions")):
    axis.barh(places, statistics[:, column], color=colors)
    axis.set(xlabel=label)
left.set_yticks(places, [str(head) for head in every])
left.invert_yaxis()
image = right.imshow(statistics[:, 2:], aspect="auto", cmap="viridis", vmin=0, vmax=1)
for (row, column), share in np.ndenumerate(statistics[:, 2:]):
    right.text(
        column, row, f"{share:.2f}", ha="center", va="center", color="black" if share > 0.6 else "white", fontsize=9
    )
right.set_xticks(range(4), ["previous", "same", "next", "end or <s>"])
for axis in (left, middle, right):
    for line in (config.num_layers * config.num_heads * n - 0.5 for n in (1, 2)):
        axis.axhline(line, color="black" if axis is not right else "white", linewidth=1.5)
figure.colorbar(image, ax=right, label="share of the weight")
plt.show()

# %% [markdown]
# ## Removing heads
#
# Where a head attends does not say whether the model needs it. An *ablation* measures that: each head in turn is
# removed, by setting its rows of $W^O$ to zero in a copy of the parameters, so that its term in the sum of section
# 3.2.2 disappears (notebook 1). Nothing is retrained. Each of these models then translates the same sentences by greedy
# search.

# %%
COUNT = 200
greedy = replace(translator.experiment, decode=replace(translator.experiment.decode, beam=1))


def outputs_of(params):
    """Translations of the first validation sentences by the model with these parameters."""
    return Translator(params, greedy, translator.tokenizer, log=lambda line: None).translate(sources[:COUNT])


whole = outputs_of(translator.params)
ablated = {head: outputs_of(without(translator.params, head)) for head in every}

# %% [markdown]
# With so few sentences, a difference may be due to chance. *Paired bootstrap resampling* (from sacreBLEU) estimates
# this: it draws a thousand new test sets from the sentences, with replacement, and scores both systems on each. The
# error bars are 95% intervals, and *p* is the probability of a difference this large by chance. With many comparisons,
# one in twenty would be below 0.05 by chance alone, so `*` marks only those below 0.05 / 24.

# %%
systems = [("whole", whole), *((str(head), lines) for head, lines in ablated.items())]
test = PairedTest(systems, {"BLEU": BLEU()}, [references[:COUNT]], test_type="bs", n_samples=1000)
results = test()[1]["BLEU"]
reference, *rest = results
figure, axis = plt.subplots(figsize=(11, 6))
axis.barh(places, [r.score for r in rest], xerr=[r.ci for r in rest], color=colors, error_kw={"linewidth": 1})
axis.axvline(reference.score, color="black", linestyle="--", label=f"the whole model: {reference.score:.1f}")
significant = [r.p_value is not None and r.p_value < 0.05 / len(every) for r in rest]
for place, r, marked in zip(places, rest, significant, strict=True):
    axis.text(
        1, place, f"{r.score:.1f}{' *' if marked else ''}", va="center", color="white", fontsize=9, fontweight="bold"
    )
axis.set_yticks(places, [str(head) for head in every])
axis.margins(y=0.01)
axis.invert_yaxis()
axis.set(xlabel=f"BLEU without this head, greedy, {COUNT} sentences", xlim=(0, 102))
axis.legend(loc="lower left", bbox_to_anchor=(0, 1))
plt.show()
print(f"{sum(significant)} of {len(every)} heads make a difference that is not chance")

# %%
by_loss = sorted(zip(every, rest, statistics, strict=True), key=lambda both: both[1].score)
rows = []
for head, r, row in by_loss:
    rows.append([f"`{head}`", f"{r.score:.1f} ± {r.ci:.1f}", f"{r.score - reference.score:+.1f}", f"{r.p_value:.3f}"])
    rows[-1] += [f"{x:.2f}" for x in row[:2]]
table(["without", "BLEU", "difference", "p", "entropy", "distance"], rows)

# %% [markdown]
# The sentences that become wrong without the most important head show what it does:

# %%
worst = by_loss[0][0]
changed = [i for i in range(COUNT) if ablated[worst][i] != whole[i] and whole[i] == references[i]]
print(f"without {worst}, {len(changed)} of {COUNT} translations change from right to wrong\n")
for i in changed[:4]:
    print(f"source   {sources[i]}\nwhole    {whole[i]}\nwithout  {ablated[worst][i]}\n")

# %% [markdown]
# All heads of one kind and layer removed at once:

# %%
rows = []
for attention_name in kinds:
    for layer in range(config.num_layers):
        removed = [Head(attention_name, layer, number) for number in range(config.num_heads)]
        score = BLEU().corpus_score(outputs_of(without(translator.params, *removed)), [references[:COUNT]]).score
        rows.append([f"all of {attention_name}, layer {layer + 1}", f"{score:.1f}"])
table(["without", "BLEU"], rows)

# %% [markdown]
# ## The appendix of the paper: long-distance dependencies
#
# The paper's last figures show heads in encoder layer 5 that follow a dependency over many words, that find what "its"
# refers to, and that seem to reflect the structure of a sentence. Here are similar pictures of our encoder. Lines lead
# from a word on the left to the words on the right that it attends to; the darker the line, the larger the weight.
#
# "gave ... back" is one verb in two places, which German translates with one word, *zurückgegeben*; and "is" is far
# from its subject. The pictures show the lines of these three words.

# %%
COLORS = ["#0072B2", "#D55E00", "#009E73", "#AA4499"]  # of the heads, told apart with any kind of colour vision


def draw_lines(axis, attention, layer, number, only=None):
    """The encoder's attention of one head, from the words of `only` (None: all)."""
    shown, weights = attention.source, attention.weights.encoder[layer, number]
    for place, word in enumerate(shown):
        axis.text(-0.03, -place, word, ha="right", va="center", fontsize=10)
        axis.text(1.03, -place, word, ha="left", va="center", fontsize=10)
        if only is None or word in only:
            for key in np.flatnonzero(weights[place] > 0.03):  # a fainter line cannot be seen
                alpha, color = min(float(weights[place, key]), 1.0), COLORS[number % len(COLORS)]
                axis.plot([0, 1], [-place, -key], color=color, alpha=alpha, linewidth=2)
    axis.set(xlim=(-0.6, 1.6), ylim=(-len(shown) + 0.5, 0.5), title=f"layer {layer + 1}, head {number + 1}")
    axis.axis("off")


far = "The father who gave the new lamp back is tired."
looked = merged(translator.attention(far))
print(translator.translate([far])[0])
figure, axes = plt.subplots(config.num_layers, config.num_heads, figsize=(14, 7))
for (layer, number), axis in np.ndenumerate(axes):
    draw_lines(axis, looked, layer, number, only=["gave", "back", "is"])
plt.show()

# %% [markdown]
# A picture of one sentence is only an anecdote. But the grammar can generate any number of sentences and knows their
# structure, so the same can be measured on many sentences that the model was not trained on. In sentences where a verb
# and its particle are at least three words apart, how much of the weight of one goes to the other?
#
# There are two such verbs. "give" without the particle is a different verb than "give ... back", so its translation
# depends on the particle. "throw" occurs only with "away" in this grammar, so the particle tells nothing new.

# %%
drawn = list(pairs("dev", 3000, seed=1))


@jax.jit
def encoder_weights(params, source):
    """Ids [B, S] -> [layer, B, N, S, S]"""
    model = nnx.merge(graph_of(config), params)
    return model.attention_weights(source, source[:, :1]).encoder  # the target does not matter here


def mean_shares(chosen):
    """For sentences and the positions of two words in each: mean weight of the first on the second, by layer and head.

    Also returns half of its 95% interval, and the value if the weight were spread evenly over the words.
    """
    ids = translator.encode([text for text, _, _ in chosen])
    weights = encoder_weights(translator.params, pad(ids, range(len(ids)), width_for(max(map(len, ids))), len(ids)))
    weights, shares, evenly = jax.device_get(weights), [], []
    for row, (text, query, key) in enumerate(chosen):
        count, spelled = len(ids[row]), words(translator.tokenizer.pieces(ids[row]))
        assert [spelled[i].text for i in (query, key)] == [text.split()[i] for i in (query, key)]
        shares.append(merge(weights[:, row, :, :count, :count], spelled, spelled)[:, :, query, key])
        evenly.append(1 / len(spelled))
    return np.mean(shares, axis=0), 1.96 * np.std(shares, axis=0, ddof=1) / len(shares) ** 0.5, np.mean(evenly)


def table_of(shares):
    """Results of `mean_shares`, by name."""
    rows = []
    for name, (mean, half, evenly) in shares.items():
        for layer in range(config.num_layers):
            cells = [f"{m:.2f} ± {h:.2f}" for m, h in zip(mean[layer], half[layer], strict=True)]
            rows.append([name, layer + 1, *cells, f"{evenly:.2f}"])
    return table(["", "layer", *(f"head {n + 1}" for n in range(config.num_heads)), "evenly"], rows)


def in_two_places(forms, particle):
    """Yields the sampled sentences with a form of the verb and its particle, and the positions of both."""
    for text, _ in drawn:
        plain = [word.rstrip(".?,") for word in text.split()]
        if particle in plain:
            place = plain.index(particle)
            before = [i for i in range(place) if plain[i].lower() in forms]
            if before and place - before[-1] >= 3:
                yield text, before[-1], place


shares = {}
for forms, particle in ((("give", "gives", "gave"), "back"), (("throw", "throws", "threw"), "away")):
    chosen = list(in_two_places(forms, particle))
    shares[f"“{forms[0]}” on “{particle}”, {len(chosen)} sentences"] = mean_shares(chosen)
    shares[f"“{particle}” on “{forms[0]}”"] = mean_shares([(text, place, verb) for text, verb, place in chosen])
table_of(shares)

# %% [markdown]
# In the run that is saved here, head 4 of the first layer puts all of the weight of "give" on "back", wherever it is,
# and little of the weight of "throw" on "away": it attends where there is something to find out.
#
# ## Anaphora
#
# An *anaphor* is a word that refers back to another one. In "the aunt sells the lamp because **it** is old", the word
# "it" refers to the lamp. To translate it, the model needs the gender of the German noun: *sie* for *die Lampe*, *es*
# for *das Fahrrad*, *er* for *der Hut*. Some head may have to fetch that gender. How much of the weight of "it" goes to
# the noun before the conjunction?

# %%
CONJUNCTIONS = {"because", "although", "if"}


def places_of(text):
    """Returns the positions of "it" and of its antecedent; None for a sentence of another form."""
    found = text.split()
    between = [i for i, word in enumerate(found) if i and word in CONJUNCTIONS]
    plain = [word.rstrip(".") for word in found]
    if not between or "it" not in plain[between[0] :]:
        return None
    noun = between[0] - (2 if found[between[0] - 1] in ("away", "back") else 1)
    return plain.index("it", between[0]), noun


with_it = [(english, german) for english, german in drawn if places_of(english)]
print(f"{len(with_it)} sentences")
it_on_noun = mean_shares([(english, *places_of(english)) for english, _ in with_it])
table_of({"“it” on its noun": it_on_noun})

# %% [markdown]
# The head with the largest share, on sentences that differ in only one noun, whose German gender determines the
# pronoun:

# %%
mean = it_on_noun[0]
layer, number = np.unravel_index(mean.argmax(), mean.shape)
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
for axis, thing in zip(axes, ("lamp", "chair", "book"), strict=True):
    text = f"The woman needs the {thing} because it is new."
    draw_lines(axis, merged(translator.attention(text)), layer, number, only=["it"])
    axis.set_title(f"layer {layer + 1}, head {number + 1}\n{translator.translate([text])[0]}", fontsize=9)
plt.show()

# %% [markdown]
# Does the model need that head for the pronoun? For each encoder head that is removed, the table counts the sentences
# whose pronouns differ from those of the reference.

# %%
PRONOUNS = {"er", "sie", "es", "ihn"}


def pronouns(text):
    """The German pronouns of a sentence, in order."""
    return [word for word in text.lower().replace(",", " ").replace(".", " ").split() if word in PRONOUNS]


def wrong_pronouns(params):
    """How many of these sentences get other pronouns than their reference has."""
    model = Translator(params, greedy, translator.tokenizer, log=lambda line: None)
    outputs = model.translate([english for english, _ in with_it])
    return sum(pronouns(output) != pronouns(german) for output, (_, german) in zip(outputs, with_it, strict=True))


rows = [["the whole model", wrong_pronouns(translator.params), ""]]
for head in every:
    if head.attention == "encoder":
        wrong = wrong_pronouns(without(translator.params, head))
        rows.append([f"without `{head}`", wrong, f"{mean[head.layer, head.number]:.2f}"])
table(["", f"wrong, of {len(with_it)}", "share of “it” on its noun"], rows)

# %% [markdown]
# ## Structure
#
# The paper's last figure shows the weights of all words in two heads of one layer, which "seem to have learned to
# perform different tasks". Here are all heads of our last encoder layer.

# %%
figure, axes = plt.subplots(1, config.num_heads, figsize=(15, 4))
structured = merged(translator.attention("The old man helps the woman whom the tired children know."))
for number, axis in enumerate(axes):
    draw_lines(axis, structured, config.num_layers - 1, number)
plt.show()

# %% [markdown]
# In the run that is saved here, head 4 of the second layer attends from the words of "the old man" and "the woman" to
# their nouns (less clearly for "the tired children"), from "whom" to the noun before it, and, in the section above,
# from "it" to the noun that it refers to. The two ablations above agree: removing this head costs more BLEU than
# removing any other encoder head, and makes the pronouns wrong. Such agreement of three observations is rare: most of
# the other heads have no such short description.
#
# ## What these pictures show, and what they do not
#
# - An attention weight says from which position a head takes something. It does not say what it takes, or whether it is
#   used. In the second layer, the vector at a word's position no longer represents that word alone: it is a sum that
#   includes what the first layer added. So "it attends to the lamp" is a statement about positions.
# - An ablation measures use, but of one head at a time, and without retraining. If two heads do the same, each can be
#   removed without a loss. And removing a head can be costly because its output is part of every later sum, and not
#   because of where it attends.
# - A picture that was chosen because it looks right proves nothing. The shares above are means over all sentences of a
#   kind; the pictures of single sentences only illustrate the numbers.
# - This model has 2 layers and has learned an artificial grammar with a few hundred words. The paper's figures are from
#   a model with 6 layers on real text. What the heads do here says nothing about those, but the same code works for
#   both: `experiments.load` loads any run.
