"""Training speed beside PyTorch: the same sizes, as many token slots, one run.

    python -m benchmarks.train SIZE [--tokens 25000] [--rounds 20] [--alone] [--profile]

Ours is the step of `train` on its own kind of batch, packed rows of WMT-like lengths. The peer is torch.nn.Transformer
(attention by scaled_dot_product_attention, one product for query, key and value) with a tied embedding, fused Adam,
label smoothing and dropout at the same places; bfloat16 by autocast where ours is; compiled by torch.compile where that
is faster. Its batch is dense: every slot a token and no mask but the causal one, which is the best that can happen to
it. Autocast keeps its residual stream in float32, where ours is bfloat16.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.news import batches_of, news
from benchmarks.profile import profile
from benchmarks.timing import Program, left_out, matmul_rate, record, seconds_each
from data.batching import Batch, Shape
from experiments import find
from experiments.paper import BIG
from experiments.plan import flops_per_step
from experiments.train import compile_step, memory_of
from experiments.wmt14 import EN_DE_BASE
from transformer.config import Experiment, ModelConfig
from transformer.train import init_state

SIZES = {
    "base": EN_DE_BASE,
    "big": replace(EN_DE_BASE, model=replace(BIG, dtype="bfloat16")),
    "small": find("small"),
    "tiny": find("multi30k-tiny"),
}
PAIRS = 20_000


def our_step(experiment: Experiment, shape: Shape, batch: Batch) -> tuple[Program, Any]:
    """The step and its compiled program."""
    key, state = jax.random.key(0), init_state(experiment)
    step = compile_step(experiment, shape, state)
    on_device = jax.device_put(batch)

    def run() -> None:
        nonlocal state
        state, _ = step(state, on_device, key)
        jax.block_until_ready(state)

    return run, step


def peer_step(experiment: Experiment, batch: Batch, compiled: bool) -> Program:
    """The same with PyTorch, on the same device."""
    import torch
    from torch.nn import functional

    config, device = experiment.model, "cuda" if jax.default_backend() == "gpu" else "cpu"
    model = peer_model(config, max(batch["source"].shape[1], batch["target"].shape[1])).to(device).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
    chance = np.random.default_rng(0)
    source, target = (
        torch.tensor(chance.integers(4, config.vocab_size, batch[side].shape)).to(device)
        for side in ("source", "target")
    )
    smoothing = experiment.train.label_smoothing

    def loss() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            logits = model(source, target).flatten(0, 1)
            return functional.cross_entropy(logits, target.flatten(), label_smoothing=smoothing, ignore_index=0)

    loss = torch.compile(loss) if compiled else loss

    def run() -> None:
        adam.zero_grad()
        loss().backward()
        adam.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def peer_model(config: ModelConfig, length: int) -> Any:
    """The paper's model from PyTorch's own parts."""
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
            if config.norm == "post":  # the paper has no norm after a stack
                self.stacks.encoder.norm = self.stacks.decoder.norm = None
            for layer in [*self.stacks.encoder.layers, *self.stacks.decoder.layers]:
                layer.dropout.p = layer.self_attn.dropout = 0.0  # the paper has neither of the two
                if hasattr(layer, "multihead_attn"):
                    layer.multihead_attn.dropout = 0.0

        def embed(self, ids: torch.Tensor) -> torch.Tensor:
            x = torch.nn.functional.embedding(ids, self.embedding) * config.d_model**0.5
            return self.dropout(x + self.positions[: ids.shape[1]])

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            mask = self.stacks.generate_square_subsequent_mask(target.shape[1], device=target.device)
            x = self.stacks(self.embed(source), self.embed(target), tgt_mask=mask, tgt_is_causal=True)
            return torch.nn.functional.linear(x, self.embedding)

    return Peer()


def peers(experiment: Experiment, batch: Batch) -> tuple[dict[str, Program], dict[str, int | None]]:
    """PyTorch's step as written and compiled, and its memory; what this machine cannot run is named and left out."""
    found: dict[str, Program] = {}
    memory: dict[str, int | None] = {}
    for name, compiled in (("pytorch", False), ("pytorch, torch.compile", True)):
        try:
            before = peer_memory(start=True)
            step: Callable[[], Any] = peer_step(experiment, batch, compiled)
            step()
            step()
            found[name], after = step, peer_memory()
            memory[name] = None if after is None or before is None else after - before
        except Exception as error:
            left_out(name, error)
    return found, memory


def peer_memory(start: bool = False) -> int | None:
    """Bytes that PyTorch took at most on the GPU since the last `start`; at a start, what it holds then."""
    if jax.default_backend() != "gpu":
        return None
    import torch

    if start:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()


def peer_settings(peers: dict[str, Program]) -> dict[str, Any]:
    """With what PyTorch ran."""
    if not peers:
        return {}
    import torch

    return {"torch": torch.__version__, "torch threads": torch.get_num_threads(), "torch Adam": "fused"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train")
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--tokens", type=int, help="token slots of a batch on the larger side; the preset's")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument("--profile", action="store_true", help="where the time of our step goes")
    options = parser.parse_args()

    experiment = SIZES[options.size]
    experiment = replace(
        experiment, data=replace(experiment.data, batch_tokens=options.tokens or experiment.data.batch_tokens)
    )
    batches = batches_of(news(PAIRS, experiment.data), experiment.data)
    shape, batch = batches.plan.shape, batches[0]
    ours, compiled = our_step(experiment, shape, batch)
    theirs, memory = ({}, {}) if options.alone else peers(experiment, batch)
    programs = {"ours": ours, **theirs}
    times = {name: median(seconds) for name, seconds in seconds_each(programs, options.rounds).items()}

    tokens = np.count_nonzero(batch["target"])
    flops, rate = flops_per_step(experiment.model, shape), matmul_rate(experiment.model.dtype)
    stats = jax.devices()[0].memory_stats() or {}
    facts = {
        "size": options.size,
        "model": asdict(experiment.model),
        "batch": shape._asdict(),
        "fill": {side: np.count_nonzero(batch[side]) / batch[side].size for side in batch},
        "seconds_per_step": times,
        "real_target_tokens_per_second": {
            # The peer's batch is as large and has no padding: all of its slots count.
            name: (tokens if name == "ours" else batch["target"].size) / seconds
            for name, seconds in times.items()
        },
        "operations_per_step": flops,
        "matmul_rate": rate,
        "part_of_matmul_rate": {name: flops / seconds / rate for name, seconds in times.items()},
        "memory": {"ours": stats.get("peak_bytes_in_use", memory_of(compiled)), **memory},
        "settings": {"rounds": options.rounds, "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), **peer_settings(theirs)},
    }
    if options.profile:
        facts["profile"] = profile(ours, compiled.as_text())
    record(f"train-{options.size}", facts)


if __name__ == "__main__":
    main()
