"""Tests the page in a real browser, with mouse and keyboard. Needs chromium and chromedriver."""

import re

import numpy as np
import pytest

from experiments.inspection.attention import AXES, Pair, merged, pieces_of, telling, to_page, words
from experiments.translator import Attention
from tests.experiments.browser import HOSTILE, Browser, needs_browser, started
from tests.experiments.pairs import make_pair, softmax

webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = needs_browser

PAIR = make_pair(
    ["▁The", "▁dog", "s", "▁", "bark", "s", "▁" + HOSTILE, "\0", "\u0301", "▁مرح", "با", "</s>"],
    ["▁Die", "▁Hun", "de", "▁bell", "en", ".", "</s>"],
    layers=2,
    heads=3,
    sentence="The dogs bark " + HOSTILE,
    translation="Die Hunde bellen.\0 \u202e",
    run="a-run",
)

SHORT = make_pair(["▁The", "▁dog", "s", "▁bark", "s", "</s>"], ["▁Die", "▁Hun", "de", "</s>"], layers=2, heads=2)

SENTENCE = make_pair(["▁word"] * 11 + ["</s>"], ["▁Wort"] * 13 + ["</s>"], layers=2, heads=4)

LONG = make_pair(["▁wo", "rd"] * 80 + ["</s>"], ["▁Wör", "t", "er"] * 50 + ["</s>"], layers=6, heads=8)


