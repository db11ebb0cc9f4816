"""Common accelerators: peak performance and memory by their vendors, and the price per hour.

Prices are on-demand prices of specialised clouds in May 2026: the middle of the range given by
mercatus-ai.com/blog/cloud-gpu-pricing. They differ by a factor of two between providers, and are falling.
"""

from typing import NamedTuple


class Accelerator(NamedTuple):
    """A machine with one or several devices."""

    name: str
    devices: int
    teraflops: float
    """Peak of one device for dense matrix products, in bfloat16 if the device supports it."""
    gigabytes: float
    """Memory of one device."""
    dollars: float | None
    """Price of one device per hour; None if no price could be found."""
    source: str
    """Source of the peak performance."""
    reached: float = 0.4
    """Fraction of the peak that whole training steps reach: MLPerf 0.7's big Transformer had 41% on 8 x A100."""

    def hours(self, flops: float) -> float:
        """Returns the hours needed for this many floating-point operations."""
        return flops / (self.devices * self.teraflops * 1e12 * self.reached) / 3600


ACCELERATORS = (
    # By section 5.2: 0.4 s for a step of base is 62,500 tokens/s of 381 MFLOP each, on eight devices.
    Accelerator("8 x P100, as base had", 8, 10.6, 16, None, "nvidia.com, P100 datasheet (float32)", 0.28),
    Accelerator("1 x A100 80 GB", 1, 312, 80, 1.30, "nvidia.com, A100 datasheet"),
    Accelerator("8 x A100 80 GB", 8, 312, 80, 1.30, "nvidia.com, A100 datasheet"),
    Accelerator("1 x H100 SXM", 1, 989, 80, 3.00, "nvidia.com, H100 datasheet"),
    Accelerator("8 x H100 SXM", 8, 989, 80, 3.00, "nvidia.com, H100 datasheet"),
    Accelerator("1 x H200 SXM", 1, 989, 141, 4.00, "nvidia.com, H200 datasheet"),
    Accelerator("8 x TPU v5e", 8, 197, 16, None, "docs.cloud.google.com/tpu/docs/v5e"),
)
