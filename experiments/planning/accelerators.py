"""Accelerators: what XLA needs to know to compile for each, the rates that they reach, and their price per hour.

`measured` says which of the rates were measured, and how. The others are the peaks in the data sheets times the
fraction that the H100 reached of its own: 90% of the bandwidth, 61% of the peak of dense bfloat16 matmuls.

Prices are on-demand prices of specialised clouds in May 2026: the middle of the range given by
mercatus-ai.com/blog/cloud-gpu-pricing. They differ by a factor of two between providers, and are falling.
"""

import re
from typing import NamedTuple

from transformer.config import UserError


class Accelerator(NamedTuple):
    """One device."""

    name: str
    """As in `--target`."""
    label: str
    platform: str
    """XLA's name of the platform: "cuda" or "tpu"."""
    description: str
    """For a GPU, the fields of XLA's GpuDeviceInfoProto; for a TPU, the name of its topologies."""
    memory: float
    """Memory of a device, in bytes."""
    bandwidth: float
    """Bytes per second, read and written, of a large copy."""
    peak: float
    """Peak of dense bfloat16 matmuls by the data sheet, in operations per second."""
    matmul_rate: float
    """bfloat16 operations per second of a large matrix product."""
    overhead: float
    """Seconds per kernel in addition to its bytes and operations: launch, ramp-up and tail."""
    network: float
    """Bytes per second that a device sends in a ring of the devices of a machine or slice."""
    dollars: float | None
    """Price of one device for one hour, on demand; None if no price could be found."""
    shares: dict[int, float]
    """Fraction of the peak that a training step of base reaches on so many, as `benchmarks.roofline base` predicts it.
    The batch is the same on all of them together: on eight, each has so little to do that it reaches less."""
    measured: str
    source: str
    """Source of the peaks."""
    clock: float | None = None
    """Cycles per second, for a TPU, whose compiler estimates the cycles of each kernel."""

    @property
    def most(self) -> int:
        """Devices of the largest machine or slice. A network between machines is not part of any prediction."""
        return 8 if self.platform == "cuda" else 256

    @property
    def usable(self) -> float:
        """Bytes that JAX lets a program use: by default three quarters of a GPU's memory."""
        return self.memory * (0.75 if self.platform == "cuda" else 1.0)


_HOPPER = (
    "threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472 "
    "threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 "
    "block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800 "
    "clock_rate_ghz: 1.98 device_memory_size: {memory} shared_memory_per_block_optin: 232448 "
    "cuda_compute_capability {{ major: 9 minor: 0 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536"
)
_AMPERE = (
    "threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 167936 "
    "threads_per_core_limit: 2048 core_count: 108 fpus_per_core: 64 block_dim_limit_x: 2147483647 "
    "block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 2039000000000 l2_cache_size: 41943040 "
    "clock_rate_ghz: 1.41 device_memory_size: 85899345920 shared_memory_per_block_optin: 166912 "
    "cuda_compute_capability { major: 8 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536"
)

ACCELERATORS = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator(
            "h100", "NVIDIA H100 SXM 80 GB", "cuda", _HOPPER.format(bandwidth=3352320000000, memory=84942979072),
            memory=84.9e9, bandwidth=3.0e12, peak=989e12, matmul_rate=606e12, overhead=4.2e-6, network=450e9,
            dollars=3.00, shares={1: 0.31, 8: 0.12},
            measured="bandwidth and matmul rate on one; overhead fitted to steps of base (57.1 ms) and big (116.2 ms), "
            "network by the datasheet",
            source="nvidia.com, H100 datasheet",
        ),
        Accelerator(
            "h200", "NVIDIA H200 SXM 141 GB", "cuda", _HOPPER.format(bandwidth=4800000000000, memory=150754820096),
            memory=150.7e9, bandwidth=4.3e12, peak=989e12, matmul_rate=606e12, overhead=4.2e-6, network=450e9,
            dollars=4.00, shares={1: 0.33},
            measured="nothing: bandwidth by the datasheet and the H100's share of its own, the rest as an H100",
            source="nvidia.com, H200 datasheet",
        ),
        Accelerator(
            "a100", "NVIDIA A100 SXM 80 GB", "cuda", _AMPERE,
            memory=85.9e9, bandwidth=1.83e12, peak=312e12, matmul_rate=191e12, overhead=4.2e-6, network=300e9,
            dollars=1.30, shares={1: 0.40, 8: 0.22},
            measured="nothing: the datasheet's peaks, times the H100's share of its own",
            source="nvidia.com, A100 80 GB datasheet",
        ),
        Accelerator(
            "v5e", "TPU v5e", "tpu", "v5e",
            memory=16e9, bandwidth=0.73e12, peak=197e12, matmul_rate=120e12, overhead=1e-6, network=100e9,
            dollars=None, shares={8: 0.20},
            measured="nothing: the compiler's estimate of the cycles, the H100's share of its own bandwidth, and two "
            "of the four links of 50 GB/s, as of a ring in a slice that is no torus",
            source="docs.cloud.google.com/tpu/docs/v5e", clock=1.5e9,
        ),
    )
}  # fmt: skip


class Machine(NamedTuple):
    """One or several devices of a kind, for an estimate from their peak alone."""

    name: str
    devices: int
    peak: float
    """Of one device, in operations per second."""
    dollars: float | None
    """Price of one device per hour, if it is known."""
    reached: float
    """Fraction of the peak that whole training steps reach."""

    def hours(self, flops: float) -> float:
        """Returns the hours needed for this many floating-point operations."""
        return flops / (self.devices * self.peak * self.reached) / 3600


# The paper's machine, with its float32 peak by nvidia.com, P100 datasheet. By section 5.2, a step of base takes 0.4 s,
# which is 62,500 tokens/s of 381 MFLOP each, on eight devices.
PAPER = Machine("8 x P100, as base had", 8, 10.6e12, None, 0.28)


def find_target(name: str) -> tuple[Accelerator, int]:
    """Returns the device and the number of devices that "h100", "8xh100" or "v5e-8" stand for.

    UserError lists the known ones.
    """
    found = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*?)(?:-(\d+))?", name.lower())
    if found is None or found[2] not in ACCELERATORS or (found[1] and found[3]):
        raise UserError(f"unknown target {name!r}; there are: {', '.join(ACCELERATORS)}, and 8xh100, v5e-8 for several")
    count = int(found[1] or found[3] or 1)
    accelerator = ACCELERATORS[found[2]]
    if not 1 <= count <= accelerator.most:
        raise UserError(
            f"a target is one machine or slice, of 1 to {accelerator.most} devices of the kind {accelerator.name}: "
            f"there is none of {count}"
        )
    return accelerator, count


MACHINES = (
    PAPER,
    *(
        Machine(f"{count} x {accelerator.label}", count, accelerator.peak, accelerator.dollars, share)
        for accelerator in ACCELERATORS.values()
        for count, share in accelerator.shares.items()
    ),
)
"""The machines for which `plan` estimates the hours."""
