"""Merged weights are distributions, the JSON is exact, and a page escapes its texts."""

import base64
import json
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import experiments
from experiments.inspection.attention import (
    AXES,
    FULL,
    MAX_PIECES,
    merge,
    merged,
    pair_of,
    pieces_of,
    quantised,
    telling,
    to_json,
    to_page,
    words,
)
from experiments.inspection.figures import DPI, draw_attention
from experiments.translator import Translator
from tests.experiments.pairs import make_pair, softmax
from transformer.config import UserError

SOURCE = ["▁The", "▁dog", "s", "▁", "bark", "s", ".", "</s>"]
TARGET = ["▁Die", "▁Hun", "de", "▁bell", "en", ".", "</s>"]

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "<b>\"bold\"</b> & 'quoted' &lt; ]]>",
    "\0 \x1b[31m \r\n\t \x7f \u2028\u2029",
    "مرحبا \u202egnirts \u0301",
    "{{data}} ${data} \\u003c \\",
]

pieces = st.lists(
    st.sampled_from(["▁a", "▁", "b", "</s>", "<s>", "<unk>", "<0xC3>", "<0xA9>"]) | st.text(max_size=3), min_size=1
)


@pytest.fixture(scope="module")
def translator(run) -> Translator:
    return experiments.load(run.path)


def test_words_of_pieces():
    assert [tuple(word) for word in words(SOURCE)] == [
        ("The", 0, 1),
        ("dogs", 1, 3),
        ("barks.", 3, 7),
        ("</s>", 7, 8),
    ]
    assert [word.text for word in words(["<s>", "no", "▁caf", "<0xC3>", "<0xA9>", "▁", "</s>"])] == [
        "<s>",
        "no",
        "café",
        "▁",
        "</s>",
    ]


@pytest.mark.slow
@given(pieces)
def test_words_cover_all_pieces_in_order(pieces):
    found = words(pieces)
    assert [i for word in found for i in range(word.start, word.stop)] == list(range(len(pieces)))
    assert all(word.start < word.stop and word.text for word in found if any(pieces[word.start : word.stop]))


@given(pieces, pieces, st.integers(0, 99))
def test_rows_sum_to_one_after_merging(rows, columns, seed):
    weights = softmax(5 * np.random.default_rng(seed).normal(size=(2, 3, len(rows), len(columns))))
    found = merge(weights, words(rows), words(columns))
    assert found.shape == (2, 3, len(words(rows)), len(words(columns))) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)


def test_merging_sums_what_is_looked_at_and_averages_who_looks():
    pair = make_pair(SOURCE, TARGET)
    found = merged(pair.attention)
    assert found.source == ["The", "dogs", "barks.", "</s>"] and found.target == ["Die", "Hunde", "bellen.", "</s>"]
    cross = pair.attention.weights.cross
    np.testing.assert_allclose(found.weights.cross[1, 2, 1, 2], cross[1, 2, 1:3, 3:7].sum() / 2, rtol=1e-6)
    # The decoder's input is BOS and then the target: the same number of words, each one position later.
    decoder = pair.attention.weights.decoder
    np.testing.assert_allclose(found.weights.decoder[0, 0, 2, 2], decoder[0, 0, 3:6, 2:4].sum() / 3, rtol=1e-6)
    assert np.all(found.weights.decoder[..., np.triu_indices(4, 1)[0], np.triu_indices(4, 1)[1]][:, :, [0, 1, 2]] == 0)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 30), st.integers(0, 99))
def test_quantised_rows_sum_exactly_and_no_weight_is_far_off(rows, columns, spread, seed):
    weights = softmax(spread * np.random.default_rng(seed).normal(size=(rows, columns)))
    weights[:, 1::3] *= weights[:, :1] <= 0.5  # masked, where enough of the row is left
    weights /= weights.sum(axis=-1, keepdims=True)
    found = quantised(weights)
    assert found.dtype == np.dtype("<u2")
    assert np.all(found.sum(axis=-1, dtype=np.int64) == FULL)
    assert np.abs(found / FULL - weights).max() < 1 / FULL + 1e-6
    assert np.all(found[weights == 0] == 0)


