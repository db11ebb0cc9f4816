"""Estimates the time of a compiled program on a target: for each kernel, that of its bytes or of its operations.

A kernel that moves b bytes and computes f operations in matrix products takes max(b / bandwidth, f / rate) plus an
overhead, and kernels run one after the other: the roofline model. For a TPU, whose compiler knows how well a matrix
product fills the matrix units, its estimate of a kernel's cycles takes the place of f / rate and of the overhead.
`by_part` adds up the times by the parts of the paper, such as attention.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from experiments.planning.accelerators import Accelerator
from experiments.planning.hlo import Frame, Kernel

PARTS = (
    "embedding", "self-attention", "cross-attention", "feed-forward", "residual + norm", "loss", "optimizer",
    "data movement",
)  # fmt: skip

OWN_SHARE = 1 / 3
"""Of the rate of a large matrix product, what the kernels of transformer/kernels are assumed to reach with their small
blocks. Not measured."""

_RULES = (
    (r"transformer/loss\.py:", "loss"),
    (r"transformer/positions\.py:|Transformer\.(embed|position_vectors)|shift_right", "embedding"),
    (r"attend_memory|Transformer\.decode$|:Transformer\.start_cache$", "cross-attention"),
    (r"attend_self|EncoderLayer\.__call__\.<locals>\.attend|segments\.py:|_mask$", "self-attention"),
    (r"FeedForward\.", "feed-forward"),
    (r"Residual\.|Transformer\.(encode|logits|step)$", "residual + norm"),
    (r"transformer/optimizer\.py:|train_step|/optax/", "optimizer"),
)
"""Patterns for the "file:function" of a stack frame, innermost frame first, and the part that they indicate."""


class Cost(NamedTuple):
    """The total cost of several kernels."""

    kernels: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def plus(self, kernel: Kernel, target: Accelerator) -> "Cost":
        """Adds a kernel."""
        return Cost(
            self.kernels + kernel.times,
            self.bytes + kernel.bytes,
            self.flops + kernel.flops,
            self.seconds + seconds_of(kernel, target),
        )


def seconds_of(kernel: Kernel, target: Accelerator) -> float:
    """Returns the time of all executions of a kernel."""
    if target.clock and (kernel.cycles or kernel.is_aside):
        return max(kernel.bytes / target.bandwidth, kernel.cycles / target.clock)
    rate = target.matmul_rate * (OWN_SHARE if kernel.is_own else 1)
    return max(kernel.bytes / target.bandwidth, kernel.flops / rate) + kernel.times * target.overhead


def cost_of(kernels: Iterable[Kernel], target: Accelerator) -> Cost:
    """Returns the total cost of kernels that run one after the other."""
    total = Cost()
    for kernel in kernels:
        total = total.plus(kernel, target)
    return total


def by_part(kernels: Iterable[Kernel], target: Accelerator) -> dict[tuple[str, str], Cost]:
    """Returns the cost by part of the paper and direction ("forward", "backward"), in the order of PARTS."""
    found: dict[tuple[str, str], Cost] = {}
    for kernel in kernels:
        key = part_of(kernel), direction_of(kernel)
        found[key] = found.get(key, Cost()).plus(kernel, target)
    return dict(sorted(found.items(), key=lambda item: (PARTS.index(item[0][0]), item[0][1] == "backward")))


def part_of(kernel: Kernel) -> str:
    """Returns the part of the paper that a kernel belongs to; "data movement" if the compiler added it."""
    for frame in kernel.frames:
        place = f"{frame.file}:{frame.function}"
        for pattern, part in _RULES:
            if re.search(pattern, place):
                return part
    return "data movement"


def direction_of(kernel: Kernel) -> str:
    """Returns "backward" if a kernel belongs to the backward pass, by the name that JAX gave it, else "forward"."""
    return "backward" if "transpose(" in kernel.op_name else "forward"


def line_of(kernel: Kernel) -> str:
    """Returns the innermost line of this project that produced a kernel, such as "transformer/attention.py:95"."""
    own = next((frame for frame in kernel.frames if is_own(frame)), None)
    return f"{'/'.join(own.file.split('/')[-2:])}:{own.line}" if own else "the compiler"


def is_own(frame: Frame) -> bool:
    """Returns whether a stack frame is in this project's package transformer."""
    return "/transformer/" in frame.file and "site-packages" not in frame.file
