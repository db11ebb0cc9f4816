"""`plan NAME`: the size, time and cost of a run, before it starts."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from data.batching import Batch, BatchPlan, Int64, Shape, make_shape
from data.corpora import find_corpus
from data.corpora.corpus import Built
from data.dataset import PreparedData, find_prepared, open_prepared, prepare
from data.sampling import training_plan
from data.tokenizer import described
from data.treebanks.linear import TAGS
from experiments.evaluation.metrics import target_language
from experiments.planning.accelerators import MACHINES, find_target
from experiments.planning.advice import advice
from experiments.planning.on_target import on_target
from experiments.presets.deviations import PAIRS, deviations
from experiments.task import task_of
from experiments.training.memory import compile_anyway, device_memory, memory_of
from experiments.training.preflight import preflight
from experiments.workdir import WorkDir, title_of
from transformer.config import UNK, DataConfig, Experiment, counted
from transformer.model import count_parameters
from transformer.optimizer import learning_rate
from transformer.parallel import init_on, make_mesh, padded_rows, put_rows
from transformer.train import step_flops


class Lengths(NamedTuple):
    """The distribution of lengths in tokens; lengths and their ratio are log-normal."""

    source: float
    """Mean."""
    target: float
    spread: float
    """Standard deviation of log(source length)."""
    ratio: float
    """Standard deviation of log(target length / source length)."""


# WMT14: 100,000 steps of about 25,000 tokens a side (section 5) are 19.6 epochs. The spreads are of newstest2013.
SENTENCES = Lengths(28, 28, 0.6, 0.18)
# The sample of the Penn Treebank has 24.1 words, or 28 pieces, and 61.8 symbols per sentence.
TREES = Lengths(28, 63, 0.55, 0.12)
MEASURED_STEPS = 3
SHORT = 0.1  # hours; for a shorter run no table of times and prices is printed
FULL_STEP_SECONDS = 10.0  # a step that would take longer is measured on some of its rows only


class Text(NamedTuple):
    """The training corpus as batches."""

    plan: BatchPlan
    description: str
    data: PreparedData | None
    """None if the lengths are assumed."""


def plan(
    experiment: Experiment,
    measure: bool,
    log: Callable[[str], None] = print,
    target: str | None = None,
    run: WorkDir | None = None,
) -> Iterator[str]:
    """Yields lines to print. With `measure`, the step is compiled and a few steps are timed on this device.

    With a target ("8xh100"), the step is compiled for that instead, and nothing is run. If the settings are those of a
    run, the text that the run was trained on need not exist any more.

    UserError for a corpus that cannot be prepared, for components that fail the preflight checks, and for a target that
    cannot be compiled for.
    """
    if target:
        find_target(target)  # a wrong name is refused before anything is prepared
    preflight(experiment, log)
    model, steps = experiment.model, experiment.train.steps
    matrices = {"all": 1, "target": 2, "none": 3}[model.tied]
    rows = matrices * model.vocab_size + (matrices > 1) * (model.source_rows - model.vocab_size)
    embedding = rows * model.d_model
    which = "the tied embeddings" if matrices == 1 else f"{matrices} embedding matrices"
    total = count_parameters(model)
    yield f"experiment    {title_of(experiment, run)}" + (f": {experiment.note}" if experiment.note else "")
    yield f"parameters    {total:,}, including {embedding:,} of {which}; matmuls in {model.dtype}"
    task = task_of(experiment.data)
    missing = task.missing(target_language(experiment.data))
    if missing:
        yield f"warning: {missing}"
    text = text_of(experiment.data, experiment.train.seed, log, run.text() if run else None)
    if text.data and not missing and (wrong := task.warning(*text.data.texts("dev"), target_language(experiment.data))):
        yield f"warning: {wrong}"
    yield f"text          {text.description}"

    shape = text.plan.shape
    tokens = shape.rows * (shape.source + shape.target) / 2 * text.plan.fill()
    yield f"batches       {counted(shape.rows, 'row')} of {shape.source} source and {shape.target} target tokens"
    yield (
        f"steps         {steps:,}, of {tokens:,.0f} tokens a side on average: {steps * tokens:.2e} in total, "
        f"{steps / len(text.plan):.1f} epochs of {counted(len(text.plan), 'batch', 'batches')}; "
        f"{text.plan.fill():.1%} of the token slots are filled"
    )
    per_step = step_flops(experiment, *shape)
    yield f"operations    {per_step:.3g} per step, {steps * per_step:.3g} in total, including padding"
    yield "compilations  1 training step, 1 validation step, 1 sample translation"
    yield "learning rate " + ", ".join(
        f"{float(learning_rate(step, experiment)):.2e} at step {step:,}"
        for step in curve_points(experiment.optimizer.warmup_steps, steps)
    )
    if target:
        yield from on_target(experiment, shape, text.plan.fill(), target)
    else:
        yield from estimates(steps * per_step)
        if measure:
            yield from measured(experiment, shape, per_step)
    splits = text.data.manifest["splits"] if text.data else None
    if splits and (advised := list(advice(experiment, splits, len(text.plan)))):
        yield "advice:"
        yield from (f"  - {line}" for line in advised)
    yield "differences from the paper:"
    yield from (f"  - {line}" for line in deviations(experiment, splits))


def estimates(flops: float) -> Iterator[str]:
    """Yields the time and price of this many operations on common accelerators; a single line if it is short."""
    hours = [machine.hours(flops) for machine in MACHINES]
    if max(hours) < SHORT:
        yield f"estimate      less than {SHORT:.1g} hours on any accelerator of experiments/planning/accelerators.py"
        return
    yield "estimated hours on common accelerators, at the share of the peak that is predicted for the base model"
    yield "(by benchmarks.roofline; that of the P100 is the paper's own):"
    for machine, needed in zip(MACHINES, hours, strict=True):
        cost = needed * machine.devices * machine.dollars if machine.dollars else None
        price = "" if cost is None else f", about ${cost:,.0f}" if cost >= 1 else ", less than $1"
        yield f"  {machine.name:26} {needed:7.1f} hours at {machine.reached:.0%} of the peak{price}"


def text_of(
    config: DataConfig, seed: int, log: Callable[[str], None] = print, known: dict[str, Any] | None = None
) -> Text:
    """Prepares a corpus and plans its batches. `known` is that of `prepare`.

    Text that has to be built first, WMT14 and the Penn Treebank, need not be there: lengths are assumed.
    """
    corpus = find_corpus(config)
    path = find_prepared(config, log=log, known=known)
    if path is None and isinstance(corpus, Built) and corpus.name in PAIRS:
        pairs, mean = PAIRS[corpus.name], TREES if config.task in TAGS else SENTENCES
        pairs = min(pairs, config.train_pairs or pairs)
        lengths = assumed_lengths(pairs, config.max_length, mean)
        shape = make_shape(*lengths, config.batch_tokens)
        tokens = (
            f"{mean.source} tokens a side" if mean.source == mean.target else f"{mean.source} and {mean.target} tokens"
        )
        facts = f"{pairs:,} pairs of {tokens} on average, assumed since it is not prepared here"
        return Text(BatchPlan(*lengths, shape, seed), f"{corpus.name}, {facts}", None)
    data = open_prepared(path) if path else prepare(config, log=lambda line: None)
    counts = data.manifest["splits"]["train"]
    facts = (
        f"{counted(counts['kept'], 'training pair')}, {counts['source_tokens']:,} + {counts['target_tokens']:,} "
        f"tokens, {described(data.tokenizer)}"
    )
    if counts.get("documents"):
        several = f"up to {counted(config.context, 'sentence')} of {counted(counts['documents'], 'document')} each"
        facts = f"{facts}; {several}"
    return Text(training_plan(data, config, seed), f"{data.path}: {facts}", data)


def assumed_lengths(pairs: int, most: int, mean: Lengths = SENTENCES) -> tuple[Int64, Int64]:
    """Returns random lengths of sources and targets in tokens, int64 [pairs] each.

    Args:
        most: the longest length.
        mean: the distribution of the lengths.
    """
    chance = np.random.default_rng(0)
    source = chance.normal(np.log(mean.source) - mean.spread**2 / 2, mean.spread, pairs)
    target = source + chance.normal(0, mean.ratio, pairs) + np.log(mean.target / mean.source)

    def tokens(logarithm: np.ndarray) -> Int64:
        return np.clip(np.exp(logarithm), 2, most).astype(np.int64)

    return tokens(source), tokens(target)


def curve_points(warmup: int, steps: int) -> list[int]:
    """Returns the steps at which to show the learning rate: its warm-up, peak and decay."""
    return sorted({min(step, steps) for step in (1, warmup // 2, warmup, 2 * warmup, 8 * warmup, steps) if step})


def measured(experiment: Experiment, shape: Shape, flops: float) -> Iterator[str]:
    """Yields the memory and the time of a step on this device; `flops` is its number of operations."""
    device, there, count = jax.devices()[0], device_memory(), jax.device_count()
    mesh = make_mesh(experiment.mesh, experiment.model)
    needed = memory_of(compile_anyway(experiment, shape, mesh))
    yield f"this machine  {count} x {device.device_kind} with {there / 1e9:.1f} GB; a step needs {needed / 1e9:.2f} GB"
    if needed > there:
        yield "  IT DOES NOT FIT: use a smaller --data.batch-tokens or a larger --train.accumulate"
        return

    def seconds_of(rows: int) -> float:
        """Returns the time of a step with this many rows: the median of MEASURED_STEPS, after a warm-up step."""
        some = shape._replace(rows=rows)
        compiled = compile_anyway(experiment, some, mesh)
        batch = put_rows(full_batch(some), mesh, padded_rows(rows, mesh, experiment.train.accumulate))
        state, times, key = init_on(mesh, experiment), [], jax.random.key(0)
        for _ in range(1 + MEASURED_STEPS):
            start = time.perf_counter()
            state, metrics = compiled(state, batch, key)
            jax.block_until_ready((state, metrics))
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    # A full step of base takes minutes on a CPU, so measure some of its rows first.
    part = min(shape.rows, 8 * experiment.train.accumulate * count)
    seconds = seconds_of(part)
    if part < shape.rows and seconds * shape.rows / part < FULL_STEP_SECONDS:
        part, seconds = shape.rows, seconds_of(shape.rows)
    whole = seconds * shape.rows / part
    yield (
        f"  measured: {seconds:.3g} s for {part} of the {counted(shape.rows, 'row')}, "
        f"{flops / whole / 1e12:.3g} TFLOP/s, {shape.rows * shape.target / whole:,.0f} target token slots/s: "
        f"{experiment.train.steps * whole / 3600:,.1f} hours for the run, without validation"
    )


def full_batch(shape: Shape) -> Batch:
    """Returns a batch of this shape in which every slot holds a token."""
    rows, source, target = shape
    return {"source": np.full((rows, source), UNK, np.int32), "target": np.full((rows, target), UNK, np.int32)}
