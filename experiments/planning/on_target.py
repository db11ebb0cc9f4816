"""`plan NAME --target 8xh100`: what a run takes on hardware that is not here, from compiling the real step for it.

Exact: the memory of a device and the collectives, since they are the compiler's own. An estimate: the time, by the
roofline (`experiments/planning/roofline.py`), and with it hours and cost.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import jax

from data.batching import Shape
from experiments.planning.accelerators import Accelerator, find_target
from experiments.planning.cross_compile import compile_for
from experiments.planning.hlo import COLLECTIVES, Kernel, Program
from experiments.planning.roofline import seconds_of
from experiments.training.memory import memory_of
from transformer.config import Experiment


class Network(NamedTuple):
    """The collectives of a step."""

    kinds: Counter[str]
    """How many of each: "asynchronous all-reduce" and so on."""
    sent: Counter[str]
    """Bytes that each device sends in those of each kind."""
    seconds: float
    """If nothing else ran meanwhile."""
    hidden: float
    """Seconds of these during which, by the compiler's schedule, the device computes."""

    def __str__(self) -> str:
        kinds = (f"{count} {kind} ({self.sent[kind] / 1e6:,.0f} MB)" for kind, count in self.kinds.items())
        return ", ".join(kinds) or "none"


def on_target(experiment: Experiment, shape: Shape, fill: float, name: str) -> Iterator[str]:
    """Yields lines to print.

    Args:
        shape: of the batches, on all devices together.
        fill: the fraction of the token slots that hold a token.
        name: of the target, as in `find_target`.

    Raises:
        UserError: an unknown target, a mesh that it cannot have, or no compiler for it.
    """
    target, count = find_target(name)
    yield f"target        {count} x {target.label}: compiled for it, not run on it"
    remedy = "use a smaller --data.batch-tokens, a larger --train.accumulate, or --mesh.fsdp"
    try:
        compiled = compile_for(experiment, shape, target, count)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        yield f"  IT DOES NOT FIT, says its compiler: {remedy}"
        return
    needed = memory_of(compiled)
    part = "" if target.usable == target.memory else f" that JAX uses of {target.memory / 1e9:.0f} GB"
    yield f"  memory      {needed / 1e9:.2f} GB per device, exact, of the {target.usable / 1e9:.0f} GB{part}"
    if needed > target.usable:
        yield f"  IT DOES NOT FIT: {remedy}"
        return
    kernels = Program(compiled.as_text()).kernels()
    network = network_of(kernels, target)
    step = step_seconds(kernels, network, target)
    tokens = shape.rows * shape.target * fill
    yield f"  step        {step * 1e3:.1f} ms, {tokens / step:,.0f} target tokens/s: an estimate"
    if network.kinds:
        share = network.hidden / network.seconds if network.seconds else 1.0
        yield f"  network     {network}, sent by each device in a step"
        yield (
            f"              {network.seconds * 1e3:.1f} ms at {target.network / 1e9:.0f} GB/s, "
            f"of which {share:.0%} overlap with computation"
        )
    hours = experiment.train.steps * step / 3600
    price = f", about ${hours * count * target.dollars:,.0f} at ${target.dollars:.2f} an hour" if target.dollars else ""
    yield f"  run         {hours:,.1f} hours for {experiment.train.steps:,} steps, without validation{price}"
    yield f"  measured    {target.measured}"


def step_seconds(kernels: list[Kernel], network: Network, target: Accelerator) -> float:
    """Seconds of a step: its kernels, and what they do not hide of its collectives."""
    computing = sum(seconds_of(kernel, target) for kernel in kernels if not kind_of(kernel))
    return computing + network.seconds - network.hidden


def network_of(kernels: list[Kernel], target: Accelerator) -> Network:
    """Adds up the collectives of a step, and how long the schedule has the device compute while they are under way.

    They pass through the network one after the other, in the order in which they start.
    """
    kinds: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    now = busy_until = seconds = exposed = 0.0
    awaited: dict[int, float] = {}
    """When the collectives arrive that the program waits for before the kernel at this position."""
    for position in range(len(kernels) + 1):
        wait = max(0.0, awaited.get(position, 0.0) - now)
        now, exposed = now + wait, exposed + wait
        if position == len(kernels):
            break
        kernel = kernels[position]
        if not (kind := kind_of(kernel)):
            now += seconds_of(kernel, target)
            continue
        took = kernel.network_bytes / target.network
        busy_until = max(now, busy_until) + took
        seconds += took
        if kernel.done is None:
            now, exposed = busy_until, exposed + busy_until - now
        else:
            kind = f"asynchronous {kind}"
            awaited[kernel.done] = busy_until
        kinds[kind] += kernel.times
        sent[kind] += round(kernel.network_bytes)
    return Network(kinds, sent, seconds, seconds - exposed)


def kind_of(kernel: Kernel) -> str | None:
    """Returns which collective a kernel is; None if it is none."""
    return next((name for name in COLLECTIVES if kernel.opcode.removesuffix("-start") == name), None)
