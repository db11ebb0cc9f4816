"""Training speed, compared with PyTorch at the same model size and number of token slots, in one process.

    python -m benchmarks.train SIZE [--tokens 25000] [--rounds 20] [--alone] [--no-kernels] [--profile]

Ours is the training step of `train` on a batch of packed sentences with WMT-like lengths. The peer is
torch.nn.Transformer (attention by scaled_dot_product_attention, one matmul for query, key and value) with tied
embeddings, fused Adam, label smoothing, and dropout at the same positions. It uses autocast to bfloat16 if ours is in
bfloat16; this keeps its residual stream in float32. It runs in eager mode and with torch.compile. It gets the same
sentences, batched by length, padded and masked, as is usual in PyTorch. It also gets a dense batch, in which every slot
is a token and the only mask is the causal one: an upper bound that real text does not reach.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.news import batches_of, news
from benchmarks.profile import profile
from benchmarks.timing import Program, alone, compiling, matmul_rate, record, report_skipped, seconds_each
from data.batching import Batch, Shape
from data.tokens import Split
from experiments import find
from experiments.presets.paper import BIG
from experiments.presets.wmt14 import EN_DE_BASE
from experiments.training.memory import compile_step, memory_of
from transformer.config import PAD, UNK, Experiment, ModelConfig
from transformer.parallel import init_on, make_mesh, padded_rows, put_rows
from transformer.train import step_flops

SIZES = {
    "base": EN_DE_BASE,
    "big": replace(EN_DE_BASE, model=replace(BIG, dtype="bfloat16")),
    "small": find("small"),
    "tiny": find("multi30k-tiny"),
}
PAIRS = 200_000
FEW = 5  # rounds, before the last of the peers is there


def our_step(experiment: Experiment, shape: Shape, batch: Batch) -> tuple[Program, Any]:
    """Returns our training step and its compiled program."""
    mesh = make_mesh(experiment.mesh, experiment.model)
    key, state = jax.random.key(0), init_on(mesh, experiment)
    step = compile_step(experiment, shape, mesh)
    rows = padded_rows(shape.rows, mesh, experiment.train.accumulate)
    on_device = put_rows(batch, mesh, rows)

    def run() -> None:
        nonlocal state
        state, _ = step(state, on_device, key)
        jax.block_until_ready(state)

    return run, step


def peer_step(experiment: Experiment, batches: list[Batch], compiled: bool) -> Program:
    """A program that runs a PyTorch training step on each of the batches, on the same device."""
    import torch
    from torch.nn import functional

    config, device = experiment.model, "cuda" if jax.default_backend() == "gpu" else "cpu"
    sides = [
        [torch.tensor(batch[side].astype(np.int64)).to(device) for side in ("source", "target")] for batch in batches
    ]
    model = peer_model(config, max(side.shape[1] for both in sides for side in both)).to(device).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
    smoothing = experiment.train.label_smoothing

    def loss(source: Any, target: Any, padded: bool) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            logits = model(source, target, padded).flatten(0, 1)
            return functional.cross_entropy(logits, target.flatten(), label_smoothing=smoothing, ignore_index=PAD)

    loss = torch.compile(loss) if compiled else loss
    padded = any((batch[side] == PAD).any() for batch in batches for side in batch)

    def run() -> None:
        for source, target in sides:
            adam.zero_grad()
            loss(source, target, padded).backward()
            adam.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def peer_model(config: ModelConfig, length: int) -> Any:
    """The paper's model built from PyTorch modules."""
    import torch

    class Peer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            D = config.d_model
            self.embedding = torch.nn.Parameter(torch.randn(config.vocab_size, D) * D**-0.5)
            self.register_buffer("positions", torch.randn(length, D))
            self.dropout = torch.nn.Dropout(config.dropout)
            self.stacks = torch.nn.Transformer(
                D, config.num_heads, config.num_layers, config.num_layers, config.d_ff, config.dropout,
                norm_first=config.norm == "pre", batch_first=True,
            )  # fmt: skip
            if config.norm == "post":  # the paper has no final norm after a stack
                self.stacks.encoder.norm = self.stacks.decoder.norm = None
            for layer in [*self.stacks.encoder.layers, *self.stacks.decoder.layers]:
                layer.dropout.p = layer.self_attn.dropout = 0.0  # PyTorch has dropout here, the paper does not
                if hasattr(layer, "multihead_attn"):
                    layer.multihead_attn.dropout = 0.0

        def embed(self, ids: torch.Tensor) -> torch.Tensor:
            x = torch.nn.functional.embedding(ids, self.embedding) * config.d_model**0.5
            return self.dropout(x + self.positions[: ids.shape[1]])

        def forward(self, source: torch.Tensor, target: torch.Tensor, padded: bool) -> torch.Tensor:
            mask = self.stacks.generate_square_subsequent_mask(target.shape[1], device=target.device)
            nothing = (
                torch.zeros_like(source, dtype=mask.dtype).masked_fill(source == PAD, -torch.inf) if padded else None
            )
            x = self.stacks(
                self.embed(source), self.embed(target), tgt_mask=mask, tgt_is_causal=True,
                src_key_padding_mask=nothing, memory_key_padding_mask=nothing,
            )  # fmt: skip
            return torch.nn.functional.linear(x, self.embedding)

    return Peer()


