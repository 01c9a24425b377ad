"""The page at `/` in a real headless Chromium: type, stream, stop, see an error, on a desk and on a phone."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, endpoint):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.asked = []
    page.faults = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(endpoint)
    expect(page.locator("#model")).to_have_value("toy")
    yield page
    assert not page.faults
    context.close()


def generate(page, prompt, tokens):
    page.fill("#prompt", prompt)
    page.fill("#max_tokens", str(tokens))
    page.select_option("#drafts", "3")
    page.click("#run")


def test_tokens_stream_in_coloured_by_origin_and_both_decoders_agree(page, endpoint, tmp_path):
    generate(page, "def f(x):", 40)
    expect(page.locator("#run")).to_be_enabled(timeout=60_000)
    mtp, standard = (page.inner_text(f"section[data-decoder={name}] .output") for name in ("mtp", "standard"))
    assert mtp == standard and mtp.startswith("def f(x):")
    assert page.locator("section[data-decoder=mtp] .o1").count() > 0, "no draft was accepted"
    assert page.locator("section[data-decoder=standard] .o1").count() == 0
    assert "tokens/step" in page.inner_text("section[data-decoder=mtp] .figures")
    assert all(url.startswith((endpoint, "data:")) for url in page.asked), "the page asked somebody else"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways on a phone"
    assert page.screenshot(path=Path(os.environ.get("SCREENSHOTS", tmp_path)) / "phone.png", full_page=True)


def test_stop_ends_the_stream_and_the_page_can_go_on(page):
    page.route("**/v1/completions", lambda route: None)  # never answers
    generate(page, "x", 90)
    expect(page.locator("#stop")).to_be_enabled()
    page.click("#stop")
    expect(page.locator("#run")).to_be_enabled()
    assert page.is_hidden("#error")
    page.unroute("**/v1/completions")
    generate(page, "x", 3)
    expect(page.locator(".figures").first).to_contain_text("3 tokens", timeout=60_000)


def test_an_error_is_shown_in_words_and_the_card_names_the_version(page, model_folder):
    generate(page, "x", 101)
    page.wait_for_selector("#error:not([hidden])")
    assert "at most 100" in page.inner_text("#error")
    assert str(model_folder) in page.inner_text("#card")
