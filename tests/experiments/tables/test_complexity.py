"""The formulas of Table 1 agree with the layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tables.complexity import (
    KINDS,
    K,
    R,
    convolutional,
    count,
    fill_table1,
    path_length,
    restricted,
    self_attention,
)
from experiments.tables.render import memory_note, render_table1

BY_NAME = {kind.name: kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("n", "d"), [(40, 16), (80, 16), (40, 32)])
def test_the_counted_multiplications_are_the_formula_s(kind, n, d):
    assert count(kind.layer, n, d).multiplications == kind.multiplications(n, d)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Self-attention", [1, 1]),
        ("Recurrent", [81, 243]),
        ("Convolutional", [4, 5]),  # log_3, to the position K^layers - 1 before
        ("Self-attention (restricted)", [-(-80 // (R - 1)), -(-242 // (R - 1))]),
    ],
)
def test_path_lengths_grow_as_the_paper_says(name, expected):
    kind = BY_NAME[name]
    found = [path_length(kind.layer, n, count(kind.layer, n, 4).sequential) for n in (81, 243)]
    assert found == expected


def test_the_restricted_layer_is_attention_to_the_nearest():
    x = jax.random.normal(jax.random.key(0), (50, 8))
    out = restricted(x, x)
    for i in (0, 3, 40):
        near = x[max(0, i - R + 1) : i + 1]
        weights = jax.nn.softmax(near @ x[i] / 8**0.5)
        np.testing.assert_allclose(out[i], weights @ near, atol=1e-5)
    np.testing.assert_allclose(self_attention(x[:1], x)[0], x[0], atol=1e-6)


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
    assert len(lines) == len(KINDS)
    markdown, csv, picture = render_table1(tmp_path)
    rows = [line for line in markdown.read_text().splitlines() if line.startswith("| Recurrent")]
    assert rows[0].startswith("| Recurrent | 40 | O(n d^2) | 10,240 | 10,240 | n^")
    assert rows[1].endswith("| O(n) | 80 | O(n) | 80 |")
    assert len(csv.read_text().splitlines()) == 1 + 2 * len(KINDS)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_jump_in_time_is_explained_where_there_is_one_alone():
    assert "From n = 512 on" in memory_note([256, 512, 1024], 512)  # 4 x 512 x 32 x 512 bytes: 32 MiB
    for lengths in ([128, 256], [512, 1024]):  # all lengths below, and all above
        assert memory_note(lengths, 512) == ""