def by_length(split: Split, tokens: int) -> list[Batch]:
    """Three batches of sentences of similar length, with at most `tokens` slots per side: short, medium, long."""
    longest = np.maximum(split.lengths("source"), split.lengths("target"))
    order = np.argsort(longest, kind="stable")
    starts = [0]
    for n, i in enumerate(order):
        if (n + 1 - starts[-1]) * longest[i] > tokens:
            starts.append(n)
    found = []
    for part in (0.1, 0.5, 0.9):
        first = int(part * (len(starts) - 1))
        rows = order[starts[first] : starts[first + 1]]
        widths = (int(split.lengths(side)[rows].max()) for side in ("source", "target"))
        source, target = split.batch(rows, np.arange(len(rows)), len(rows), *widths)
        found.append({"source": source, "target": target})
    return found


def peers(experiment: Experiment, split: Split, shape: Shape) -> dict[str, tuple[Callable[[], Program], list[Batch]]]:
    """PyTorch's steps, to be made one after the other, with their batches. The slowest to compile is the last."""
    chance = np.random.default_rng(0)
    dense: Batch = {
        "source": chance.integers(UNK + 1, experiment.model.source_rows, (shape.rows, shape.source)),
        "target": chance.integers(UNK + 1, experiment.model.vocab_size, (shape.rows, shape.target)),
    }
    batches = {"by length": by_length(split, shape.rows * max(shape.source, shape.target)), "dense": [dense]}
    return {
        f"pytorch, {kind}{', torch.compile' * compiled}": (
            partial(peer_step, experiment, batches[kind], compiled),
            batches[kind],
        )
        for kind, compiled in (("by length", False), ("dense", False), ("dense", True), ("by length", True))
    }


def peer_memory(start: bool = False) -> int | None:
    """Peak GPU memory of PyTorch in bytes since the last call with `start`, which resets it. None without a GPU."""
    if jax.default_backend() != "gpu":
        return None
    import torch

    if start:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()


def peer_settings(is_there: bool) -> dict[str, Any]:
    """Versions and settings of PyTorch, if it took part."""
    if not is_there:
        return {}
    import torch

    return {"torch": torch.__version__, "torch threads": torch.get_num_threads(), "torch Adam": "fused"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train")
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--tokens", type=int, help="token slots per batch on the larger side (default: the preset's)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--alone", action="store_true", help="do not run the peer")
    parser.add_argument("--no-kernels", action="store_true", help="ours without fused GPU kernels")
    parser.add_argument("--profile", action="store_true", help="profile our step by operation")
    options = parser.parse_args()

    experiment = SIZES[options.size]
    experiment = replace(
        experiment,
        model=replace(experiment.model, kernels=not options.no_kernels),
        data=replace(experiment.data, batch_tokens=options.tokens or experiment.data.batch_tokens),
    )
    split = news(PAIRS, experiment.data)
    batches = batches_of(split, experiment.data)
    shape, batch = batches.plan.shape, batches[0]
    with compiling():
        ours, compiled = our_step(experiment, shape, batch)
        ours()
    with alone():
        rate = matmul_rate(experiment.model.dtype)
    stats = jax.devices()[0].memory_stats() or {}
    programs = {"ours": (ours, [batch])}
    memory = {"ours": stats.get("peak_bytes_in_use", memory_of(compiled))}
    facts = {
        "size": options.size,
        "model": asdict(experiment.model),
        "batch": shape._asdict(),
        "operations_per_step": step_flops(experiment, *shape),
        "matmul_rate": rate,
        "memory": memory,
    }
    name = f"train-{options.size}{'-plain' * options.no_kernels}{'-profile' * options.profile}"
    left = {} if options.alone else peers(experiment, split, shape)
    while True:
        # What is known so far is written and printed before the next peer compiles, which may take minutes.
        facts |= speeds(programs, options.rounds if not left else min(options.rounds, FEW), facts)
        facts["settings"] = {"rounds": options.rounds, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
        facts["settings"] |= peer_settings(len(programs) > 1)
        if options.profile and "profile" not in facts:
            with alone():
                facts["profile"] = profile(ours, compiled.as_text())
        record(name, facts, quiet=bool(left))
        for program, tokens in facts["real_target_tokens_per_second"].items():
            milliseconds = 1e3 * facts["seconds_per_step"][program]
            print(f"{options.size}: {program}: {milliseconds:.1f} ms, {tokens:,.0f} real target tokens/s", flush=True)
        while left:
            peer, (make, its_batches) = next(iter(left.items()))
            del left[peer]
            try:
                before = peer_memory(start=True)
                with compiling():
                    step = make()
                    step()
                programs[peer], after = (step, its_batches), peer_memory()
                memory[peer] = None if after is None or before is None else after - before
                break
            except Exception as error:
                report_skipped(peer, error)
        else:
            return


def speeds(programs: dict[str, tuple[Program, list[Batch]]], rounds: int, known: dict[str, Any]) -> dict[str, Any]:
    """Times all programs, taking turns."""
    with alone():
        times = seconds_each({name: program for name, (program, _) in programs.items()}, rounds)
    seconds = {name: median(times[name]) for name in programs}
    tokens = {name: sum(np.count_nonzero(b["target"]) for b in steps) for name, (_, steps) in programs.items()}
    slots = {name: sum(b["target"].size for b in steps) for name, (_, steps) in programs.items()}
    flops, rate = known["operations_per_step"], known["matmul_rate"]
    return {
        "fill": {name: tokens[name] / slots[name] for name in programs},
        "seconds_per_step": {name: seconds[name] / len(steps) for name, (_, steps) in programs.items()},
        "real_target_tokens_per_second": {name: tokens[name] / seconds[name] for name in programs},
        "part_of_matmul_rate": {
            # Only if the batch has as many slots as ours.
            name: flops / seconds[name] / rate
            for name in programs
            if slots[name] == slots["ours"]
        },
    }


if __name__ == "__main__":
    main()
