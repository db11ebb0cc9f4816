"""The paper's models (section 3, Table 3) and published numbers; each row of Tables 2 and 3 is a change of base.

    python -m experiments train base --data.train-src ... --data.train-tgt ... --data.dev-src ... --data.dev-tgt ...

trains the base model on your own corpus. An embedding of 40,960 rows, as the authors' code builds for a vocabulary of
37,000 pieces, gives the published parameter counts of Table 3. The exception is big: it has 218 M then, and its
published 213 M would correspond to 35,900 rows.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from transformer.config import DataConfig, Experiment, ModelConfig, TrainConfig

BASE = ModelConfig(vocab_size=40_960)
BIG = replace(BASE, d_model=1024, d_ff=4096, num_heads=16, dropout=0.3)

EXPERIMENTS = (
    Experiment("base", model=BASE, data=DataConfig(corpus="files")),
    Experiment("big", model=BIG, data=DataConfig(corpus="files"), train=TrainConfig(steps=300_000)),
    # For a first try on your own corpus: trains on a laptop, needs 10,000 pairs or more.
    Experiment(
        "small",
        model=ModelConfig(vocab_size=8000, num_layers=3, d_model=256, d_ff=1024, num_heads=4, d_k=64, d_v=64),
        data=DataConfig(corpus="files", vocab_size=8000, batch_tokens=4096),
        train=TrainConfig(steps=10_000, eval_every=500),
    ),
)

Change = Callable[[Experiment], Experiment]


class Row(NamedTuple):
    """A row of Table 3: newstest2013, perplexity per word-piece, BLEU by the paper's protocol, millions of parameters.

    `change` turns any base into this row in the paper's proportions; for the paper's base it gives the paper's sizes.
    """

    name: str
    what: str
    change: Change
    ppl: float
    bleu: float
    parameters: int | None


def model(**changes: Callable[[ModelConfig], Any]) -> Change:
    """Returns a change of model fields, each computed from the base's model."""
    return lambda base: replace(
        base, model=replace(base.model, **{name: value(base.model) for name, value in changes.items()})
    )


def heads(times: float) -> Change:
    """Row A: `times` as many heads, each narrower by the same factor, so that the cost is constant."""
    return model(
        num_heads=lambda m: int(m.num_heads * times), d_k=lambda m: int(m.d_k / times), d_v=lambda m: int(m.d_v / times)
    )


def width(times: float) -> Change:
    """Row C: d_model, with d_k and d_v in proportion."""
    return model(
        d_model=lambda m: int(m.d_model * times), d_k=lambda m: int(m.d_k * times), d_v=lambda m: int(m.d_v * times)
    )


