"""`train NAME`: the training run, read from top to bottom."""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.batching import Batch, Batches, BatchPlan, Shape, make_shape, stream
from data.dataset import PreparedData, Split, prepare
from experiments.progress import Meter, Progress, minutes, perplexity
from experiments.records import commit
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.checkpoint import Checkpoints
from transformer.config import DataConfig, Experiment, UserError
from transformer.model import count_parameters
from transformer.train import Params, TrainState, init_state, make_eval_step, make_train_step

Log = Callable[[str], None]

SAMPLES = 2


def train(experiment: Experiment, workdir: Path, log: Log = print) -> WorkDir:
    """Trains, or goes on where an earlier process of the same run stopped. Returns the work directory.

    Raises:
        UserError: bad data, a work directory of another run, no room on the disk, or too many
            non-finite steps in a row.
    """
    log(f"experiment {experiment.name}: {count_parameters(experiment.model):,} parameters, {experiment.model.dtype}")
    data = prepare(experiment.data, log=log)
    run = WorkDir(workdir)
    train_plan = batch_plan(data.train, experiment.data, experiment.train.seed)
    dev_plan = batch_plan(data.dev, experiment.data, None)
    describe(experiment, data, train_plan, log)
    check_rows(experiment, train_plan.shape)
    lock = run.claim(experiment, data.tokenizer)

    checkpoints = Checkpoints(run.checkpoints, experiment.train.keep, log)
    template = jax.eval_shape(lambda: init_state(experiment))
    restored, meta = checkpoints.restore_state(template) or (None, {})
    start, end = int(restored.step) if restored else 0, experiment.train.steps
    if meta and meta["data"]["hash"] != data.hash:
        raise UserError(f"the text is not the one that {run.path} was trained on: choose another --workdir")
    check_room(run, template, experiment.train.keep)
    log(f"resuming after step {start}" if start else f"writing to {run.path}")
    if start >= end:
        checkpoints.close()
        lock.close()
        return run

    log("compiling")
    train_step = compile_step(experiment, train_plan.shape, template)
    state = restored or init_state(experiment)
    validate = make_validation(experiment, data.dev, dev_plan)
    meter = Meter(meta.get("seconds", 0.0), meta.get("target_tokens", 0))
    progress = Progress(run, start, log)
    key = jax.random.key(experiment.train.seed)
    try:
        for step, batch in enumerate(stream(Batches(data.train, train_plan), start, end - start), start + 1):
            state, metrics = train_step(state, batch, key)
            meter.add(metrics, tokens=int(np.count_nonzero(batch["target"])))
            if step % experiment.train.log_every == 0 or step == end:
                report(experiment, step, meter, progress, start)
                stop_if_broken(experiment, step, state, checkpoints)
                checkpoints.check()
            if step % experiment.train.eval_every == 0 or step == end:
                with meter.paused():
                    dev_loss = validate(state.params)
                    dev_ppl = perplexity(dev_loss)
                    progress.write(step, dev_loss=dev_loss, dev_ppl=dev_ppl)
                    log(f"step {step}: validation loss {dev_loss:.4f}, perplexity {dev_ppl:.2f} per token")
                    if not math.isfinite(dev_loss):
                        raise UserError(
                            f"stopped at step {step}: the validation loss is {dev_loss}; {last(checkpoints)}"
                        )
                    show_samples(experiment, data, state.params, log)
                    checkpoints.save(state, provenance(experiment, data, step, dev_loss, meter))
    except KeyboardInterrupt:
        log(f"interrupted; {last(checkpoints)}")
        raise
    finally:
        progress.close()
        checkpoints.close()
        lock.close()
    return run


def batch_plan(split: Split, config: DataConfig, seed: int | None) -> BatchPlan:
    """The batches of a split, and their order in each epoch; without a seed it is the same always."""
    source, target = split.lengths("source"), split.lengths("target")
    return BatchPlan(source, target, make_shape(source, target, config.batch_tokens), seed)


def describe(experiment: Experiment, data: PreparedData, train: BatchPlan, log: Log) -> None:
    """What is about to run, before anything slow happens."""
    epochs = experiment.train.steps / len(train)
    log(f"data {data.path}: {len(data.train):,} training pairs, vocabulary of {data.tokenizer.size:,}")
    log(
        f"{experiment.train.steps:,} steps of at most {experiment.data.batch_tokens:,} tokens a side, "
        f"{epochs:.1f} epochs; {train.fill():.1%} of the token slots are filled"
    )
    log(f"batches of {train.shape.rows} rows of {train.shape.source} source and {train.shape.target} target tokens")
    log(
        f"compilations: 1 training step, 1 validation step, 1 sample; "
        f"on {jax.device_count()} {jax.devices()[0].device_kind}"
    )


def check_rows(experiment: Experiment, shape: Shape) -> None:
    """UserError if the batches cannot be split as train.accumulate asks."""
    if shape.rows % experiment.train.accumulate:
        raise UserError(
            f"train.accumulate = {experiment.train.accumulate} does not divide the {shape.rows} rows of a batch"
        )


