"""Load test of `serve`: 1, 8 and 64 clients at once, each with one sentence after another, and no think time.

    python -m benchmarks.serving RUN --sentences FILE [--count 512]

The service is a process of its own; the clients are threads of this one. For comparison, the same sentences are
translated without a service: one by one, as a single client has them, and all in one call. All programs are compiled
before anything is timed. Every answer is compared with the translation of that call.
"""

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import alone, record
from data.text import is_blank_line
from experiments.translator import Translator

CLIENTS = (1, 8, 64)


class Reply(NamedTuple):
    """What became of one request."""

    text: str | None
    """The translation; None if the request was lost."""
    seconds: float


@contextmanager
def service(run: str, longest: int) -> Iterator[str]:
    """Starts the service of a run, and yields host:port once it is ready."""
    command = [sys.executable, "-m", "experiments", "serve", run, "--port", "0", "--ready-tokens", str(longest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ready = re.search(r"http://(\S+)", process.stdout.readline())
        if not ready:
            raise SystemExit("the service did not start")
        try:
            yield ready[1]
        finally:
            process.send_signal(signal.SIGTERM)
        if code := process.wait():
            raise SystemExit(f"the service ended with code {code}")


def client(address: str, sentences: Sequence[str]) -> list[Reply]:
    """Sends one sentence after another over one connection."""
    connection = http.client.HTTPConnection(address, timeout=600)
    replies = []
    for sentence in sentences:
        start = time.perf_counter()
        text = None
        try:
            body = json.dumps({"text": sentence})
            connection.request("POST", "/translate", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status == 200:
                text = answer["results"][0]["translations"][0]["text"]
        except (OSError, http.client.HTTPException):
            connection.close()
        replies.append(Reply(text, time.perf_counter() - start))
    connection.close()
    return replies


def load(address: str, sentences: Sequence[str], clients: int, expected: Sequence[str]) -> dict[str, Any]:
    """Shares the sentences out among clients that send at the same time, and returns what was measured."""
    shares = [range(i, len(sentences), clients) for i in range(clients)]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda share: client(address, [sentences[i] for i in share]), shares))
    took = time.perf_counter() - start
    replies = [pair for share, each in zip(shares, found, strict=True) for pair in zip(share, each, strict=True)]
    return {
        "lost": sum(reply.text is None for _, reply in replies),
        "different": sum(reply.text not in (None, expected[i]) for i, reply in replies),
        **speed(len(sentences), took, [reply.seconds for _, reply in replies]),
    }


def speed(count: int, took: float, latencies: Sequence[float]) -> dict[str, float]:
    """Sentences per second, and the median and the 95th percentile of the seconds that one takes."""
    p50, p95 = np.percentile(latencies, [50, 95]).tolist()
    return {"sentences_per_second": count / took, "p50_seconds": p50, "p95_seconds": p95}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("run", help="work directory of a run, or its name under runs/")
    parser.add_argument("--sentences", type=Path, required=True, help="source text, one sentence per line")
    parser.add_argument("--count", type=int, default=512, help="number of sentences: the first of the file")
    options = parser.parse_args()
    lines = options.sentences.read_text(encoding="utf-8").split("\n")
    sentences = [line for line in lines if not is_blank_line(line)][: options.count]
    translator = Translator.load(options.run, log=lambda line: None)
    longest = max(map(len, translator.encode(sentences)))
    measured: dict[str, dict[str, Any]] = {}
    expected = translator.translate(sentences)
    for sentence in sentences:  # compiles
        translator.translate([sentence])
    with alone():
        start = time.perf_counter()
        translator.translate(sentences)
        measured["translate"] = {"sentences_per_second": len(sentences) / (time.perf_counter() - start)}
        latencies = []
        for sentence in sentences:
            start = time.perf_counter()
            translator.translate([sentence])
            latencies.append(time.perf_counter() - start)
        measured["translate, one by one"] = speed(len(sentences), sum(latencies), latencies)
    with service(options.run, longest) as address:
        load(address, sentences[:64], 64, expected)
        with alone():
            for clients in CLIENTS:
                measured[f"serve, {clients} clients" if clients > 1 else "serve, 1 client"] = load(
                    address, sentences, clients, expected
                )
    experiment = translator.experiment
    facts = {"sentences": len(sentences), "longest": longest, "steps": translator.steps}
    settings = {"model": asdict(experiment.model), "decode": asdict(experiment.decode)}
    record(f"serving-{experiment.name}", facts | settings | {"measured": measured})


if __name__ == "__main__":
    main()
