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
# # 5. From records to tables
#
# Every published number in this repository can be traced to a command, a commit and the hash of its text. Each one
# comes from a *record*, a file that is written when a trained model is scored. This notebook reads records, shows that
# an edited one is rejected, plots the curves of a run and Table 3 next to the paper's, compares two runs, and traces
# one number to its origin.
#
# **Needs** no download and no GPU. **Takes** half a minute on a laptop's CPU. In Colab, write the address of this
# repository into the next cell; elsewhere leave it empty. It writes to `./runs`. If the run of notebook 2 is in
# `runs/demo`, it is used; otherwise a small model is trained.

# %%
ADDRESS = ""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("DATA_DIR", "prepared" if Path("prepared").exists() else "runs/prepared")  # notebook 2's, or own
if importlib.util.find_spec("experiments") is None or importlib.util.find_spec("transformer") is None:
    if not ADDRESS:
        raise RuntimeError("install this repository (pip install -e .), or write its address into ADDRESS above")
    subprocess.run(["git", "clone", "--quiet", ADDRESS, "repository"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", "repository"], check=True)
    sys.path.insert(0, str(Path("repository").resolve()))

# %%
# %matplotlib inline
import json
import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from data.corpora import CORPORA
from experiments import Translator, find
from experiments.evaluation.compare import compare
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.intervals import interval
from experiments.evaluation.records import RESULTS, content_hash, read_evaluation, results_table
from experiments.history import read_metrics
from experiments.inspection.figures import curves
from experiments.presets.paper import TABLE3
from experiments.tables.render import order, records_of, render_table
from experiments.training.average import average_run
from experiments.training.loop import train
from experiments.training.views import table
from experiments.workdir import WorkDir
from transformer import UserError


def nothing(line):
    """Discards a log line."""


# %% [markdown]
# ## A record
#
# `evaluate` translates a test set and writes a record: one JSON file with the scores and everything that produced them.
# The published records are in `experiments/results/`, and the results table of the README is made from them:

# %%
Markdown(results_table().replace("experiments/results/", "../results/"))

# %%
path = RESULTS / "multi30k-tiny.json"
record = read_evaluation(path)
for name, value in record.items():
    text = json.dumps(value)
    print(f"{name:15} {text if len(text) < 100 else text[:97] + '...'}")

# %% [markdown]
# The last line is the SHA-256 of all the others. It is checked whenever a record is read, so a number that was edited
# by hand cannot get into a table by accident. (This is not a signature: whoever edits the file can recompute the hash.
# The commit history would show that.)

# %%
copy = Path("runs/edited.json")
copy.parent.mkdir(exist_ok=True)
edited = json.loads(path.read_text())
edited["scores"][0]["value"] += 1
copy.write_text(json.dumps(edited))
print("stated  ", edited["sha256"])
print("computed", content_hash(edited))
try:
    read_evaluation(copy)
except UserError as error:
    print("refused:", error)

# %% [markdown]
# BLEU can be computed in several ways, so every score states its protocol in a signature. The same output has five
# scores, and only the first is called BLEU:

# %%
table(["score", "value", "signature"], [[s["name"], f"{s['value']:.2f}", s["signature"]] for s in record["scores"]])

# %% [markdown]
# ## The curves of a run
#
# The directory of a run contains `metrics.jsonl`, with one JSON object per line, for each progress line and each
# validation. `curves` draws the same plot that `python -m experiments train` saves as `figures/curves.png`, and you can
# plot anything else from the same rows.

# %%
run = WorkDir(Path("runs/demo"))
if not run.checkpoints.is_dir():
    run = WorkDir(Path("runs/small"))
    demo = find("demo")
    small = replace(
        demo,
        name="small",
        model=replace(demo.model, d_model=64, d_ff=256, d_k=16, d_v=16, norm="pre"),
        data=replace(demo.data, train_pairs=20_000, batch_tokens=1024),
        optimizer=replace(demo.optimizer, warmup_steps=80),
        train=replace(demo.train, steps=320, log_every=20, eval_every=40, eval_sentences=16, keep=3),
        decode=replace(demo.decode, extra_length=10, batch_size=250),
    )
    train(small, run.path, log=nothing)
rows = read_metrics(run.metrics)
print(f"{run.path}: {len(rows)} rows, up to step {rows[-1]['step']:,}")
print(next(row for row in rows if "loss" in row))
curves(rows)
plt.show()

# %% [markdown]
# The paper measures training in steps, but the number of tokens per step differs between experiments. Therefore the
# next plot shows the perplexity as a function of the target tokens seen. *Perplexity* is the exponential of the loss
# per token: a perplexity of 5 means that the model is as uncertain as in a choice between 5 equally likely tokens.

# %%
seen = {row["step"]: row["target_tokens"] for row in rows if "target_tokens" in row}
valid = [(seen[row["step"]], row["dev_ppl"]) for row in rows if "dev_ppl" in row and row["step"] in seen]
figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
axis.plot([tokens / 1000 for tokens, _ in valid], [ppl for _, ppl in valid], "o-", color="#0072B2")
axis.set(xlabel="thousands of target tokens seen", ylabel="validation perplexity per token", yscale="log")
axis.set_xlim(0, None)
axis.yaxis.set_major_formatter("{x:g}")
axis.set_title(f"{run.path}: the last is {valid[-1][1]:.2f}")
plt.show()

# %% [markdown]
# ## Table 3, next to the paper's
#
# Table 3 of the paper varies one setting of the base model per row. `experiments/results/table3-small/` contains a
# record for each of its rows and each of two seeds, at a scale for a CPU: 0.5 million parameters, 2,000 steps, 29,000
# image captions. `records_of` reads them and checks that each matches its row: its settings, seed, number of steps and
# protocol. The plot shows the perplexity of each row relative to base, for the paper and for us.

# %%
records = records_of(3, "small", RESULTS)
ours = {name: [record["dev_ppl"] for record in made] for name, made in records.items()}
base = np.mean(ours["base"])
paper_base = TABLE3[0].ppl
figure, axis = plt.subplots(figsize=(10, 4.2), layout="constrained")
axis.axhline(1, color="0.6", linewidth=0.8)
for place, row in enumerate(TABLE3):
    axis.plot([place - 0.12], [row.ppl / paper_base], "o", color="#0072B2", label="paper" if place == 0 else None)
    axis.axvline(place, color="0.92", linewidth=0.8, zorder=0)
    points = [value / base for value in ours[row.name]]
    label = "ours, each seed" if place == 0 else None
    axis.plot([place + 0.12] * len(points), points, "x", color="#D55E00", label=label)
axis.set_xticks(
    range(len(TABLE3)),
    [f"{row.name}: {row.what}".removesuffix(": ").removeprefix("big: ") for row in TABLE3],
    rotation=60,
    ha="right",
    rotation_mode="anchor",
)
axis.set(ylabel="perplexity / base's", yscale="log")
axis.set_yticks([0.8, 1, 1.2, 1.5, 2], ["0.8", "1", "1.2", "1.5", "2"])
axis.minorticks_off()
axis.legend()
plt.show()
print(*order({row.name: row.ppl for row in TABLE3}, {name: float(np.mean(values)) for name, values in ours.items()}))

# %% [markdown]
# The last line tests whether our rows are in the same order as the paper's. At this size, as a whole, they are not.
# [experiments/results/README.md](../results/README.md) discusses it row by row. The same as numbers, with the 95%
# interval over the seeds, which for two seeds extends 9 standard deviations to each side:

# %%
bleu = {name: [record["scores"][0]["value"] for record in made] for name, made in records.items()}
table(
    ["row", "change", "PPL, paper", "PPL", "BLEU, paper (its protocol)", "BLEU"],
    [[r.name, r.what, r.ppl, interval(ours[r.name]), r.bleu, interval(bleu[r.name])] for r in TABLE3],
)

# %% [markdown]
# The table in the repository is rendered from the same records by
# `python -m experiments table 3 --scale small --render`. Rendered again in another folder, it is identical:

# %%
again = Path("runs/results")
shutil.copytree(RESULTS / "table3-small", again / "table3-small", dirs_exist_ok=True)
for made in render_table(3, "small", again)[:2]:
    same = made.read_bytes() == (RESULTS / made.name).read_bytes()
    print(f"{made.name}: {'the same' if same else 'DIFFERENT'}")
    assert same

# %% [markdown]
# ## Compare two runs
#
# Section 6.1 of the paper averages the parameters of the last checkpoints. How much does that gain here? `average_run`
# writes the average as a new run. Both runs then translate the test set (with greedy search, to save time) and are
# compared.

# %%
mean = WorkDir(run.path.with_name(run.path.name + "-averaged"))
if not mean.path.exists():
    average_run(run, "average", mean.path, print)


def score_greedily(name, checkpoint):
    """Translates and scores the test set by greedy search with one checkpoint."""
    translator = Translator.load(name.path, checkpoint, nothing)
    decode = replace(translator.experiment.decode, beam=1, extra_length=10, batch_size=250)
    translator.experiment = replace(translator.experiment, decode=decode)
    return evaluate(name, translator, "test", nothing)


last = WorkDir(run.path.with_name(run.path.name + "-last"))
shutil.copytree(run.path, last.path, dirs_exist_ok=True)  # so that what notebook 2 scored stays as it is
for name, checkpoint in ((last, "last"), (mean, "last")):
    print(f"{name.path!s:20} {score_greedily(name, checkpoint).scores[0]}")
print()
print(*compare([str(last.path)], [str(mean.path)], "test"), sep="\n")

# %% [markdown]
# How to read this: the first two lines of numbers show both scores, their difference, and p, the probability of a
# difference this large by chance on 1,000 such sentences. A small p means that these two models differ on such text. It
# does not mean that averaging helps in general. For that, compare several training runs, `compare A0,A1,A2 B0,B1,B2`;
# the last lines then show an interval (notebook 4).
#
# ## Trace one number to its origin
#
# The README states a BLEU of 37.4 for `multi30k-tiny`. How was it made?

# %%
score = record["scores"][0]
model, data = record["settings"]["model"], record["data"]
commits = record["commit"]
trace = [
    ("number", f"{score['name']} {score['value']:.2f}, {score['signature']}"),
    ("made by", f"`{record['command']}`"),
    ("on", f"{record['date']}, {record['hardware']['processor']}, {record['hardware']['cores']} cores"),
    ("with", ", ".join(f"{name} {version}" for name, version in record["software"].items())),
    ("code that trained", commits["train"]),
    ("code that scored", commits["evaluate"]),
    ("checkpoints", f"the mean of {', '.join(map(str, record['checkpoints']))}"),
    ("seed", record["settings"]["train"]["seed"]),
    ("model", ", ".join(f"{name} {model[name]}" for name in ("num_layers", "d_model", "d_ff", "num_heads", "dropout"))),
    ("prepared data", data["hash"]),
    ("vocabulary", record["vocabulary"]),
    *(
        (f"text, {role}", f"{facts['sha256']} {facts['name'].rpartition('/')[2]}")
        for role, facts in data["sources"].items()
    ),
]
table(["", ""], [[name, value] for name, value in trace])

# %% [markdown]
# Is the text still the same? The current code identifies its files by the same hashes, and rejects downloads with
# others. If the history of this repository is available, the commits are in it:

# %%
today = {role: source.sha256 for role, source in CORPORA.find(record["corpus"]).sources(Path("runs"), nothing).items()}
assert today == {role: facts["sha256"] for role, facts in data["sources"].items()}
print(f"the {len(today)} files of {record['corpus']} have the hashes that they had then")
for role, commit in commits.items():
    show = ["git", "-C", str(RESULTS), "log", "-1", "--date=short", "--format=%h %ad %s", commit.removesuffix("-dirty")]
    found = subprocess.run(show, capture_output=True, text=True)
    print(f"{role:8} {found.stdout.strip() or 'no history here: git show ' + commit}")

# %% [markdown]
# To reproduce the number, check out the commit that trained, and then run
#
# ```
# python -m experiments train multi30k-tiny        # about an hour on two cores
# python -m experiments evaluate multi30k-tiny
# python -m experiments compare multi30k-tiny OTHER
# ```
#
# With the same hardware and package versions, training is bitwise reproducible. Elsewhere it rounds differently, and
# BLEU differs by some tenths. An interval over seeds shows how large such differences are.
