"""The pages in Chromium: as a person uses them, with and without scripts, at three widths, and as files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from web_parts import model_path

import atlas
from atlas.api.atlas import Atlas

pytest.importorskip("fastapi")
pytest.importorskip("matplotlib")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (the system's package `chromium`)")


@pytest.fixture(scope="module")
def shown_atlas(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("browser") / "shown.atlas"))
    opened = Atlas(path)
    opened.create_edit("no-dog", opened.query("dog", "contribution", top=3), atlas.ablate())
    return path


@pytest.fixture(scope="module")
def address(shown_atlas: Path) -> Iterator[str]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "cli.main", "serve", "-a", str(shown_atlas), "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    assert "is served at http://" in line, line
    yield line.split("is served at ")[1].split("/ ")[0]
    server.terminate()
    server.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def tab(browser: Any, **options: Any) -> Iterator[Any]:
    """A tab in which every error of the page is one of the test."""
    context = browser.new_context(**options)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: errors.append(f"asks {request.url}") if outside(request.url) else None)
    yield page
    context.close()
    assert not errors, errors


def outside(url: str) -> bool:
    """Whether a request leaves this machine."""
    return not url.startswith(("http://127.0.0.1:", "file://", "data:"))


def scrolled(page: Any) -> None:
    """Scroll to the end, so that everything that waits to be seen is loaded."""
    for _ in range(40):
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(30)
    page.wait_for_load_state("networkidle")


def test_search_concept_source_compare_neuron(browser: Any, address: str, shown_atlas: Path) -> None:
    best = Atlas(shown_atlas).query("dog", source="text").neurons[0]
    with tab(browser) as page:
        page.goto(address)
        page.fill("#search", "dog")
        page.press("#search", "Enter")
        assert page.locator("h1").inner_text() == "dog"
        page.select_option("select[name=source]", "text")
        page.click("form.choose button")
        page.wait_for_url("**source=text**")
        assert page.locator(".cards strong").first.inner_text() == str(best)
        scrolled(page)
        page.wait_for_selector("#layers .figure")  # what was deferred is there
        page.locator("#layers .figure").scroll_into_view_if_needed()
        page.wait_for_selector("#layers .figure svg")  # and drawn
        page.wait_for_selector("#methods table")
        page.locator("a", has_text="with image").first.click()
        assert page.locator("h1").inner_text() == "Compare two maps"
        page.locator("#both .figure").scroll_into_view_if_needed()
        page.wait_for_selector("#both .figure svg")
        page.go_back()
        page.locator(".cards a").first.click()
        assert page.locator("h1").inner_text().startswith(f"{best} of ")
        page.locator("a[rel=next]").click()
        assert page.locator("h1").inner_text().startswith(f"{best.layer}/{best.index + 1} of ")


def test_a_question_is_copied(browser: Any, address: str, shown_atlas: Path) -> None:
    with tab(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{address}/m/{model_path(shown_atlas)}/c/dog")
        page.locator("#best summary").click()
        page.locator("#best button.copy").first.click()
        assert page.evaluate("navigator.clipboard.readText()").startswith("atlas query ")
        assert page.locator("#best button.copy").first.inner_text() == "Copied"


def test_without_scripts_everything_is_there(browser: Any, address: str, shown_atlas: Path) -> None:
    concept = f"{address}/m/{model_path(shown_atlas)}/c/dog"
    with tab(browser, java_script_enabled=False) as page:
        page.goto(concept)
        assert page.locator("#best .figure img").count() == 1 and page.locator("#layers img").count() == 0
        page.locator("#layers a").click()
        assert page.url == f"{concept}?whole=1#layers" and page.locator("#layers .figure img").count() == 1
        page.fill("#search", "0/1")
        page.press("#search", "Enter")
        assert page.locator("h1").inner_text().startswith("0/1 of ")


PAGES = ("/", "/m/MODEL/c/dog", "/m/MODEL/n/0/1", "/edits/no-dog@1", "/leaderboard", "/runs", "/card", "/compare")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_everybody_can_read_it(browser: Any, address: str, shown_atlas: Path, path: str, scheme: str) -> None:
    """axe finds nothing serious, and a phone has nothing beside its screen."""
    options = {"color_scheme": scheme, "viewport": {"width": 390 if scheme == "dark" else 1200, "height": 800}}
    with tab(browser, **options) as page:
        page.goto(address + path.replace("MODEL", model_path(shown_atlas)))
        scrolled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]  # type: ignore[index]
        found = axe.Axe().run(page).response["violations"]
        serious = [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, serious


def test_the_keyboard_reaches_the_content_first(browser: Any, address: str) -> None:
    with tab(browser) as page:
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.url.endswith("#main")


def test_the_files_open_by_themselves(browser: Any, shown_atlas: Path, tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "site"), "--concepts", "dog", "--top", "2", "--atlas", str(shown_atlas)]
    subprocess.run([sys.executable, "-m", "cli.main", "site", *options], check=True, capture_output=True)
    with tab(browser) as page:
        page.goto((tmp_path / "site" / "index.html").as_uri())
        page.locator("main a", has_text="dog").first.click()
        assert page.locator("h1").inner_text() == "dog"
        for image in page.locator("img").all():
            image.scroll_into_view_if_needed()
            assert image.evaluate("i => i.decode().then(() => i.naturalWidth > 0)"), image.get_attribute("src")
        page.locator(".cards a").first.click()
        assert " of " in page.locator("h1").inner_text()
