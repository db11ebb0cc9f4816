"""Training speed beside a plain PyTorch loop: the same sizes, the same batches, one run.

    python -m benchmarks.train_cpu [small|tiny]

The peer is torch.nn.Transformer with a tied embedding, fused Adam and its own label smoothing, in float32 on
the same cores. The two take turns, so that a change in the machine's speed hits both. Medians are printed, and
recorded in benchmarks/results/.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch

from experiments.records import commit, hardware, write_record
from transformer.config import DataConfig, Experiment, ModelConfig
from transformer.train import dropout_key, init_state, make_train_step

MODELS = {
    "small": ModelConfig(vocab_size=8000, num_layers=3, d_model=256, d_ff=1024, num_heads=4, d_k=64, d_v=64),
    "tiny": ModelConfig(vocab_size=4000, num_layers=4, d_model=128, d_ff=512, num_heads=4, d_k=32, d_v=32),
}
ROWS, LENGTH, ROUNDS = 96, 24, 12


class Peer(torch.nn.Module):
    """The same model from PyTorch's own parts."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        D, layers = config.d_model, config.num_layers
        self.scale = D**0.5
        self.embedding = torch.nn.Parameter(torch.randn(config.vocab_size, D) / self.scale)
        self.register_buffer("positions", torch.randn(LENGTH, D))
        self.dropout = torch.nn.Dropout(config.dropout)
        self.stacks = torch.nn.Transformer(
            D, config.num_heads, layers, layers, config.d_ff, config.dropout, batch_first=True
        )

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        embed = lambda ids: self.dropout(self.embedding[ids] * self.scale + self.positions)  # noqa: E731
        mask = self.stacks.generate_square_subsequent_mask(LENGTH)
        x = self.stacks(embed(source), embed(target), tgt_mask=mask, tgt_is_causal=True)
        return x @ self.embedding.T


def peer_step(config: ModelConfig, source: np.ndarray, target: np.ndarray) -> Callable[[], None]:
    model = Peer(config).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
    source, target = torch.tensor(source), torch.tensor(target)

    def step() -> None:
        adam.zero_grad()
        logits = model(source, target).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, target.flatten(), label_smoothing=0.1, ignore_index=0).backward()
        adam.step()

    return step


def our_step(config: ModelConfig, source: np.ndarray, target: np.ndarray) -> Callable[[], None]:
    experiment = Experiment("bench", model=config, data=DataConfig(vocab_size=config.vocab_size))
    train_step = jax.jit(make_train_step(experiment), donate_argnums=0)
    state, key = init_state(experiment), dropout_key(0)
    batch = {"source": source.astype(np.int32), "target": target.astype(np.int32)}

    def step() -> None:
        nonlocal state
        state, _ = train_step(state, batch, key)
        jax.block_until_ready(state)

    return step


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "small"
    config = MODELS[name]
    source, target = np.random.default_rng(0).integers(4, config.vocab_size, (2, ROWS, LENGTH))
    steps = {"ours": our_step(config, source, target), "pytorch": peer_step(config, source, target)}
    times: dict[str, list[float]] = {who: [] for who in steps}
    for round_ in range(ROUNDS + 2):
        for who, step in steps.items():
            start = time.perf_counter()
            step()
            if round_ >= 2:  # the first ones compile and warm up
                times[who].append(time.perf_counter() - start)
    speed = {who: ROWS * LENGTH / statistics.median(seconds) for who, seconds in times.items()}
    record = {
        "benchmark": "train_cpu",
        "model": name,
        "rows": ROWS,
        "length": LENGTH,
        "target_tokens_per_second": speed,
        "ratio": speed["ours"] / speed["pytorch"],
        "torch": torch.__version__,
        "jax": jax.__version__,
        "torch_threads": torch.get_num_threads(),
        "hardware": hardware(),
        "commit": commit(),
    }
    print(json.dumps(record, indent=2))
    write_record(Path(__file__).parent / "results" / f"train_cpu_{name}.json", record)


if __name__ == "__main__":
    main()
