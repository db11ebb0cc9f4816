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
# This notebook goes from text to a scored translation. It trains a small Transformer on generated English-German
# sentences and shows the training curves as they grow. Then it interrupts a run and resumes it, translates, and scores
# the translations.
#
# **Needs** no download and no GPU. **Takes** six minutes on two cores of a CPU that are otherwise idle, at 0.18 seconds
# per step. In Colab, write the address of this repository into the next cell; elsewhere leave it empty.

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
# All settings that determine the result of a run are in an `Experiment`, a tree of frozen dataclasses. `find` returns
# one by its name (a *preset*), and `dataclasses.replace` makes a variant of it. The preset `demo` has the paper's
# architecture, at a size for a laptop. The variant here only validates more often, for smoother curves; this does not
# change the result. The table compares it with the paper's base model:

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
# `train` is what `python -m experiments train demo` calls. It prepares the data: a vocabulary of 1,000 *subword pieces*
# (words and parts of words) that both languages share, and files with the sentences as ids of pieces (*tokens*). Then
# it compiles one training step, and runs it. A *step* computes the gradient of the loss on one batch of sentences and
# updates the parameters. From time to time there is a *validation*: the loss is computed on sentences that are not used
# for training, and the parameters are saved in a *checkpoint*.
#
# `views` are the places where the progress is shown; `Notebook` draws the curves below the cell. The lines that `train`
# logs are collected in a list here, to be printed afterwards.

# %%
run = WorkDir(Path("runs/demo"))
lines = []
run = train(experiment, run.path, log=lines.append, views=[Notebook(run)])

# %% [markdown]
# - **Loss.** The two curves cannot be compared with each other. The training loss uses the smoothed target of section
#   5.4, whose entropy is a lower bound (notebook 1); the validation loss is not smoothed.
# - **BLEU** measures how many word sequences a translation shares with a reference translation, from 0 to 100. This
#   curve is from greedy translations of the first 64 validation sentences. With so few sentences it fluctuates.
# - **Speed** does not include the validations. Dips in it come from other programs.
#
# The first and last lines that `train` logged:

# %%
print(*lines[:9], "...", *lines[-7:], sep="\n")

# %% [markdown]
# Each validation translates the same two sentences. They show what the model learns first: common words, then word
# order and agreement, then rare words.

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
# ## Stop and resume
#
# A run can be interrupted by the stop button of the notebook, by Ctrl-C in a terminal, by `kill -9` or by a power
# failure. The same call resumes it from the newest checkpoint, and the final parameters are bitwise the same as those
# of a run that was never interrupted. This works because the batch, the dropout and the learning rate of a step are
# functions of the seed and the step number, and of no other state of the process.
#
# To show this, two short runs follow. One runs through all 60 steps. The other is interrupted at step 50, when its last
# checkpoint is from step 40, and is started again. The view below presses the stop button. Dropout is on, because a run
# without any randomness would prove less.


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
# A run can also be extended: the same call with a larger `train.steps` resumes it. Settings that would change the steps
# already done cannot be changed, and `train` names the one that differs.
#
# ## Translate
#
# `experiments.load` takes a run by its path, or by its name under `runs/`. As in section 6.1 of the paper, it averages
# the parameters of the newest checkpoints (here three). It translates by *beam search*, which keeps the four best
# partial translations at each step, with a length penalty of 0.6 (notebook 1 shows both).

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
# The last sentence contains words that do not occur in the corpus. The model gives no sign of that: it produces a
# sentence from words that it knows.
#
# The four best translations of a beam, each with its score $\log P(y|x) \,/\, ((5 + |y|) / 6)^{0.6}$:

# %%
best = translator.n_best(sentences[:1], 4)[0]
table(["score", "translation"], [[f"{one.score:.3f}", one.text] for one in best])

# %% [markdown]
# ## Score it
#
# `evaluate` translates the test set, scores it with sacreBLEU, and writes the texts and a *record* (a JSON file with
# the scores and all settings) into the run's directory. There are several ways to compute BLEU, so each score has a
# signature that states how it was computed. `BLEU` is the one to publish; `BLEU-split` follows the paper's protocol.
#
# The corpus is generated by a small grammar in which each sentence has exactly one correct translation. A BLEU above 90
# therefore shows that the model and its training work, and says nothing about translating real text.

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
# ## Other ways to follow a run
#
# A run writes its measurements to `metrics.jsonl`, one row at a time. All views show these rows, so they all show the
# same numbers:

# %%
for row in written[:2] + written[-4:-2]:
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})

# %% [markdown]
# - **In a notebook:** `views=[Notebook(run)]`, as above.
# - **In a terminal:** `python -m experiments train demo` shows one screen. For a run of another process, including this
#   notebook, `python -m experiments watch demo` shows the same screen.
# - **TensorBoard:** event files are always written. After `pip install tensorboard` (this code does not need it), run
#   `tensorboard --logdir runs`, or in a notebook `%load_ext tensorboard` and then `%tensorboard --logdir runs`.
# - **Weights & Biases:** `python -m experiments train demo --wandb PROJECT`, or in a notebook
#   `views=[WeightsAndBiases(run, experiment, "PROJECT")]` from `experiments.training.views`.
# - **Your own tools** can read `runs/demo/metrics.jsonl`, which has one JSON object per line.
#
# Without a terminal, `watch` prints the latest numbers once:

# %%
watch = [sys.executable, "-m", "experiments", "watch", "demo"]
print(subprocess.run(watch, capture_output=True, text=True, check=True).stdout)

# %% [markdown]
# The record of a score states how the run was made: all settings, the hashes of text and vocabulary, the hardware, the
# package versions and the commit. `deviations` lists how a run differs from the paper's.

# %%
record = json.loads(result.record.read_text())
table(["", ""], [[name, record[name]] for name in ("steps", "checkpoints", "target_tokens", "dev_ppl", "vocabulary")])

# %%
print(*deviations(experiment), sep="\n")

# %% [markdown]
# Next: notebook 3 looks inside this model.
