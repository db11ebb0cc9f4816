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
# # 2. Train a model and watch it
#
# From text to a scored translation, in a notebook: a small Transformer learns the embedded English-German corpus, its
# curves move while it learns, it is stopped and goes on as if nothing had happened, it translates, and it is scored.
#
# **Needs** no download and no GPU. **Takes** six minutes on two cores of a CPU that are free, at 0.18 seconds a step.
# In Colab, write the address of this repository into the next cell; elsewhere leave it empty.

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
import json
from dataclasses import replace

import jax
import numpy as np

import experiments
from experiments import find
from experiments.evaluation.evaluate import evaluate
from experiments.history import read_metrics
from experiments.presets.deviations import deviations
from experiments.training.loop import train
from experiments.training.views import Notebook, table
from experiments.workdir import WorkDir
from transformer.model import count_parameters

# %% [markdown]
# ## The experiment
#
# Everything that decides the result of a run is one tree of frozen dataclasses, an `Experiment`. `find` gives one by
# name; a variant is a `dataclasses.replace`. The preset `demo` has the architecture of the paper, at a size for a
# laptop. Only its validations come more often here, for a smoother curve: that does not touch the numbers.

# %%
demo = find("demo")
experiment = replace(demo, train=replace(demo.train, eval_every=100))
base = find("wmt14-en-de-base")
settings = ["num_layers", "d_model", "d_ff", "num_heads", "d_k", "dropout"]
rows = [[f"`model.{name}`", getattr(experiment.model, name), getattr(base.model, name)] for name in settings]
rows.append(["vocabulary", f"{experiment.data.vocab_size:,}", f"{base.data.vocab_size:,}"])
rows.append(["parameters", f"{count_parameters(experiment.model):,}", f"{count_parameters(base.model):,}"])
rows.append(["tokens a batch", f"{experiment.data.batch_tokens:,}", f"{base.data.batch_tokens:,}"])
rows.append(["steps", f"{experiment.train.steps:,}", f"{base.train.steps:,}"])
table(["", "`demo`", "`wmt14-en-de-base`"], rows)

# %% [markdown]
# ## Train it
#
# `train` is what `python -m experiments train demo` calls. It prepares the data (a vocabulary of 1,000 pieces that both
# languages share, and files of token ids), compiles one training step, and runs it. `views` are where the run is shown;
# `Notebook` draws the curves below the cell, in place. What `train` says goes into a list here, to be read afterwards.

# %%
run = WorkDir(Path("runs/demo"))
lines = []
run = train(experiment, run.path, log=lines.append, views=[Notebook(run)])

# %% [markdown]
# - **Loss.** The two are not to be compared with each other: the training loss is against the smoothed target of
#   section 5.4, whose own entropy is the dashed line under it (notebook 1), and the validation loss is not smoothed.
# - **BLEU** is of greedy translations of the first 64 validation sentences. Of so few it jumps.
# - **Speed** has no dents at the validations, which are left out of it. Those that are here come from other programs.
#
# What `train` said first, and last:

# %%
print(*lines[:9], "...", *lines[-7:], sep="\n")

# %% [markdown]
# At each validation the same two sentences are translated. So one sees what the model learns first: common words, then
# word order and agreement, then the rare words.

# %%
written = read_metrics(run.metrics)
samples = [row for row in written if "output" in row]
sentence = samples[1]["source"]
of_one = [row for row in samples if row["source"] == sentence]
print(f"{'source':>10}  {sentence}")
for row in of_one:
    print(f"{'step ' + str(row['step']):>10}  {row['output']}")
print(f"{'reference':>10}  {of_one[-1]['reference']}")

# %% [markdown]
# ## Stop it, and go on
#
# The stop button of a notebook, Ctrl-C in a terminal, `kill -9`, a power cut: the same call goes on from the newest
# checkpoint, and ends with the same bits as a run that was never stopped. For the batch, the dropout and the learning
# rate of a step are functions of the seed and the number of the step, and of nothing that a process remembers.
#
# To see it, two short runs: one goes straight through 60 steps; the other is stopped at step 50, has a checkpoint of
# step 40, and is started again. The view below presses the stop button by itself. Dropout is on, since a run without
# any randomness would prove less.


# %%
class StopAt:
    """A view that interrupts the training, as the stop button does."""

    def __init__(self, step):
        self.step = step

    def write(self, row):
        if row["step"] >= self.step:
            raise KeyboardInterrupt

    def close(self):
        pass


short = replace(
    demo,
    name="short",
    model=replace(demo.model, dropout=0.1),
    train=replace(demo.train, steps=60, log_every=10, eval_every=20, eval_sentences=8),
)
train(short, Path("runs/straight"), log=lambda line: None)
try:
    train(short, Path("runs/stopped"), log=lambda line: None, views=[StopAt(50)])
