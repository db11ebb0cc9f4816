"""Prints the table of benchmarks/README.md from the records in results/.

python -m benchmarks.table
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.timing import RESULTS
from experiments.evaluation.records import read_record

Record = dict[str, Any]
Line = tuple[str, str, str, str]
"""Columns of the table: what was measured, our result, the peer's result, ours divided by the peer's."""


def train(record: Record) -> list[Line]:
    part = f"{record['part_of_matmul_rate']['ours']:.0%} of the peak matmul rate"
    what = f"train {record['size']}, {record['model']['dtype']}, target tokens/s"
    return compare(what, record["real_target_tokens_per_second"], f" ({part})")


def decode(record: Record) -> list[Line]:
    name = record["benchmark"].removeprefix("decode-")
    what = f"decode, {name}, beam {record['decode']['beam']}, {record['model']['dtype']}, target tokens/s"
    return compare(what, record["target_tokens_per_second"])


def compare(what: str, speed: dict[str, float], remark: str = "") -> list[Line]:
    """One line for each peer, or a single line if no peer could run."""
    ours, peers = speed["ours"], {name: theirs for name, theirs in speed.items() if name != "ours"}
    if not peers:
        return [(what, f"{ours:,.0f}{remark}", "", "")]
    return [
        (what, f"{ours:,.0f}{remark}", f"{theirs:,.0f} {peer}", f"{ours / theirs:.2f}")
        for peer, theirs in peers.items()
    ]


def read_input(record: Record) -> list[Line]:
    return [
        ("input pipeline alone, tokens/s", f"{record['tokens_per_second']:,.0f}", "", ""),
        ("fill rate (token slots that hold tokens)", f"{record['fill']:.1%}, {record['shapes']} shape", "", ""),
    ]


def startup(record: Record) -> list[Line]:
    what = f"seconds to the first step of {record['size']}, warm compilation cache"
    return [
        (
            what,
            f"{median(record['seconds_of_later_starts']):.1f}",
            f"{record['seconds_of_first_start']:.1f} with a cold cache",
            "",
        )
    ]


def serving(record: Record) -> list[Line]:
    name = record["benchmark"].removeprefix("serving-")
    lines = []
    for clients, alone in (("1 client", "translate, one by one"), ("64 clients", "translate")):
        ours, peer = record["measured"][f"serve, {clients}"], record["measured"][alone]
        what = f"serve, {name}, beam {record['decode']['beam']}, {clients}, sentences/s"
        remark = f" (p50 {ours['p50_seconds'] * 1000:.0f} ms, p95 {ours['p95_seconds'] * 1000:.0f} ms)"
        lines += compare(what, {"ours": ours["sentences_per_second"], alone: peer["sentences_per_second"]}, remark)
    return lines


KINDS: dict[str, Callable[[Record], list[Line]]] = {
    "train": train,
    "decode": decode,
    "input": read_input,
    "startup": startup,
    "serving": serving,
}


def table(folder: Path = RESULTS) -> str:
    """Returns the table in Markdown. Every line names its record and the machine."""
    lines = ["| what | ours | peer | ours / peer | machine |", "|---|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        record = read_record(path)
        kind = record.get("benchmark", "").partition("-")[0]  # that of a grammar (`pcfg.py`) has no speed
        machine = f"[{record['hardware']['device']}, {record['hardware']['cores']} cores](results/{path.name})"
        if kind in KINDS:
            lines += [f"| {' | '.join([*line, machine])} |" for line in KINDS[kind](record)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