@pytest.mark.slow
def test_json_is_the_translators_attention_exactly(translator):
    sentence, target = "The man sees the dog.", "Der Mann sieht den Hund."
    pair = pair_of(translator, "micro", sentence, target)
    expected = translator.attention(sentence, target)
    found = json.loads(to_json(pair, by_words=False))
    assert (found["run"], found["experiment"], found["steps"]) == ("micro", "micro", [20, 30, 40])
    assert (found["sentence"], found["translation"], found["unit"]) == (sentence, target, "pieces")
    assert found["pieces"] == pieces_of(expected)
    assert found["pieces"]["shifted"] == ["<s>", *expected.target[:-1]]
    for name, weights in expected.weights._asdict().items():
        np.testing.assert_array_equal(np.array(found["weights"][name], np.float32), weights)

    by_words = json.loads(to_json(pair, by_words=True))
    assert by_words["unit"] == "words" and by_words["words"] == found["words"]
    for name, (rows, columns) in AXES.items():
        weights = np.array(by_words["weights"][name])
        assert weights.shape[2:] == (len(found["words"][rows]), len(found["words"][columns]))
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_without_a_target_it_is_the_models_translation(translator):
    pair = pair_of(translator, "micro", "The man sees the dog.", None)
    assert pair.translation == translator.translate(["The man sees the dog."])[0]
    np.testing.assert_array_equal(
        pair.attention.weights.cross, translator.attention("The man sees the dog.").weights.cross
    )


def test_what_is_too_long_is_refused_by_name(translator, monkeypatch):
    long = "dog " * MAX_PIECES
    monkeypatch.setattr(translator, "attention", None)  # refused before the model is run
    with pytest.raises(UserError, match=rf"the translation has \d+ tokens; {MAX_PIECES} is the most"):
        pair_of(translator, "micro", "A dog.", long)
    monkeypatch.setattr(translator, "translate", None)
    with pytest.raises(UserError, match="the sentence has"):
        pair_of(translator, "micro", long, None)


def test_a_head_tells_most_whose_rows_look_at_places_of_their_own():
    one_each = np.eye(4)
    everywhere = np.full((4, 4), 0.25)
    always_last = np.tile(np.eye(4)[3], (4, 1))
    two_and_two = np.eye(4)[[0, 0, 1, 1]]
    found = telling(np.stack([one_each, everywhere, always_last, two_and_two]))
    np.testing.assert_allclose(found, [2, 0, 0, 1], atol=1e-12)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 6))
def test_what_a_head_tells_is_the_mutual_information_of_row_and_column(seed, rows, columns):
    weights = softmax(5 * np.random.default_rng(seed).normal(size=(rows, columns))).astype(np.float64)
    joint = weights / rows
    alone = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    np.testing.assert_allclose(telling(weights), (joint * np.log2(joint / alone)).sum(), atol=1e-5)


@pytest.mark.parametrize("kind", AXES)
def test_a_page_opens_on_the_head_that_tells_most(kind):
    pair = make_pair(SOURCE, TARGET)
    clear, shape = getattr(pair.attention.weights, kind), getattr(pair.attention.weights, kind).shape
    clear[...] = np.eye(shape[-1])[-1]  # all weight on EOS: zero mutual information
    clear[1, 2] = np.eye(shape[-1])[np.arange(shape[-2]) % shape[-1]]
    assert json.loads(Page(to_page(pair, by_words=False)).scripts[0])["opens"][kind] == 1 * 3 + 2


