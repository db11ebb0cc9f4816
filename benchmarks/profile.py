"""Profiles a compiled program by operation."""

import collections
import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks.timing import Program

STEPS = 5
TOP = 25


def profile(program: Program, hlo: str) -> list[dict[str, Any]]:
    """Returns the most expensive operations, with milliseconds per run, shape of the result and origin in the source.

    Args:
        hlo: HLO text of the compiled program, from which the origins are read.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                program()
        [trace] = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    total: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
            total[event["args"]["hlo_op"]] += event["dur"]
    everything = sum(total.values())
    found = []
    for name, microseconds in total.most_common(TOP):
        line = re.search(rf"(?<![\w.-])%?{re.escape(name)} = (\S+).*", hlo)
        origin = re.search(r'op_name="([^"]*)"', line[0]) if line else None
        found.append(
            {
                "operation": name,
                "milliseconds": round(microseconds / 1e3 / STEPS, 3),
                "part": round(microseconds / everything, 4),
                "result": line[1] if line else None,
                "from": origin[1] if origin else None,
            }
        )
    return found
