"""Twenty training steps on as many devices as XLA_FLAGS makes: `python steps_on_devices.py OUT LAYOUT ...`.

A layout is "one" (the plain step on one device) or data x fsdp x tensor, as in 2x2x2, or pmap; with "kernels-" before
it, the step uses the GPU kernels, interpreted, and with a name of VARIANTS, as in sparse-2x2x2, it is that of another
model. OUT/<layout>.npz holds the parameters, the losses (the last one is of validation) and the bytes of state on a
device. `computed` runs this in a process with eight devices, and `assert_same_training` compares two layouts.
"""

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from tests.transformer.kernels_on_cpu import kernels_on_cpu
from transformer.config import (
    EOS,
    PAD,
    UNK,
    DataConfig,
    Experiment,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from transformer.parallel import (
    bytes_per_device,
    init_on,
    make_mesh,
    padded_rows,
    parallel_eval_steps,
    parallel_step,
    put_rows,
    total_bytes,
)
from transformer.train import init_state, make_eval_steps, make_train_step

STEPS, ROWS, LENGTH = 20, 14, 16

EXPERIMENT = Experiment(
    "devices",
    model=ModelConfig(vocab_size=64, num_layers=1, d_model=32, d_ff=64, num_heads=4, d_k=8, d_v=8, dropout=0.1),
    data=DataConfig(vocab_size=64),
    # Fast enough for the parameters to move by 500 times the tolerance of the test.
    optimizer=OptimizerConfig(warmup_steps=400),
    train=TrainConfig(accumulate=2),
)

VARIANTS = {
    name: replace(
        EXPERIMENT,
        model=replace(EXPERIMENT.model, **changes),
        train=replace(EXPERIMENT.train, loss="mask_predict" if name == "masked" else "cross_entropy"),
    )
    for name, changes in {
        "sparse": {"attention": "sparse", "attention_window": 4},
        "recurrent": {"architecture": "recurrent", "attention": "relative", "positions": "none"}
        | {"attention_window": 4, "attention_memory": 4},
        "masked": {"architecture": "mask-predict"},
    }.items()
}
VARIANTS |= {
    name: replace(EXPERIMENT, optimizer=replace(EXPERIMENT.optimizer, name=name, schedule="constant"))
    for name in ("muon", "schedule_free")
}


def batches() -> list[dict[str, np.ndarray]]:
    """Rows of two sentences, with empty rows at the end."""
    chance = np.random.default_rng(0)
    found = []
    for _ in range(STEPS):
        batch = {side: chance.integers(UNK + 1, 64, (ROWS, LENGTH), dtype=np.int32) for side in ("source", "target")}
        for ids in batch.values():
            ids[:, [4, -3]], ids[:, -2:] = EOS, PAD
        found.append(batch)
    return found


def layout(name: str) -> MeshConfig:
    """Returns the mesh of a layout."""
    if name == "pmap":
        return MeshConfig(step="pmap")
    data, fsdp, tensor = map(int, name.split("x"))
    return MeshConfig(data, fsdp, tensor)


def main(out: Path, names: list[str]) -> None:
    """Runs the layouts one after the other."""
    for name in names:
        with kernels_on_cpu() if name.startswith("kernels-") else nullcontext():
            run(out, name)


def run(out: Path, name: str) -> None:
    """Runs one layout."""
    *kind, place = name.split("-")
    experiment = VARIANTS[kind[0]] if kind and kind[0] in VARIANTS else EXPERIMENT
    if place == "one":
        step, state = jax.jit(make_train_step(experiment)), init_state(experiment)
        put, size = lambda batch: batch, total_bytes(state)
    else:
        experiment = replace(experiment, mesh=layout(place))
        mesh = make_mesh(experiment.mesh, experiment.model)
        step, state, rows = parallel_step(experiment, mesh), init_on(mesh, experiment), padded_rows(ROWS, mesh, 2)
        size = bytes_per_device(state)

        def put(batch):
            return put_rows(batch, mesh, rows)

    losses = []
    for batch in batches():
        state, metrics = step(state, put(batch), jax.random.key(0))
        losses.append(float(metrics.loss))
    evaluate = jax.jit(make_eval_steps(experiment)) if place == "one" else parallel_eval_steps(experiment, mesh)
    stacked = {side: np.stack([batch[side] for batch in batches()[:3]]) for side in ("source", "target")}
    losses.append(float(evaluate(state.params, put(stacked))[0].sum()))
    params = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    np.savez(out / f"{name}.npz", losses=losses, bytes=size, **params)


def computed(out: Path, *layouts: str) -> dict[str, dict[str, np.ndarray]]:
    """Returns what OUT/<layout>.npz hold after running the layouts on eight devices that XLA emulates on one CPU."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, __file__, str(out), *layouts]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "rematerialization" not in done.stderr, "the compiler replicates an array on all devices"
    return {name: dict(np.load(out / f"{name}.npz")) for name in layouts}


def assert_same_training(one: dict[str, np.ndarray], many: dict[str, np.ndarray]) -> None:
    """Asserts equal losses and parameters, and that these have moved."""
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-5)
    moved = 0.0
    for name in one:
        # A key bias adds the same number to all scores of a query, and softmax is invariant to it: its gradient is zero
        # except for rounding, which Adam, invariant to the scale of gradients, makes as large as any other update.
        # So is that of the parts of a relative position that are nearly the same at all distances.
        if name not in ("losses", "bytes") and not name.endswith(("['key']['bias']", "['distance']['kernel']")):
            np.testing.assert_allclose(many[name], one[name], atol=1e-5, rtol=0, err_msg=name)
            moved = max(moved, np.abs(many[name] - many[name].mean()).max())
    assert moved > 1e-3


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
