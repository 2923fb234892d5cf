"""The demo page works in a real browser, opened from disk: typed, pasted, clicked, by keyboard, on a phone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import BROWSER, DRIVER, open_chromium
from small_data import MESSAGES

from hf_spam import SpamClassifier
from hf_spam.data.sources import read_messages
from hf_spam.hub.space import EXAMPLES, render_demo

pytest.importorskip("selenium", reason="needs selenium: pip install selenium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.runtimes,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]
LINES = [text for text in read_messages(MESSAGES)["text"][:] if text.strip() and len(text.splitlines()) == 1][:150]


class Page:
    """A demo page in a browser."""

    def __init__(self, browser: Any):
        self.browser = browser

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
        return self.browser.execute_script(script, selector)

    def wait(self, is_done: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not is_done():
            assert time.monotonic() < end, self.find("body").text
            time.sleep(0.02)

    def paste(self, text: str) -> None:
        script = "const box = arguments[0]; box.value = arguments[1]; box.dispatchEvent(new InputEvent('input'))"
        self.browser.execute_script(script, self.find("textarea"), text)

    def wait_for(self, summary: str) -> None:
        self.wait(lambda: self.texts("#summary") == [summary])


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "demo.html"
    path.write_text(render_demo("bundled"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_chromium(**{"goog:loggingPrefs": {"browser": "ALL"}}) as browser:
        yield browser


@pytest.fixture
def page(browser, html) -> Iterator[Page]:
    browser.get(html.as_uri())
    page = Page(browser)
    page.wait(lambda: page.texts("#answers li"))
    yield page
    assert browser.get_log("browser") == []


def test_it_answers_at_once_and_asks_nothing_of_a_network(page):
    assert page.texts("#summary") == ["2 of 3 messages are spam."]
    page.wait(lambda: len(page.texts("#answers mark")) > 20)
    assert page.browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    fetched = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name).then(arguments[0])"
    assert page.browser.execute_async_script(fetched) == "TypeError"
    refused = page.browser.get_log("browser")
    assert refused and all("Content Security Policy" in entry["message"] for entry in refused)


def test_a_pasted_list_gets_the_labels_of_the_model(page):
    """Words are coloured in the first answers, and in the others when asked."""
    answers = SpamClassifier.from_pretrained()(LINES)
    spam = sum(answer["label"] == "spam" for answer in answers)
    page.paste("\n".join(LINES))
    page.wait_for(f"{spam} of {len(LINES)} messages are spam.")
    assert page.texts("#answers .badge") == [answer["label"] for answer in answers]
    assert page.texts("#answers .text") == LINES
    shown = [float(score.split()[0]) for score in page.texts("#answers .score")]
    expected = [100 * (a["score"] if a["label"] == "spam" else 1 - a["score"]) for a in answers]
    assert shown == pytest.approx(expected, abs=0.16)  # percent, with one digit
    last = f"#answers li:nth-child({len(LINES)})"
    assert not page.texts(f"{last} mark")
    page.find(f"{last} button").click()
    page.wait(lambda: page.texts(f"{last} mark"))
    assert page.texts(f"{last} .text") == LINES[-1:]  # colours change no character


def test_a_typed_message_is_text_and_nothing_else(page):
    typed = "<img src=x onerror=alert(1)> & <b>free</b> entry"
    page.find("#clear").click()
    page.wait_for("Waiting for a message.")
    page.find("textarea").send_keys(typed)
    page.wait(lambda: page.texts("#answers .text") == [typed])
    page.wait(lambda: page.texts("#answers mark"))
    assert page.texts("#answers .text") == [typed] and not page.texts("#answers img, #answers .text b")
    assert page.browser.execute_script("return document.querySelector('.text mark').title").startswith(("+", "−"))


def test_a_message_of_several_lines(page):
    page.paste("Dear customer,\n\nyour account is locked.\nCall 0900 123456")
    page.wait(lambda: len(page.texts("#answers li")) == 3)
    page.find("#whole").click()
    page.wait(lambda: len(page.texts("#answers li")) == 1)
    (label,) = SpamClassifier.from_pretrained().predict(["Dear customer,\n\nyour account is locked.\nCall 0900 123456"])
    assert page.texts("#summary") == [f"This message is {label}."]


def test_examples_by_keyboard_and_names_for_screen_readers(page):
    """The box, its hint, the examples and the result have names or roles; the result is announced."""
    box = page.find("textarea")
    assert (box.accessible_name, page.find("#clear").accessible_name) == ("Messages", "Clear")
    assert page.find("#examples").accessible_name == "Examples:" and page.find("#summary").aria_role == "status"
    for _ in range(2):  # from the box to the button "Clear", then to the first example
        page.browser.switch_to.active_element.send_keys("\ue004") if _ else box.send_keys("\ue004")
    assert page.browser.switch_to.active_element.text == EXAMPLES[0][0]
    page.browser.switch_to.active_element.send_keys("\ue007")
    page.wait(lambda: page.texts("#answers .text") == [EXAMPLES[0][1]])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(page, scheme):
    def set_up(width: int, height: int, scheme: str) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500}
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    set_up(360, 740, scheme)
    try:
        page.paste("a" * 500 + "\n" + "http://very.long.example/" + "x" * 200)
        page.wait(lambda: len(page.texts("#answers li")) == 2)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 360
        colour = page.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
        assert brightness > 600 if scheme == "light" else brightness < 150
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_very_long_message_does_not_stop_the_page(page):
    page.paste("win a prize now " * 6_250)
    page.wait(lambda: len(page.texts("#answers li")) == 1 and page.texts("#answers mark"))
    (label,) = SpamClassifier.from_pretrained().predict([("win a prize now " * 6_250)])
    assert page.texts("#answers .badge") == [label]