def layers(thirds: int) -> Change:
    """Row C: this many thirds of the base's layers, but at least one."""
    return model(num_layers=lambda m: max(1, m.num_layers * thirds // 3))


def smoothing(value: float) -> Change:
    """Row D: label smoothing."""
    return lambda base: replace(base, train=replace(base.train, label_smoothing=value))


def big(base: Experiment) -> Experiment:
    """The last row: twice as wide, twice the heads, three times the steps, dropout 0.3.

    It averages 20 checkpoints where base averages 5 (section 6.1). Both write one every 10 minutes, and a step of big
    takes 2.5 times as long.
    """
    bigger = model(
        d_model=lambda m: 2 * m.d_model,
        d_ff=lambda m: 2 * m.d_ff,
        num_heads=lambda m: 2 * m.num_heads,
        dropout=lambda m: 0.3,
    )(base)
    t = bigger.train
    return replace(
        bigger, train=replace(t, steps=3 * t.steps, eval_every=max(1, t.eval_every * 2 // 5), keep=4 * t.keep)
    )


def big_french(base: Experiment) -> Experiment:
    """Big for English-French, which keeps the dropout of base (section 6.1)."""
    bigger = big(base)
    return replace(bigger, model=replace(bigger.model, dropout=base.model.dropout))


TABLE3 = (
    Row("base", "", lambda base: base, 4.92, 25.8, 65),
    Row("A-1", "1 head", lambda base: heads(1 / base.model.num_heads)(base), 5.29, 24.9, None),
    Row("A-2", "half the heads", heads(1 / 2), 5.00, 25.5, None),
    Row("A-3", "twice the heads", heads(2), 4.91, 25.8, None),
    Row("A-4", "4 times the heads", heads(4), 5.01, 25.4, None),
    Row("B-1", "d_k / 4", model(d_k=lambda m: m.d_k // 4), 5.16, 25.1, 58),
    Row("B-2", "d_k / 2", model(d_k=lambda m: m.d_k // 2), 5.01, 25.4, 60),
    Row("C-1", "1/3 of the layers", layers(1), 6.11, 23.7, 36),
    Row("C-2", "2/3 of the layers", layers(2), 5.19, 25.3, 50),
    Row("C-3", "4/3 of the layers", layers(4), 4.88, 25.5, 80),
    Row("C-4", "d_model / 2", width(1 / 2), 5.75, 24.5, 28),
    Row("C-5", "d_model x 2", width(2), 4.66, 26.0, 168),
    Row("C-6", "d_ff / 2", model(d_ff=lambda m: m.d_ff // 2), 5.12, 25.4, 53),
    Row("C-7", "d_ff x 2", model(d_ff=lambda m: m.d_ff * 2), 4.75, 26.2, 90),
    Row("D-1", "dropout 0.0", model(dropout=lambda m: 0.0), 5.77, 24.6, None),
    Row("D-2", "dropout 0.2", model(dropout=lambda m: 0.2), 4.95, 25.5, None),
    Row("D-3", "label smoothing 0.0", smoothing(0.0), 4.67, 25.3, None),
    Row("D-4", "label smoothing 0.2", smoothing(0.2), 5.47, 25.7, None),
    Row("E", "learned positions", model(positions=lambda m: "learned"), 4.92, 25.7, None),
    Row("big", "big", big, 4.33, 26.4, 213),
)


class System(NamedTuple):
    """A row of Table 2 by other authors: BLEU on newstest2014 and training FLOPs, None if the paper gives none."""

    name: str
    bleu: tuple[float | None, float | None]
    """EN-DE and EN-FR."""
    flops: tuple[float | None, float | None]


class Model(NamedTuple):
    """A row of Table 2 that this code can reproduce: `change` turns the base of a language pair into it."""

    name: str
    pair: str
    change: Change
    bleu: float
    """By the paper's protocol."""
    flops: float
    """By the paper's estimate: hours x GPUs x their sustained rate, an upper bound of what was computed."""


SYSTEMS = (
    System("ByteNet", (23.75, None), (None, None)),
    System("Deep-Att + PosUnk", (None, 39.2), (None, 1.0e20)),
    System("GNMT + RL", (24.6, 39.92), (2.3e19, 1.4e20)),
    System("ConvS2S", (25.16, 40.46), (9.6e18, 1.5e20)),
    System("MoE", (26.03, 40.56), (2.0e19, 1.2e20)),
    System("Deep-Att + PosUnk, ensemble", (None, 40.4), (None, 8.0e20)),
    System("GNMT + RL, ensemble", (26.30, 41.16), (1.8e20, 1.1e21)),
    System("ConvS2S, ensemble", (26.36, 41.29), (7.7e19, 1.2e21)),
)

# For EN-FR big, the table says 41.8 and section 6.1 says 41.0.
TABLE2 = (
    Model("base", "en-de", lambda base: base, 27.3, 3.3e18),
    Model("base", "en-fr", lambda base: base, 38.1, 3.3e18),
    Model("big", "en-de", big, 28.4, 2.3e19),
    Model("big", "en-fr", big_french, 41.8, 2.3e19),
)