except KeyboardInterrupt:
    print("stopped, after", sorted(int(path.name) for path in Path("runs/stopped/checkpoints").glob("[0-9]*")))
said = []
train(short, Path("runs/stopped"), log=said.append)
print(*[line for line in said if "resuming" in line], sep="\n")

# %%
both = [jax.tree.leaves(experiments.load(f"runs/{name}", "last").params) for name in ("straight", "stopped")]
arrays = list(zip(*both, strict=True))
same = sum(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in arrays)
print(f"{same} of {len(arrays)} arrays have the same bits, {sum(a.size for a, _ in arrays):,} numbers")
assert same == len(arrays)

# %% [markdown]
# A run may also be made longer: the same call with more `train.steps` goes on. Other settings cannot change within a
# run, and `train` says which one differs.
#
# ## Translate
#
# `experiments.load` takes a run by its path, or by its name under `runs/`. As in section 6.1 it averages the newest
# checkpoints (here three), and searches with a beam of 4 and a length penalty of 0.6.

# %%
translator = experiments.load("runs/demo", log=lambda line: None)
sentences = [
    "The old man sees the dog.",
    "We buy two books.",
    "Because this aunt bought his chair, it is white.",
    "Forty-two doctors are tired.",
    "The small child wonders whether it rains.",
]
for sentence, translation in zip(sentences, translator.translate(sentences), strict=True):
    print(f"{sentence}\n    {translation}")

# %% [markdown]
# The last one has words that the corpus does not have. The model does not say so: it makes a sentence of words that it
# knows.
#
# The four best of a beam, each with its score $\log P(y|x) \,/\, ((5 + |y|) / 6)^{0.6}$:

# %%
best = translator.n_best(sentences[:1], 4)[0]
table(["score", "translation"], [[f"{one.score:.3f}", one.text] for one in best])

# %% [markdown]
# ## Score it
#
# `evaluate` translates the test set, leaves the text and a record in the work directory, and scores with sacreBLEU. A
# BLEU means nothing without its protocol, so each score has its signature. `BLEU` is the one to publish, `BLEU-split`
# follows the paper's protocol.
#
# The corpus is made by a small grammar in which each sentence has one right translation. A BLEU above 90 says that the
# model and its training work, and nothing about translating real text.

# %%
result = evaluate(run, translator, "test", lambda line: None)
table(["score", "value", "signature"], [[score.name, f"{score.value:.2f}", score.signature] for score in result.scores])

# %%
wrong = [i for i, output in enumerate(result.outputs) if output != result.references[i]]
count = len(result.outputs)
print(f"{count - len(wrong)} of {count} translations are the reference, letter by letter; some of the others:\n")
for i in wrong[:5]:
    print(f"source     {result.sources[i]}\noutput     {result.outputs[i]}\nreference  {result.references[i]}\n")

# %% [markdown]
# ## The same rows elsewhere
#
# A run writes its rows to `metrics.jsonl`, and every view shows these rows: so all show the same numbers.

# %%
for row in written[:2] + written[-4:-2]:
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})

# %% [markdown]
# - **In a notebook:** `views=[Notebook(run)]`, as above.
# - **On one screen of a terminal:** `python -m experiments train demo`; a run of another process, this
#   notebook's too: `python -m experiments watch demo`.
# - **TensorBoard:** its events are always written. After `pip install tensorboard`, which this code does not need:
#   `tensorboard --logdir runs`, or in a notebook `%load_ext tensorboard` and then `%tensorboard --logdir runs`.
# - **Weights & Biases:** `python -m experiments train demo --wandb PROJECT`, or in a notebook
#   `views=[WeightsAndBiases(run, experiment, "PROJECT")]`, of `experiments.training.views`.
# - **Anything else** can read `runs/demo/metrics.jsonl`: one JSON object a line.
#
# Where there is no terminal, `watch` prints the last numbers once:

# %%
watch = [sys.executable, "-m", "experiments", "watch", "demo"]
print(subprocess.run(watch, capture_output=True, text=True, check=True).stdout)

# %% [markdown]
# The record of a score says what the run was made of: all settings, hashes of text and vocabulary, hardware, versions,
# the commit. `deviations` lists in what a run differs from the paper's.

# %%
record = json.loads(result.record.read_text())
table(["", ""], [[name, record[name]] for name in ("steps", "checkpoints", "target_tokens", "dev_ppl", "vocabulary")])

# %%
print(*deviations(experiment), sep="\n")

# %% [markdown]
# Notebook 3 looks inside this model.
