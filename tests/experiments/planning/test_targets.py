"""The training step compiles for GPUs and TPUs that are not there, with the collectives of its mesh and no others.

Needs JAX's plugins for both: `pip install --editable ".[dev,targets]"`. Without one, its tests are skipped.
"""

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest

from data.batching import Shape
from experiments import EXPERIMENTS
from experiments.planning.accelerators import find_target
from experiments.planning.cross_compile import compile_for, devices_of
from experiments.planning.hlo import Program
from experiments.planning.on_target import network_of
from experiments.training.memory import memory_of
from transformer.config import MeshConfig, UserError
from transformer.model import count_parameters

BASE = EXPERIMENTS["wmt14-en-de-base"]
SIZES = {"num_layers": 2, "d_model": 64, "d_ff": 256, "num_heads": 4, "d_k": 16, "d_v": 16, "vocab_size": 512}
EXPERIMENT = replace(BASE, model=replace(BASE.model, **SIZES), data=replace(BASE.data, vocab_size=512))
ROWS, WIDTH = 64, 32

PARAMETERS, TABLE = count_parameters(EXPERIMENT.model), 512 * 64
STATE = 3 * 4 * PARAMETERS  # with both moments of Adam
# Gradients of matmul weights are bfloat16; those of the table are float32, one of the loss and one of the lookups.
GRADIENTS = 2 * (PARAMETERS - TABLE) + 2 * 4 * TABLE

pytestmark = pytest.mark.slow


@lru_cache
def compiled(name: str, mesh: MeshConfig) -> tuple[Counter[str], int]:
    """Returns the bytes that a device sends in collectives of each kind, and its memory."""
    target, count = find_target(name)
    step = compile_for(replace(EXPERIMENT, mesh=mesh), Shape(ROWS, WIDTH, WIDTH), target, count)
    sent: Counter[str] = Counter()
    for kind, size in network_of(Program(step.as_text()).kernels(), target).sent.items():
        sent[kind.removeprefix("asynchronous ")] += size
    return sent, memory_of(step)


@pytest.fixture(params=["8xh100", "v5e-8"])
def target(request, capfd, monkeypatch):
    """A target whose compiler is installed, and which warns of nothing."""
    monkeypatch.setenv("TPU_STDERR_LOG_LEVEL", "1")  # of warnings
    try:
        devices_of(*find_target(request.param))
    except UserError as error:
        pytest.skip(str(error))
    yield request.param
    assert "rematerialization" not in capfd.readouterr().err


def test_data_parallelism_adds_up_the_gradients_once(target):
    sent, memory = compiled(target, MeshConfig(data=8))
    assert set(sent) == {"all-reduce"}
    assert sent["all-reduce"] == pytest.approx(2 * 7 / 8 * GRADIENTS, rel=0.02)
    assert STATE < memory < 4 * STATE


def test_sharded_parameters_are_gathered_and_their_gradients_scattered(target):
    sent, _ = compiled(target, MeshConfig(data=1, fsdp=8))
    # Each weight is gathered for the forward pass, in bfloat16, and at most once more for the backward pass. The table
    # is gathered in float32 for the lookup and in bfloat16 for the loss.
    weights = 2 * (PARAMETERS - TABLE)
    assert 7 / 8 * weights < sent["all-gather"] < 7 / 8 * (2 * weights + 6 * TABLE) * 1.02
    if target == "v5e-8":
        assert sent["reduce-scatter"] > 0


def test_tensor_parallelism_adds_up_the_activations_of_each_sublayer(target):
    sent, memory = compiled(target, MeshConfig(data=4, tensor=2))
    # Two sub-layers of an encoder layer and three of a decoder layer, forward and backward.
    activations = 2 * (2 + 3) * SIZES["num_layers"] * ROWS // 4 * WIDTH * SIZES["d_model"] * 2
    gradients = 2 * 3 / 4 * GRADIENTS / 2
    assert set(sent) == {"all-reduce"}
    assert sent["all-reduce"] > activations + gradients
    assert memory < compiled(target, MeshConfig(data=8))[1]


def test_a_full_rematerialization_is_seen(target, capfd, monkeypatch):
    # Sharded along both of its axes, the table is not gathered before the lookup.
    monkeypatch.setattr("transformer.model.whole_rows", lambda table: table)
    assert compiled(target, MeshConfig(data=2, fsdp=2, tensor=2))
    assert "full rematerialization" in capfd.readouterr().err
