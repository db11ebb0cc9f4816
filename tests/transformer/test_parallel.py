"""Tests of training on many devices: eight that XLA emulates on one CPU."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from tests.transformer.kernels_on_cpu import kernels_on_cpu
from tests.transformer.steps_on_devices import EXPERIMENT, assert_same_training, computed
from transformer.config import MeshConfig, UserError
from transformer.mesh import AXES
from transformer.parallel import (
    batch_on,
    divides,
    make_mesh,
    padded_rows,
    parallel_eval_steps,
    parallel_step,
    state_on,
)

LAYOUTS = ("8x1x1", "1x8x1", "2x2x2", "pmap", "kernels-2x2x2", "kernels-pmap")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    return computed(tmp_path_factory.mktemp("layouts"), "one", *LAYOUTS)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_devices_train_what_one_trains(results, layout):
    assert_same_training(results["one"], results[layout])


@pytest.mark.slow
def test_a_device_holds_its_part_of_the_state(results, capsys):
    whole = int(results["one"]["bytes"])
    held = {layout: int(results[layout]["bytes"]) for layout in LAYOUTS}
    with capsys.disabled():
        print(f"\nbytes of state on a device: {whole:,} on one alone; {held}")
    assert held["8x1x1"] == held["pmap"] == whole
    # Norms and some biases are replicated; all other parameters are split into eighths.
    assert whole / 8 < held["1x8x1"] < whole / 6
    # Split along two axes of size two: a quarter.
    assert whole / 4 < held["2x2x2"] < whole / 3


def test_kernels_see_only_the_rows_of_their_device():
    """The compiler cannot partition a GPU kernel: outside of shard_map every device would compute the whole batch."""
    mesh = make_mesh(MeshConfig(), EXPERIMENT.model)
    state, batch = state_on(mesh, EXPERIMENT), batch_on(mesh, 8, 16, 16)
    stacked = jax.tree.map(lambda ids: jax.ShapeDtypeStruct((3, *ids.shape), ids.dtype), batch)
    with kernels_on_cpu():
        for program in (
            parallel_eval_steps(EXPERIMENT, mesh).trace(state.params, stacked),
            parallel_step(EXPERIMENT, mesh).trace(state, batch, jax.random.key(0)),
        ):
            text = str(program.jaxpr)
            assert 0 < text.count("pallas_call[") <= text.count("shard_map[")


@pytest.mark.parametrize(
    "mesh, message",
    [
        (MeshConfig(data=3), r"3 x 1 x 1 .* needs 3 devices; there are 1"),
        (MeshConfig(fsdp=5), r"needs 5 devices; there are 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh, message):
    with pytest.raises(UserError, match=message):
        make_mesh(mesh, EXPERIMENT.model)


def test_axes_must_divide_the_model(monkeypatch):
    monkeypatch.setattr("jax.device_count", lambda: 12)
    with pytest.raises(UserError, match=r"mesh\.fsdp = 3 does not divide model\.d_model = 32"):
        make_mesh(MeshConfig(fsdp=3), EXPERIMENT.model)
    with pytest.raises(UserError, match=r"mesh\.tensor = 3 does not divide model\.num_heads = 4"):
        make_mesh(MeshConfig(tensor=3), EXPERIMENT.model)


def test_an_array_that_cannot_be_shared_is_on_every_device():
    """Such as the state of an optimizer or of a custom component, under the name of a parameter."""
    mesh = AbstractMesh((1, 2, 2), AXES)
    assert divides(mesh, P("tensor", "fsdp"), (4, 6)) and divides(mesh, P(("fsdp", "tensor")), (4,))
    assert not divides(mesh, P("tensor", "fsdp"), (4, 3)) and not divides(mesh, P("fsdp"), (1,))
    assert not divides(mesh, P("tensor", "fsdp"), (4,)) and divides(mesh, P(), (3,))


@pytest.mark.parametrize(("sizes", "parts"), [((8, 1, 1), 1), ((1, 8, 1), 8), ((1, 1, 8), 8), ((2, 2, 2), 4)])
def test_each_matrix_is_shared_by_all_devices_but_those_of_data(sizes, parts):
    model = replace(EXPERIMENT.model, num_heads=8)
    state = state_on(AbstractMesh(sizes, AXES), replace(EXPERIMENT, model=model))
    matrices = [x for x in jax.tree.leaves(state) if math.prod(x.shape) > 512]
    assert len(matrices) > 3 * 10  # the parameters, and Adam's two moments of each
    for x in matrices:
        assert math.prod(x.sharding.shard_shape(x.shape)) * parts == math.prod(x.shape), (x.shape, x.sharding.spec)


@pytest.mark.parametrize("name", ["muon", "schedule_free"])
def test_the_state_of_other_optimizers_is_shared_like_the_parameters(name):
    experiment = replace(EXPERIMENT, optimizer=replace(EXPERIMENT.optimizer, name=name))
    state = state_on(AbstractMesh((1, 2, 2), AXES), experiment)
    matrices = [x for x in jax.tree.leaves(state.opt_state) if math.prod(x.shape) > 512]
    assert len(matrices) > 10
    assert all(math.prod(x.sharding.shard_shape(x.shape)) * 4 == math.prod(x.shape) for x in matrices)


def test_all_matrices_of_other_settings_are_shared_too():
    changes = {"tied": "none", "output_bias": True, "feed_forward": "gated"}
    model = replace(EXPERIMENT.model, **changes)
    params = state_on(AbstractMesh((1, 2, 2), AXES), replace(EXPERIMENT, model=model)).params
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        parts = math.prod(x.shape) // math.prod(x.sharding.shard_shape(x.shape))
        name = jax.tree_util.keystr(path)
        if x.ndim > 1 and not name.endswith("['bias']"):
            assert parts == 4, name
        elif "output_bias" in name or "'gate'" in name:
            assert parts == 2, name


def test_explicit_steps_share_rows_only():
    with pytest.raises(UserError, match=r"mesh\.fsdp and mesh\.tensor must be 1"):
        MeshConfig(fsdp=2, step="pmap")
    assert replace(EXPERIMENT, mesh=MeshConfig(step="pmap")).mesh.data == 0


def test_rows_are_padded_to_equal_parts():
    mesh = make_mesh(MeshConfig(), EXPERIMENT.model)
    assert [padded_rows(rows, mesh, parts=2) for rows in (1, 2, 7)] == [2, 2, 8]