def compile_step(experiment: Experiment, shape: Shape, state: TrainState) -> Any:
    """The train step, compiled for batches of this shape. UserError if it needs more memory than the device has.

    Args:
        state: only its shapes and types count.
    """
    step = jax.jit(make_train_step(experiment), donate_argnums=0)
    compiled = step.lower(state, empty_batch(shape), jax.random.key(experiment.train.seed)).compile()
    if (needed := memory_of(compiled)) > (there := device_memory()):
        raise UserError(
            f"a batch of {shape.rows} rows of {shape.source} + {shape.target} tokens needs {needed / 1e9:.1f} GB, and "
            f"the device has {there / 1e9:.1f} GB: lower --data.batch-tokens, or raise --train.accumulate"
        )
    return compiled


def memory_of(compiled: Any) -> int:
    """Bytes that a compiled step takes on the device at once, by the compiler's account: state, batch and the rest."""
    told = compiled.memory_analysis()
    if told is None:  # a backend that does not say
        return 0
    return told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes + told.temp_size_in_bytes


def device_memory() -> float:
    """Bytes that the device lets this process have; of a CPU the machine's. Infinite where nobody says."""
    told = jax.devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return float(told["bytes_limit"])
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def empty_batch(shape: Shape) -> Batch:
    """A batch of this shape without a sentence in it."""
    rows, source, target = shape
    return {"source": np.zeros((rows, source), np.int32), "target": np.zeros((rows, target), np.int32)}


def make_validation(experiment: Experiment, dev: Split, plan: BatchPlan) -> Callable[[Params], float]:
    """The function params -> cross-entropy per token of the validation text, without smoothing."""
    eval_step = jax.jit(make_eval_step(experiment.model))
    batches = Batches(dev, plan)

    def validate(params: Params) -> float:
        sums = [eval_step(params, batches[i]) for i in range(len(plan))]
        return float(sum(loss for loss, _ in sums) / sum(count for _, count in sums))

    return validate


def report(experiment: Experiment, step: int, meter: Meter, progress: Progress, start: int) -> None:
    """One line of numbers since the last one."""
    numbers = meter.read()
    progress.write(step, seconds=meter.seconds(), target_tokens=meter.target_tokens, **numbers)
    left = (experiment.train.steps - step) * meter.process_seconds() / (step - start)
    loss = "none" if numbers["loss"] is None else f"{numbers['loss']:.4f}"
    line = (
        f"step {step}/{experiment.train.steps}  loss {loss}  "
        f"{numbers['tokens_per_second']:,.0f} tokens/s  {minutes(left)} left"
    )
    if numbers["skipped"]:
        line += f"  {numbers['skipped']:.0f} non-finite steps skipped"
    progress.log(line)


def stop_if_broken(experiment: Experiment, step: int, state: TrainState, checkpoints: Checkpoints) -> None:
    """Gives up when nothing but non-finite steps has come for a while. The last good checkpoint stays."""
    bad = int(state.bad_steps)
    if bad >= experiment.train.max_bad_steps:
        raise UserError(
            f"stopped at step {step}: the last {bad} steps had a non-finite gradient or update and were skipped; "
            f"{last(checkpoints)}"
        )


def last(checkpoints: Checkpoints) -> str:
    """What is left of a run that stops."""
    steps = checkpoints.steps()
    return f"the last good checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"


def show_samples(experiment: Experiment, data: PreparedData, params: Params, log: Log) -> None:
    """Greedy translations of the first validation sentences."""
    greedy = replace(experiment, decode=replace(experiment.decode, beam=1, batch_size=SAMPLES))
    sources, references = data.text("dev", "source")[:SAMPLES], data.text("dev", "target")[:SAMPLES]
    outputs = Translator(params, greedy, data.tokenizer, log=lambda _: None).translate(sources)
    for source, output, reference in zip(sources, outputs, references, strict=True):
        log(f"  source     {source}\n  output     {output}\n  reference  {reference}")


def provenance(experiment: Experiment, data: PreparedData, step: int, dev_loss: float, meter: Meter) -> dict[str, Any]:
    """What a checkpoint says about itself: enough to load it without anything else, and for the record."""
    return {
        "experiment": asdict(experiment),
        "vocabulary": data.tokenizer.sha256,
        "data": {key: data.manifest[key] for key in ("corpus", "hash", "sources", "splits")},
        "commit": commit(),
        "step": step,
        "dev_loss": dev_loss,
        "seconds": meter.seconds(),
        "target_tokens": meter.target_tokens,
    }


def check_room(run: WorkDir, state: TrainState, keep: int) -> None:
    """UserError if the checkpoints that will be kept do not fit on the disk."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    # The kept ones, the best one, and one that is being written.
    there = len(list(run.checkpoints.glob("[0-9]*")))
    needed, free = size * max(1, keep + 2 - there), shutil.disk_usage(run.path).free
    if needed > free:
        raise UserError(
            f"no room in {run.path}: {keep} checkpoints need {needed / 1e6:,.0f} MB, free are {free / 1e6:,.0f} MB"
        )