class Page(Browser):
    """A browser with actions on the page of attention weights."""

    def open(self, folder, pair: Pair, by_words: bool = False) -> None:
        path = folder / "page.html"
        path.write_text(to_page(pair, by_words), encoding="utf-8")
        self.driver.get(path.as_uri())

    def choose(self, kind: str) -> None:
        next(tab for tab in self.all("#tabs button") if tab.text == kind).click()

    def hover(self, row: int, column: int) -> str:
        """Moves the mouse over a weight of the large map, and returns the tooltip."""
        canvas = self.one("#field canvas")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'nearest'})", self.one("#scroll"))
        rows, columns = len(self.all("#rows span")), len(self.all("#columns span"))
        size = canvas.size
        x = (column + 0.5) * size["width"] / columns - size["width"] / 2
        y = (row + 0.5) * size["height"] / rows - size["height"] / 2
        mouse = webdriver.ActionChains(self.driver, duration=0)
        mouse.move_to_element_with_offset(canvas, round(x), round(y)).perform()
        return self.one("#tip").text

    def at(self) -> tuple[int, int]:
        """The highlighted row and column."""
        script = "return [...document.querySelectorAll(arguments[0])].map((label) => label.className)"
        row, column = (self.driver.execute_script(script, f"{side} span").index("on") for side in ("#rows", "#columns"))
        return row, column

    def emulate(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with started(Page, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def browser(page):
    """Checks after each test that the console is empty and that only the page was loaded."""
    page.driver.get("about:blank")
    page.driver.get_log("browser")
    page.requests()
    yield page
    assert page.driver.get_log("browser") == []
    assert {url.rsplit("/", 1)[-1] for url in page.requests()} <= {"page.html"}


def number(tip: str) -> float:
    """Returns the weight at the end of a tooltip."""
    return float(re.search(r": (\d\.\d{4})$", tip)[1])


def opened(pair: Pair, kind: str) -> tuple[int, int]:
    """Returns layer and head, from 0, of the map of a kind with the highest mutual information."""
    found = telling(pair.attention.weights._asdict()[kind])
    layer, head = np.unravel_index(found.argmax(), found.shape)
    return int(layer), int(head)


def name(kind: str, layer: int, head: int) -> str:
    return f"{kind}, layer {layer + 1}, head {head + 1}"


CLOSE = {"atol": 0.00005 + 1 / 65535}  # the tooltip shows four digits of a 16-bit value


def test_it_begins_with_all_heads_and_one_large_map(browser, tmp_path):
    browser.open(tmp_path, PAIR)
    assert browser.texts("#tabs button") == list(AXES)
    assert browser.one("#tabs [aria-selected=true]").text == "cross"
    assert len(browser.all("#grid canvas")) == 6
    assert browser.texts("#grid .head") == ["head", "1", "2", "3"]
    assert browser.texts("#grid .layer") == ["layer 1", "layer 2"]
    assert browser.one("#chosen").text == name("cross", *opened(PAIR, "cross"))
    assert "a-run" in browser.one("#origin").text and "20, 30" in browser.one("#origin").text
    assert not browser.one("#tip").is_displayed()


def test_a_page_of_labels_opens_on_the_share_of_each_word(browser, tmp_path):
    weights = SHORT.attention.weights
    none = np.zeros((0, 2, 2, 6), np.float32)
    shares = softmax(np.random.default_rng(0).normal(size=(1, 2, 2, 6)))
    attention = Attention(SHORT.attention.source, ["▁DT", "▁NN"], weights._replace(decoder=none, cross=none))
    browser.open(tmp_path, SHORT._replace(attention=attention, shares=shares, translation="DT NN"))
    assert browser.texts("#tabs button") == ["encoder", "saliency"]
    assert browser.one("#tabs [aria-selected=true]").text == "saliency"
    assert browser.texts("#grid .head") == ["", "attention rollout", "gradient x input"]
    assert browser.texts("#rows span") == ["▁DT", "▁NN"]
    browser.all("#grid button")[1].click()
    assert browser.one("#chosen").text == "saliency, gradient x input"
    np.testing.assert_allclose(number(browser.hover(1, 3)), shares[0, 1, 1, 3], **CLOSE)
    browser.choose("encoder")
    assert browser.texts("#grid .head") == ["head", "1", "2"] and len(browser.all("#grid canvas")) == 4


def test_stacks_of_different_depth_have_maps_of_their_own(browser, tmp_path):
    weights = SHORT.attention.weights
    less = SHORT.attention._replace(weights=weights._replace(encoder=weights.encoder[:1]))
    browser.open(tmp_path, SHORT._replace(attention=less))
    for kind, layers in (("encoder", 1), ("decoder", 2), ("encoder", 1), ("cross", 2)):
        browser.choose(kind)
        assert browser.texts("#grid .layer") == [f"layer {layer + 1}" for layer in range(layers)]
        assert len(browser.all("#grid canvas")) == weights.cross.shape[1] * layers


def test_texts_are_shown_and_not_executed(browser, tmp_path):
    browser.open(tmp_path, PAIR)
    assert browser.one("#sentence").text == "The dogs bark " + HOSTILE
    assert browser.one("#translation").text == "Die Hunde bellen.\u2400 \ufffd"
    assert browser.driver.title == "Attention: The dogs bark " + HOSTILE
    assert len(browser.all("script")) == 2 and not browser.all("img")
    shown = browser.texts("#columns span")
    assert shown[6:11] == ["▁" + HOSTILE, "\u2400", "\u25cc\u0301", "▁مرح", "با"]
    assert HOSTILE in browser.hover(0, 6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(AXES))
@pytest.mark.parametrize("by_words", [False, True])
def test_every_number_is_the_weight(browser, tmp_path, kind, by_words):
    browser.open(tmp_path, SHORT, by_words)
    browser.choose(kind)
    browser.all("#grid button")[2].click()
    assert browser.one("#chosen").text == f"{kind}, layer 2, head 1"
    rows, columns = (
        [word.text for word in words(found)] if by_words else found
        for found in (pieces_of(SHORT.attention)[axis] for axis in AXES[kind])
    )
    weights = (merged(SHORT.attention) if by_words else SHORT.attention).weights._asdict()[kind][1, 0]
    assert (len(rows), len(columns)) == weights.shape
    browser.press(Keys.ARROW_DOWN)  # to the first
    for row, source in enumerate(rows):
        for column, target in enumerate(columns):
            tip = browser.one("#tip").text
            assert browser.at() == (row, column) and tip.startswith(f"{source} → {target}: ")
            np.testing.assert_allclose(number(tip), weights[row, column], rtol=0, **CLOSE)
            browser.press(Keys.ARROW_RIGHT)
        browser.press(Keys.HOME, Keys.ARROW_DOWN)


def test_hovering_names_the_words_and_highlights_them(browser, tmp_path):
    browser.open(tmp_path, PAIR)
    tip = browser.hover(1, 2)
    assert tip.startswith("▁Hun → s: ") and browser.at() == (1, 2)
    np.testing.assert_allclose(number(tip), PAIR.attention.weights.cross[*opened(PAIR, "cross"), 1, 2], rtol=0, **CLOSE)
    webdriver.ActionChains(browser.driver).move_to_element(browser.one("h1")).perform()
    assert not browser.one("#tip").is_displayed() and not browser.all("#large .on")


def test_words_are_merged_and_taken_apart(browser, tmp_path):
    browser.open(tmp_path, PAIR)
    browser.one("#merge").click()
    assert browser.texts("#rows span") == ["Die", "Hunde", "bellen.", "</s>"]
    tip = browser.hover(1, 1)
    assert tip.startswith("Hunde → dogs: ")
    np.testing.assert_allclose(
        number(tip), merged(PAIR.attention).weights.cross[*opened(PAIR, "cross"), 1, 1], rtol=0, **CLOSE
    )
    browser.one("#merge").click()
    assert browser.texts("#rows span") == PAIR.attention.target


def test_all_of_it_by_keyboard(browser, tmp_path):
    browser.open(tmp_path, PAIR)
    browser.press(Keys.TAB)
    browser.press(Keys.ARROW_LEFT)  # the previous tab: arrow keys select immediately
    assert browser.one("#chosen").text == name("decoder", *opened(PAIR, "decoder"))
    browser.all("#grid button")[0].click()
    browser.one("#tabs [aria-selected=true]").click()
    assert browser.one("#chosen").text == "decoder, layer 1, head 1"  # a tab keeps its selection
    browser.press(Keys.TAB, Keys.SPACE)
    assert browser.texts("#columns span") == ["<s>", "Die", "Hunde", "bellen."]
    browser.press(Keys.TAB, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    focused = browser.driver.switch_to.active_element
    assert focused.get_attribute("aria-label") == "layer 2, head 2"
    assert focused.value_of_css_property("outline-style") == "solid"  # seen
    browser.press(Keys.ENTER)
    assert browser.one("#chosen").text == "decoder, layer 2, head 2"
    assert browser.driver.switch_to.active_element.get_attribute("id") == "scroll"
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.END, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.at() == (1, 1) and browser.one("#tip").text.startswith("Hunde → Die: ")
    browser.press(Keys.ESCAPE)
    assert not browser.one("#tip").is_displayed()
    assert browser.driver.switch_to.active_element.get_attribute("aria-label") == "layer 2, head 2"


def test_pixels_are_the_colours_of_the_legend(browser, tmp_path):
    """The largest weight of the map is where the brightest pixel is; 0 and 1 are the ends of viridis."""
    browser.open(tmp_path, PAIR)
    script = """
        const canvas = document.querySelector(arguments[0]);
        return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];"""
    weights = PAIR.attention.weights.cross[*opened(PAIR, "cross")]
    pixels = np.array(browser.driver.execute_script(script, "#field canvas")).reshape(*weights.shape, 4)
    assert np.all(pixels[..., 3] == 255)
    assert pixels[..., 1].argmax() == weights.argmax()
    legend = np.array(browser.driver.execute_script(script, "#legend canvas")).reshape(-1, 4)
    assert legend[0, :3].tolist() == [0x44, 0x01, 0x54] and legend[-1, :3].tolist() == [0xFD, 0xE7, 0x25]


def test_dark_where_the_reader_prefers_dark(browser, tmp_path):
    browser.open(tmp_path, PAIR)
    for scheme, background in (("light", "rgba(255, 255, 255, 1)"), ("dark", "rgba(22, 24, 29, 1)")):
        browser.emulate(scheme)
        assert browser.one("html").value_of_css_property("background-color") == background
        assert browser.one("#corner").value_of_css_property("background-color") == background


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1300])
def test_a_long_sentence_scrolls_inside_and_its_labels_stay(browser, tmp_path, width):
    browser.open(tmp_path, LONG)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.driver.refresh()
    browser.all("#grid button")[-1].click()
    browser.press(Keys.ARROW_DOWN, Keys.END, *[Keys.ARROW_DOWN] * 60)
    assert browser.at() == (60, 160)
    np.testing.assert_allclose(
        number(browser.one("#tip").text), LONG.attention.weights.cross[5, 7, 60, 160], rtol=0, **CLOSE
    )
    scroll, row = browser.one("#scroll").rect, browser.all("#rows span")[60].rect
    column, cursor = browser.all("#columns span")[160].rect, browser.one("#cursor").rect
    assert scroll["x"] <= row["x"] and row["x"] + row["width"] <= cursor["x"] + 1
    assert scroll["y"] <= column["y"] and column["y"] + column["height"] <= cursor["y"] + 1
    assert abs(row["y"] - cursor["y"]) < 1 and abs(column["x"] - cursor["x"]) < 1
    assert cursor["x"] + cursor["width"] <= scroll["x"] + scroll["width"] <= width
    assert browser.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert all(canvas.size["width"] <= 180 for canvas in browser.all("#grid canvas"))
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width, height", [(320, 640), (768, 1024), (1280, 800), (1920, 1080)])
def test_a_window_is_used_and_nothing_goes_beyond_it(browser, tmp_path, width, height):
    browser.open(tmp_path, SENTENCE)
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.driver.refresh()
    assert browser.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    grid, scroll, field = (browser.one(found).rect for found in ("#grid", "#scroll", "#field canvas"))
    assert field["x"] + field["width"] <= scroll["x"] + scroll["width"] + 1 <= width + 1
    if width >= 1280:  # next to each other, all visible, with at most a quarter of the width or height empty
        assert grid["x"] + grid["width"] < scroll["x"] and scroll["y"] + scroll["height"] <= height
        assert scroll["x"] + scroll["width"] > 0.75 * width and scroll["y"] + scroll["height"] > 0.75 * height
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
