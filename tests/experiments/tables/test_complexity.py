"""The formulas of Table 1 agree with the layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tables.complexity import (
    KINDS,
    LATER,
    K,
    R,
    convolutional,
    count,
    fill_table1,
    path_length,
)
from experiments.tables.render import render_table1

EVERY = (*KINDS, *LATER)
BY_NAME = {kind.name: kind for kind in EVERY}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("n", "d"), [(64, 16), (128, 16), (64, 32)])
def test_the_counted_multiplications_are_the_formula_s(kind, n, d):
    assert count(kind.layer, n, d).multiplications == kind.multiplications(n, d)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Self-attention", [1, 1]),
        ("Recurrent", [81, 243]),
        ("Convolutional", [4, 5]),  # log_3, to the position K^layers - 1 before
        ("Self-attention (restricted)", [-(-80 // (R - 1)), -(-242 // (R - 1))]),
        ("Self-attention (sparse)", [2, 2]),
        ("Self-attention (linear)", [2, 4]),  # one layer, whose chunks come one after the other
    ],
)
def test_path_lengths_grow_as_the_paper_says(name, expected):
    kind = BY_NAME[name]
    found = [path_length(kind.layer, n, count(kind.layer, n, 4).sequential) for n in (81, 243)]
    assert found == expected


def test_the_convolution_sees_what_is_left_of_it():
    x, w = jax.random.normal(jax.random.key(0), (10, 4)), jax.random.normal(jax.random.key(1), (K, 4, 4))
    expected = sum(x[6 - 2 * (K - 1 - k)] @ w[k] for k in range(K))
    np.testing.assert_allclose(convolutional(x, w, dilation=2)[6], expected, atol=1e-5)
    np.testing.assert_allclose(convolutional(x, w)[0], x[0] @ w[K - 1], atol=1e-5)
    assert jnp.isfinite(convolutional(x, w)).all()


@pytest.mark.slow
def test_the_table_is_made_once_and_rendered_from_its_record(tmp_path):
    lines = []
    for _ in range(2):
        fill_table1(tmp_path, lines.append, lengths=(40, 80), d=16)
    assert len(lines) == len(EVERY)
    markdown, csv, picture = render_table1(tmp_path)
    rows = [line for line in markdown.read_text().splitlines() if line.startswith("| Recurrent")]
    assert rows[0].startswith("| Recurrent | 40 | O(n d^2) | 10,240 | 10,240 | n^")
    assert rows[1].endswith("| O(n) | 80 | O(n) | 80 |")
    assert len(csv.read_text().splitlines()) == 1 + 2 * len(EVERY)
    assert picture.read_bytes().startswith(b"\x89PNG")
