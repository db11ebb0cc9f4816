"""Throughput of the input pipeline alone: tokens per second (both sides, without padding) that it delivers.

    python -m benchmarks.input [--pairs 1000000] [--batches 400]

Requires Grain. The data are random tokens in sentences with lengths like those of WMT14, held in memory.
"""

import argparse
import time
from statistics import median

import numpy as np

from benchmarks.news import batches_of, news
from benchmarks.timing import record, seconds_each
from data.batching import stream
from experiments.presets.wmt14 import EN_DE_BASE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=400)
    options = parser.parse_args()

    config = EN_DE_BASE.data
    split = news(options.pairs, config)
    start = time.perf_counter()
    batches = batches_of(split, config)
    batches[0]
    planned = time.perf_counter() - start
    tokens, shapes = 0, set()

    def read() -> None:
        nonlocal tokens
        tokens = 0
        for batch in stream(batches, 0, options.batches):
            tokens += sum(np.count_nonzero(side) for side in batch.values())
            shapes.add(tuple(side.shape for side in batch.values()))

    seconds = median(seconds_each({"": read}, rounds=5, warm_up=1)[""])
    record(
        "input",
        {
            "pairs": options.pairs,
            "seconds_to_plan_an_epoch": planned,
            "batch": batches.plan.shape._asdict(),
            "shapes": len(shapes),
            "fill": batches.plan.fill(),
            "tokens_per_second": tokens / seconds,
        },
    )


if __name__ == "__main__":
    main()
