"""`train NAME`: a training run, from top to bottom."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from data.batching import Batches, BatchPlan, batch_plan, stream
from data.dataset import PreparedData, prepare
from data.sampling import training_plan
from data.tokenizer import described
from experiments.evaluation.metrics import target_language
from experiments.evaluation.records import commit, hardware
from experiments.evaluation.validation import Validation
from experiments.history import minutes, perplexity
from experiments.inspection.band import band_of
from experiments.presets.deviations import head_widths
from experiments.registry import ModelOrigins, check_origins, check_parts, custom_parts, origins_of
from experiments.task import task_of
from experiments.training.memory import check_disk_space, compile_step
from experiments.training.preflight import preflight
from experiments.training.progress import Meter, Progress, View
from experiments.training.samples import greedy_translator, sample_translations, sampled
from experiments.training.start import Lineage, start_of, with_absolute_parent
from experiments.training.stopping import Best, Preempted, Preemption
from experiments.training.views import TensorBoard
from experiments.training.watchdog import Watchdog
from experiments.workdir import WorkDir
from transformer.checkpoint import Checkpoints, compile_checksums
from transformer.config import Experiment, UserError, counted
from transformer.model import count_parameters
from transformer.optimizer import learning_rate
from transformer.parallel import (
    bytes_per_device,
    compile_replicated_params,
    init_on,
    make_mesh,
    own_rows,
    padded_rows,
    put_rows,
    replicated_params,
    state_on,
    total_bytes,
)
from transformer.processes import check_same, is_first, of_first_process, on_first_process
from transformer.train import TrainState, abstract_model, step_flops
from transformer.variants.finetuning import has_frozen, trained

Log = Callable[[str], None]


def train(experiment: Experiment, workdir: Path, log: Log = print, views: Sequence[View] = ()) -> WorkDir:
    """Trains, or resumes where an earlier process of the same run stopped. Returns the work directory.

    If there are several processes (transformer/processes.py), all of them call this with the same arguments, and only
    the first one logs.

    Args:
        views: where to show the metrics, in addition to TensorBoard (experiments/training/views.py).

    Raises:
        UserError: bad data, a work directory of another run, not enough disk space, or too many non-finite steps in a
            row.
        Preempted: SIGTERM was received, and the state has been saved.
    """
    log = log if is_first() else lambda line: None
    run = WorkDir(workdir)
    check_parts(run.newest_meta().get("parts", {}), log)
    experiment, changes = run.resumed(with_absolute_parent(experiment, run))
    preflight(experiment, log)
    log(f"experiment {experiment.name}: {count_parameters(experiment.model):,} parameters, {experiment.model.dtype}")
    for line in head_widths(experiment.model):
        log(f"note: {line}")
    hashes = {setting: part.get("sha256", "") for setting, part in custom_parts(experiment).items()}
    origins = origins_of(model := abstract_model(experiment.model))
    hashes |= {path: origin.get("sha256", origin["class"]) for path, origin in origins.items()}
    code = commit()  # of the code that is running, whatever happens to the files after this
    check_same(settings=asdict(experiment), parts=hashes, workdir=str(workdir), commit=code)
    prepared = partial(prepare, experiment.data, log=log, known=run.text())
    data = on_first_process(prepared) or prepared()
    data.check()
    check_same(text=data.hash)
    train_plan = training_plan(data, experiment.data, experiment.train.seed)
    dev_plan = batch_plan(data.dev, experiment.data, None)
    mesh = make_mesh(experiment.mesh, experiment.model)
    template = state_on(mesh, experiment)
    describe(experiment, data, train_plan, mesh, template, log)
    # Check before the first step: a missing tokenizer of BLEU, say, would end the run at its first validation.
    if wrong := task_of(experiment.data).warning(*data.texts("dev"), target_language(experiment.data)):
        log(f"warning: {wrong}")

    with ExitStack() as open_now:
        if lock := on_first_process(lambda: run.claim(experiment, data.tokenizer, data.manifest)):
            open_now.enter_context(lock)
        check_origins(run.newest_meta(), model, log)
        checkpoints = Checkpoints(run.checkpoints, experiment.train.keep, log)
        open_now.callback(checkpoints.close)
        if restored := checkpoints.restore_state(template):
            state, meta = restored
            lineage = meta.get("lineage", [])
            run.check_text(meta.get("data"), data.manifest)  # again, since an older checkpoint may have been restored
        else:
            initial = partial(init_on, mesh, experiment)
            state, meta, lineage = start_of(experiment, template, initial, data.tokenizer, log)
        start, end = int(state.step), experiment.train.steps
        check_rates(experiment, meta, log)
        on_first_process(lambda: check_disk_space(run, template, experiment.train))
        log(f"resuming after step {start}" if start else f"writing to {run.path}")
        if changes:
            log(f"changed settings: {', '.join(changes)}")
        best = Best(**meta["best"]) if meta.get("best") else Best()
        if start >= end or best.is_over(experiment):
            log(f"nothing to do: {best.reason(experiment)}" if start < end else "nothing to do: all steps are trained")
            return run

        band = on_first_process(lambda: band_of(experiment))
        log("compiling")
        validate = Validation(experiment, data.dev, dev_plan, mesh)
        translator = greedy_translator(experiment, data, {})  # each validation sets the current parameters
        sources = data.text("dev", "source")[: sampled(experiment, data)]

        def compile_samples() -> None:
            translator.compile(sources, compile_replicated_params(mesh, experiment, template.params))

        # XLA compiles outside the GIL: the programs of the first validation beside the training step.
        with ThreadPoolExecutor() as threads:
            others = [
                threads.submit(validate.compile, template.params),
                threads.submit(compile_checksums, template),
                threads.submit(compile_samples),
            ]
            train_step = compile_step(experiment, train_plan.shape, mesh)
        for compiled in others:
            compiled.result()  # raises its error
        rows = padded_rows(train_plan.shape.rows, mesh, experiment.train.accumulate)
        batches = Batches(data.train, train_plan, own_rows(rows, mesh))
        meter = Meter(meta.get("seconds", 0.0), meta.get("target_tokens", 0), meta.get("unread_metrics"))
        progress = open_now.enter_context(closing(Progress(run, start, log, [TensorBoard(run, start), *views])))
        preemption = open_now.enter_context(Preemption())
        open_now.enter_context(Watchdog(meter, log))
        key = jax.random.key(experiment.train.seed)
        flops = step_flops(experiment, *train_plan.shape)
        about = partial(provenance, experiment, data, origins, code, lineage, flops)
        try:
            for step, batch in enumerate(meter.waiting(stream(batches, start, end - start)), start + 1):
                state, metrics = train_step(state, put_rows(batch, mesh, rows), key)
                meter.add(metrics, batches.target_tokens(step - 1))
                if step % experiment.train.log_every == 0 or step == end:
                    report(experiment, step, meter, progress, start)
                    stop_if_broken(experiment, step, state, checkpoints)
                    checkpoints.check()
                due = step % experiment.train.eval_every == 0 or step == end
                if due:
                    with meter.paused("validation"):
                        dev_loss = validate(state.params)
                    dev_ppl = perplexity(dev_loss)
                    progress.write(step, dev_loss=dev_loss, dev_ppl=dev_ppl)
                    log(f"step {step}: validation loss {dev_loss:.4f}, perplexity {dev_ppl:.2f} per token")
                    if not math.isfinite(dev_loss):
                        raise UserError(
                            f"stopped at step {step}: the validation loss is {dev_loss}; {last_saved(checkpoints)}"
                        )
                    with meter.paused("translation"):
                        params = replicated_params(mesh, experiment, state.params)
                        value = sample_translations(translator, data, params, step, progress) if is_first() else 0.0
                    if band and is_first() and (warning := band.warning(step, dev_loss, value)):
                        progress.log(warning)
                        band = None  # once
                    best = best.after(-of_first_process(value) if experiment.train.best == "score" else dev_loss)
                    with meter.paused("checkpoints"):
                        checkpoints.save(state, about(best, step, dev_loss, meter))
                    if best.is_over(experiment):
                        end = step
                        progress.log(f"stopping at step {step}: {best.reason(experiment)}")
                        break
                if preemption.after(step) and step < end:
                    with meter.paused("checkpoints"):
                        if not due:  # save without validating: there may not be enough time
                            checkpoints.save(state, about(best, step, None, meter))
                        checkpoints.wait()
                    raise Preempted(f"preempted: saved after step {step}; the same command resumes from there")
            report_shares(end, meter, progress)
        except KeyboardInterrupt:
            log(f"interrupted; {last_saved(checkpoints)}")
            raise
    return run


def check_rates(experiment: Experiment, meta: dict[str, Any], log: Log) -> None:
    """Warns if a resumed run has another learning rate: its schedule may depend on a setting that may change."""
    if not meta:
        return
    before = Experiment.from_dict(meta["experiment"])
    old, new = (float(learning_rate(meta["step"], settings)) for settings in (before, experiment))
    if old != new:
        log(f"warning: the learning rate jumps from {old:.3g} to {new:.3g}: the schedule depends on a changed setting")


def describe(
    experiment: Experiment, data: PreparedData, train: BatchPlan, mesh: Mesh, state: TrainState, log: Log
) -> None:
    """Logs what is about to run, before anything slow happens."""
    epochs = experiment.train.steps / len(train)
    log(f"data {data.path}: {counted(len(data.train), 'training pair')}, {described(data.tokenizer)}")
    log(
        f"{counted(experiment.train.steps, 'step')} of at most {experiment.data.batch_tokens:,} tokens a side, "
        f"{epochs:.1f} epochs; {train.fill():.1%} of the token slots are filled"
    )
    rows, source, target = train.shape
    log(f"batches of {counted(rows, 'row')} of {source} source and {target} target tokens")
    if has_frozen(experiment):
        sizes = jax.tree.map(lambda p, is_trained: p.size * is_trained, state.params, trained(experiment, state.params))
        log(f"{sum(jax.tree.leaves(sizes)):,} of the parameters are trained, the others are frozen")
    log("compilations: 1 training step, 1 validation step, 1 sample translation")
    sizes = " x ".join(f"{size} {axis}" for axis, size in mesh.shape.items())
    log(
        f"{jax.device_count()} {jax.devices()[0].device_kind} as {sizes}: {bytes_per_device(state) / 1e6:,.1f} MB of "
        f"parameters and optimizer state on each, {total_bytes(state) / 1e6:,.1f} MB in total"
    )


def report(experiment: Experiment, step: int, meter: Meter, progress: Progress, start: int) -> None:
    """Logs and records the metrics since the previous report."""
    numbers = meter.read()
    left = (experiment.train.steps - step) * meter.process_seconds() / (step - start)
    progress.write(step, seconds=meter.seconds(), target_tokens=meter.target_tokens, seconds_left=left, **numbers)
    loss = "none" if numbers["loss"] is None else f"{numbers['loss']:.4f}"
    line = (
        f"step {step}/{experiment.train.steps}  loss {loss}  "
        f"{numbers['tokens_per_second']:,.0f} tokens/s  {minutes(left)} left  "
        f"(seconds: step {numbers['step_seconds']:.3g}, data {numbers['data_seconds']:.2g}, "
        f"checkpoints {numbers['checkpoint_seconds']:.2g})"
    )
    if numbers["skipped"]:
        line += f"  {counted(round(numbers['skipped']), 'non-finite step')} skipped"
    progress.log(line)


def report_shares(step: int, meter: Meter, progress: Progress) -> None:
    """Logs and records what the time of this process was spent on, at the end of a run."""
    shares = meter.shares()
    spent = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    progress.log(f"{minutes(meter.process_seconds())} in this process: {spent}")
    progress.write(step, **{f"{name}_share": share for name, share in shares.items()})


def stop_if_broken(experiment: Experiment, step: int, state: TrainState, checkpoints: Checkpoints) -> None:
    """Raises UserError after too many non-finite steps in a row. The last good checkpoint is kept."""
    bad = int(state.bad_steps)
    if bad >= experiment.train.max_bad_steps:
        raise UserError(
            f"stopped at step {step}, after {counted(bad, 'skipped step')} with a non-finite gradient or update; "
            f"{last_saved(checkpoints)}"
        )


def last_saved(checkpoints: Checkpoints) -> str:
    """Describes the last checkpoint of a run that stops."""
    steps = checkpoints.steps()
    return f"the last good checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"


def provenance(
    experiment: Experiment,
    data: PreparedData,
    origins: ModelOrigins,
    code: str,
    lineage: Lineage,
    flops: int,
    best: Best,
    step: int,
    dev_loss: float | None,
    meter: Meter,
) -> dict[str, Any]:
    """Returns the metadata of a checkpoint: everything needed to load it on its own, and to write records."""
    return {
        "experiment": asdict(experiment),
        "parts": custom_parts(experiment),
        "made_of": origins,
        "vocabulary": data.tokenizer.sha256,
        "data": {key: data.manifest[key] for key in ("corpus", "hash", "sources", "splits")},
        "commit": code,
        "hardware": hardware(),
        "lineage": lineage,
        "step": step,
        "dev_loss": dev_loss,
        "criterion": None if dev_loss is None else best.newest,
        "best": best._asdict(),
        "seconds": meter.seconds(),
        "target_tokens": meter.target_tokens,
        "flops": step * flops,
        "step_seconds": meter.step_seconds(),
        "unread_metrics": meter.unread(),
    }