class Page(HTMLParser):
    """Parses a page as a browser would: its elements with their attributes, and the text of its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.append(data)


PLAIN = Page(to_page(make_pair(SOURCE, TARGET), by_words=False))


def test_a_page_loads_nothing():
    loading = {"src", "srcset", "href", "action", "data", "background", "poster"}
    assert not any(loading & attributes.keys() for _, attributes in PLAIN.elements)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in PLAIN.elements}
    page = to_page(make_pair(SOURCE, TARGET), by_words=False)
    assert not any(word in page for word in ("url(", "@import", "fetch(", "XMLHttpRequest", "://"))
    (policy,) = [a["content"] for _, a in PLAIN.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text):
    pair = make_pair(["▁" + text, text, "</s>"], [text, "</s>"], sentence=text, translation=text, run=text)
    page = Page(to_page(pair, by_words=False))
    assert page.elements == PLAIN.elements  # and no other
    held, program = page.scripts
    assert program == PLAIN.scripts[1]
    found = json.loads(held)
    assert (found["sentence"], found["translation"], found["run"]) == (text, text, text)
    assert found["pieces"]["source"] == ["▁" + text, text, "</s>"]


@given(st.text())
def test_any_text_is_inert(text):
    page = Page(to_page(make_pair([text, "</s>"], TARGET, sentence=text), by_words=False))
    assert page.elements == PLAIN.elements
    assert json.loads(page.scripts[0])["sentence"] == text


def test_a_page_has_the_weights_of_the_pieces():
    pair = make_pair(SOURCE, TARGET)
    for by_words, unit in ((False, "pieces"), (True, "words")):
        data = json.loads(Page(to_page(pair, by_words)).scripts[0])
        assert data["unit"] == unit and (data["layers"], data["heads"]) == (dict.fromkeys(AXES, 2), 3)
        for name, weights in pair.attention.weights._asdict().items():
            found = np.frombuffer(base64.b64decode(data["weights"][name]), "<u2").reshape(weights.shape)
            np.testing.assert_allclose(found / FULL, weights, atol=1 / FULL)


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
@pytest.mark.parametrize("text", [*HOSTILE, "$", "$\\frac$ $x_1$"])
def test_a_picture_of_any_text(text, tmp_path):
    path = draw_attention(make_pair([text, "</s>"], [text, "</s>"]).attention, tmp_path / "picture.anything")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("of", AXES)
def test_a_picture_has_every_head_with_its_own_pieces(of, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("experiments.inspection.figures.save", lambda figure, path: drawn.append(figure) or path)
    attention = make_pair(SOURCE, TARGET).attention
    draw_attention(attention, tmp_path / "picture.png", of)
    (figure,) = drawn
    rows, columns = (pieces_of(attention)[axis] for axis in AXES[of])
    maps = getattr(attention.weights, of).reshape(-1, len(rows), len(columns))
    for axis, weights in zip(figure.axes[:-1], maps, strict=True):  # the last one is the colour bar
        np.testing.assert_array_equal(axis.images[0].get_array(), weights)
        place = axis.get_subplotspec()  # only the outer maps have labels
        assert [tick.get_text() for tick in axis.get_xticklabels()] == (columns if place.is_last_row() else [])
        assert [tick.get_text() for tick in axis.get_yticklabels()] == (rows if place.is_first_col() else [])
    queries, keys = figure.get_supylabel(), figure.get_supxlabel()
    assert queries.startswith(AXES[of][0]) and "(query)" in queries
    assert keys.startswith(AXES[of][1].replace("shifted", "target, shifted right")) and "(key)" in keys
    assert (
        "attention" in figure.get_suptitle() and of.replace("cross", "Cross").lower() in figure.get_suptitle().lower()
    )
    plt.close(figure)


@pytest.mark.parametrize("count", [2, 8, 15, 25])
def test_labels_of_a_picture_can_be_read_and_none_is_over_another(count, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("experiments.inspection.figures.save", lambda figure, path: drawn.append(figure) or path)
    draw_attention(
        make_pair(["▁Hundert"] * count, ["▁Weißbrot"] * count, layers=2, heads=4).attention, tmp_path / "x.png"
    )
    (figure,) = drawn
    figure.canvas.draw()
    maps = np.array(figure.axes[:-1]).reshape(2, 4)
    for (row, column), axis in np.ndenumerate(maps):  # only next to the outer maps
        shown = [any(t.label1.get_visible() for t in a.get_major_ticks()) for a in (axis.xaxis, axis.yaxis)]
        assert shown == [row == 1, column == 0]
    for labels, side in ((maps[1, 0].get_xticklabels(), 0), (maps[1, 0].get_yticklabels(), 1)):
        places = sorted(getattr(label.get_window_extent(), ("x0", "y0")[side]) for label in labels)
        points = labels[0].get_fontsize() * figure.dpi / 72
        assert labels[0].get_fontsize() >= 9 and np.diff(places).min() >= 0.95 * points
    boxes = [axis.title.get_window_extent() for axis in maps[0]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    if count <= 15:
        assert figure.get_size_inches()[0] * DPI <= 1600
    plt.close(figure)


def test_too_large_a_picture_is_refused(tmp_path):
    attention = make_pair(["▁a"] * 300, TARGET, layers=1, heads=8).attention
    with pytest.raises(UserError, match="300 tokens are too many for a PNG"):
        draw_attention(attention, tmp_path / "picture.png")
