"""The page of the service in a real browser. Needs chromium and chromedriver."""

import threading
from types import SimpleNamespace

import pytest

from experiments.sentences import Translation
from experiments.translator import Asked
from tests.experiments.browser import HOSTILE, Browser, needs_browser, started
from transformer.config import DecodeConfig, UserError

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from experiments.serving.service import Service

pytestmark = needs_browser


class Echo:
    """Translates into the same sentence, turned around from the second hypothesis on."""

    experiment = SimpleNamespace(name="echo", decode=DecodeConfig(beam=3, batch_size=2))
    steps = (7,)
    most = 3

    def warm_up(self, *shape):
        pass

    def ask(self, texts, count, prefixes=None):
        if "refuse" in texts:
            raise UserError(f"line 1 is refused <b>{HOSTILE}</b>")
        return Asked(texts, [[5, 2]] * len(texts), [1] * len(texts), [], [], [count] * len(texts), [])

    def answer(self, asked):
        return [
            [Translation(text[:: -1 if k else 1], -k - 0.5, ("a", "</s>" if k < 2 else "a")) for k in range(count)]
            for text, count in zip(asked.texts, asked.counts, strict=True)
        ]

    def warn_of_answers(self, asked, found):
        if "warn" in asked.texts:
            self.log(f"warning: line 1 is odd: {HOSTILE}")


class Page(Browser):
    """A browser with actions on the page."""

    def type(self, text: str, count: int = 1) -> None:
        for selector, content in (("#text", text), ("#count", str(count))):
            self.one(selector).clear()
            self.one(selector).send_keys(content)

    def until(self, condition) -> None:
        WebDriverWait(self.driver, 30, 0.02).until(lambda _: condition())

    def translations(self) -> list[list[tuple[str, str]]]:
        """Waits until there are any; returns text and score of each, for each sentence."""
        self.until(lambda: self.all("#results ol li"))
        return [
            [tuple(part.text for part in item.find_elements("tag name", "span")) for item in items]
            for items in (line.find_elements("css selector", "ol li") for line in self.all("#results > li"))
        ]


@pytest.fixture(scope="module")
def service():
    service = Service(Echo(), "echo-run")
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    assert service.batcher.ready.wait(60)
    yield service
    service.stop()
    thread.join(60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(Page, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser, service):
    browser.driver.get(service.address)
    browser.until(lambda: "echo-run" in browser.one("#model").text)
    return browser


def test_what_is_typed_is_translated_by_button_and_by_keys(page, service):
    page.driver.get_log("browser")
    page.requests()
    page.type("A dog.\n\n  \nمرحبا بالعالم", 3)
    page.one("#text").send_keys(Keys.CONTROL, Keys.ENTER)
    scores = ["-0.5000", "-1.5000", "-2.5000 (cut off)"]
    dog, hello = page.translations()
    assert dog == list(zip(["A dog.", ".god A", ".god A"], scores, strict=True))
    assert [score for _, score in hello] == scores
    directions = [each.value_of_css_property("direction") for each in page.all("#results .translation")]
    assert directions == ["ltr"] * 3 + ["rtl"] * 3
    assert page.all("#results .translation")[3].value_of_css_property("display") == "block"  # so it is at the right
    page.type("Two dogs.")
    page.one("#go").click()
    page.until(lambda: page.texts("#results .source") == ["Two dogs."])
    assert page.translations() == [[("Two dogs.", "-0.5000")]]
    assert page.driver.get_log("browser") == [] and set(page.requests()) == {f"{service.address}/translate"}


def test_texts_are_shown_and_not_executed(page):
    page.type(f"{HOSTILE}\nwarn")
    page.one("#go").click()
    assert [best[0][0] for best in page.translations()] == [HOSTILE, "warn"]
    assert page.texts("#warnings li") == [f"line 1 is odd: {HOSTILE}"]
    page.type("refuse")
    page.one("#go").click()
    page.until(lambda: page.one("#error").text)
    assert page.one("#error").text == f"Not translated: line 1 is refused <b>{HOSTILE}</b>."
    assert not page.all("#results li") and not page.all("#warnings li") and not page.all("b, img")
    assert page.driver.title == "Translate" and len(page.all("script")) == 1


def test_a_long_word_stays_in_a_narrow_window(page):
    metrics = {"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.type("Donau" * 60, 2)
    page.one("#go").click()
    assert len(page.translations()[0]) == 2
    assert page.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_and_errors_are_announced(page):
    names = [element.accessible_name.strip() for element in page.all("textarea, input, button")]
    assert names == ["Sentences, one on each line", "Translate", "translations of each"]
    assert page.one("#count").get_attribute("max") == "3"
    assert page.driver.switch_to.active_element.get_attribute("id") == "text"
    assert page.one("#error").get_attribute("role") == "alert"


def test_what_goes_wrong_is_said_in_words(page, service):
    page.one("#go").click()
    assert "type a sentence" in page.one("#error").text
    page.type("A dog.", 9)
    page.driver.execute_script("byId('form').noValidate = true")
    page.one("#go").click()
    page.until(lambda: '"n_best" must be from 1 to 3, not 9' in page.one("#error").text)
    page.driver.execute_script("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.one("#go").click()
    page.until(lambda: page.one("#error").text == "The service does not answer. Is it still running?")
    assert page.one("#go").is_enabled()
