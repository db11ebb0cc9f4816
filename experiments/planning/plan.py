"""`plan NAME`: what a run will be and cost, before it starts."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from data.batching import Batch, BatchPlan, Int64, Shape, batch_plan, make_shape
from data.corpora import WMT14, find_corpus
from data.dataset import PreparedData, find_prepared, open_prepared, prepare
from experiments.evaluation.metrics import check_language, check_tokenizer, target_language
from experiments.planning.accelerators import ACCELERATORS
from experiments.planning.advice import advice
from experiments.presets.deviations import PAIRS, deviations
from experiments.training.memory import compile_anyway, device_memory, memory_of
from experiments.training.preflight import preflight
from transformer.config import UNK, DataConfig, Experiment, ModelConfig, counted
from transformer.flops import train_flops
from transformer.model import count_parameters
from transformer.optimizer import learning_rate
from transformer.parallel import init_on, make_mesh, padded_rows, put_rows

# WMT14's sentences: 19.6 epochs in 100,000 steps of about 25,000 tokens a side (section 5) make 28 tokens a sentence.
MEAN_LENGTH = 28
SPREAD = 0.6  # of the logarithm of the length; newstest2013 has 0.59
RATIO = 0.18  # spread of the logarithm of target / source; newstest2013's too
MEASURED_STEPS = 3
SHORT = 0.1  # hours: not worth a table of what they cost
FULL_STEP_SECONDS = 10.0  # a step that would take longer is measured on some of its rows


class Text(NamedTuple):
    """What the batches will be made of."""

    plan: BatchPlan
    description: str
    data: PreparedData | None
    """None while the lengths are assumed."""


def plan(experiment: Experiment, measure: bool, log: Callable[[str], None] = print) -> Iterator[str]:
    """Lines to print. With `measure`, every shape is compiled and some steps are run on this device.

    UserError for a corpus that cannot be prepared, and for parts that cannot be used.
    """
    preflight(experiment, log)
    model, steps = experiment.model, experiment.train.steps
    embedding = model.vocab_size * model.d_model
    total = count_parameters(model)
    yield f"experiment    {experiment.name}" + (f": {experiment.note}" if experiment.note else "")
    yield f"parameters    {total:,}, of them {embedding:,} in the one tied matrix; products in {model.dtype}"
    language = target_language(experiment.data)
    missing = check_tokenizer(language)
    if missing:
        yield f"warning: {missing}"
    text = text_of(experiment.data, experiment.train.seed)
    if text.data and not missing and (wrong := check_language(text.data.text("dev", "target"), language)):
        yield f"warning: {wrong}"
    yield f"text          {text.description}"

    shape = text.plan.shape
    tokens = shape.rows * (shape.source + shape.target) / 2 * text.plan.fill()
    yield f"batches       {counted(shape.rows, 'row')} of {shape.source} source and {shape.target} target tokens"
    yield (
        f"steps         {steps:,}, of {tokens:,.0f} tokens a side on the average: {steps * tokens:.2e} in all, "
        f"{steps / len(text.plan):.1f} epochs of {counted(len(text.plan), 'batch', 'batches')}; "
        f"{text.plan.fill():.1%} of the slots filled"
    )
    per_step = flops_per_step(model, shape)
    yield f"operations    {per_step:.3g} a step, {steps * per_step:.3g} in all, padding included"
    yield "compilations  1 training step, 1 validation step, 1 sample"
    yield "learning rate " + ", ".join(
        f"{float(learning_rate(step, experiment)):.2e} at step {step:,}"
        for step in curve_points(experiment.optimizer.warmup_steps, steps)
    )
    yield from elsewhere(steps * per_step)
    if measure:
        yield from measured(experiment, shape, per_step)
    splits = text.data.manifest["splits"] if text.data else None
    if splits and (advised := list(advice(experiment, splits, len(text.plan)))):
        yield "advice:"
        yield from (f"  - {line}" for line in advised)
    yield "this run differs from the paper:"
    yield from (f"  - {line}" for line in deviations(experiment, splits))


def elsewhere(flops: float) -> Iterator[str]:
    """What so many operations take on accelerators that people rent; one line where that is nothing to plan for."""
    hours = [accelerator.hours(flops) for accelerator in ACCELERATORS]
    if max(hours) < SHORT:
        yield f"elsewhere     less than {SHORT:.1g} hours on any accelerator of experiments/planning/accelerators.py"
        return
    yield "hours elsewhere, estimated (experiments/planning/accelerators.py has the sources):"
    for accelerator, needed in zip(ACCELERATORS, hours, strict=True):
        cost = needed * accelerator.devices * accelerator.dollars if accelerator.dollars else None
        price = "" if cost is None else f", about ${cost:,.0f}" if cost >= 1 else ", less than $1"
        yield f"  {accelerator.name:22} {needed:7.1f} hours at {accelerator.reached:.0%} of the peak{price}"


def text_of(config: DataConfig, seed: int) -> Text:
    """The batches of the prepared text; WMT14 that is not prepared here is not downloaded, but assumed."""
    corpus = find_corpus(config)
    path = find_prepared(config)
    if path is None and isinstance(corpus, WMT14):
        pairs = PAIRS[corpus.name]
        lengths = assumed_lengths(pairs, config.max_length)
        shape = make_shape(*lengths, config.batch_tokens)
        told = f"{pairs:,} pairs of {MEAN_LENGTH} tokens a side on the average, assumed: it is not prepared here"
        return Text(BatchPlan(*lengths, shape, seed), f"{corpus.name}, {told}", None)
    data = open_prepared(path) if path else prepare(config, log=lambda line: None)
    counts = data.manifest["splits"]["train"]
    told = (
        f"{counted(counts['kept'], 'training pair')}, {counts['source_tokens']:,} + {counts['target_tokens']:,} "
        f"tokens, vocabulary of {data.tokenizer.size:,}"
    )
    return Text(batch_plan(data.train, config, seed), f"{data.path}: {told}", data)


def assumed_lengths(pairs: int, most: int) -> tuple[Int64, Int64]:
    """Tokens of each side, int64 [pairs]: log-normal, and so is their ratio."""
    chance = np.random.default_rng(0)
    source = chance.normal(np.log(MEAN_LENGTH) - SPREAD**2 / 2, SPREAD, pairs)
    target = source + chance.normal(0, RATIO, pairs)

    def tokens(logarithm: np.ndarray) -> Int64:
        return np.clip(np.exp(logarithm), 2, most).astype(np.int64)

    return tokens(source), tokens(target)


def curve_points(warmup: int, steps: int) -> list[int]:
    """The steps that show the curve: its rise, its peak and its fall."""
    return sorted({min(step, steps) for step in (1, warmup // 2, warmup, 2 * warmup, 8 * warmup, steps) if step})


def measured(experiment: Experiment, shape: Shape, flops: float) -> Iterator[str]:
    """The memory and the time of a step, which has `flops` operations, on this device."""
    device, there, count = jax.devices()[0], device_memory(), jax.device_count()
    mesh = make_mesh(experiment.mesh, experiment.model)
    needed = memory_of(compile_anyway(experiment, shape, mesh))
    yield f"this machine  {count} x {device.device_kind}, of {there / 1e9:.1f} GB; a step takes {needed / 1e9:.2f} GB"
    if needed > there:
        yield "  IT DOES NOT FIT: a smaller --data.batch-tokens or a larger --train.accumulate takes less"
        return

    def seconds_of(rows: int) -> float:
        """Of one step: the median of MEASURED_STEPS after one to warm up."""
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

    # A full step of base takes minutes on a CPU: some rows tell enough.
    part = min(shape.rows, 8 * experiment.train.accumulate * count)
    seconds = seconds_of(part)
    if part < shape.rows and seconds * shape.rows / part < FULL_STEP_SECONDS:
        part, seconds = shape.rows, seconds_of(shape.rows)
    whole = seconds * shape.rows / part
    yield (
        f"  measured: {seconds:.3g} s for {part} of the {counted(shape.rows, 'row')}, "
        f"{flops / whole / 1e12:.3g} TFLOP/s, {shape.rows * shape.target / whole:,.0f} target token slots/s: "
        f"{experiment.train.steps * whole / 3600:,.1f} hours for the run, validation not counted"
    )


def flops_per_step(model: ModelConfig, shape: Shape) -> float:
    """Operations of a step, padding and the attention between sentences of a row included, as they are computed."""
    return float(shape.rows * train_flops(model, shape.source, shape.target))


def full_batch(shape: Shape) -> Batch:
    """A batch of this shape in which every slot holds a token."""
    rows, source, target = shape
    return {"source": np.full((rows, source), UNK, np.int32), "target": np.full((rows, target), UNK, np.int32)}
