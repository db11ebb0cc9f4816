"""Accelerators that people train on: what their makers state, and what an hour of one costs.

Prices are what specialised clouds asked for on demand in May 2026, the middle of the range that
mercatus-ai.com/blog/cloud-gpu-pricing gives; they differ by a factor of two between sellers, and fall.
"""

from typing import NamedTuple


class Accelerator(NamedTuple):
    """One or several devices."""

    name: str
    devices: int
    teraflops: float
    """Peak of one device for dense products, bfloat16 where it has that."""
    gigabytes: float
    """Memory of one device."""
    dollars: float | None
    """Of one device for an hour; None where no price could be found."""
    source: str
    """Of the peak."""
    reached: float = 0.4
    """Part of the peak that whole training steps reach: MLPerf 0.7's big Transformer had 41% on 8 x A100."""

    def hours(self, flops: float) -> float:
        """To compute so many floating-point operations."""
        return flops / (self.devices * self.teraflops * 1e12 * self.reached) / 3600


ACCELERATORS = (
    # What section 5.2 tells: 0.4 s for a step of base are 62,500 tokens/s of 381 MFLOP each on eight.
    Accelerator("8 x P100, as base had", 8, 10.6, 16, None, "nvidia.com, P100 datasheet (float32)", 0.28),
    Accelerator("1 x A100 80 GB", 1, 312, 80, 1.30, "nvidia.com, A100 datasheet"),
    Accelerator("8 x A100 80 GB", 8, 312, 80, 1.30, "nvidia.com, A100 datasheet"),
    Accelerator("1 x H100 SXM", 1, 989, 80, 3.00, "nvidia.com, H100 datasheet"),
    Accelerator("8 x H100 SXM", 8, 989, 80, 3.00, "nvidia.com, H100 datasheet"),
    Accelerator("1 x H200 SXM", 1, 989, 141, 4.00, "nvidia.com, H200 datasheet"),
    Accelerator("8 x TPU v5e", 8, 197, 16, None, "docs.cloud.google.com/tpu/docs/v5e"),
)
