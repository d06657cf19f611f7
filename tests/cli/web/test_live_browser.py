"""The scripts of the live page and of the heatmaps, in Chromium: what a person does there."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_parts import TOKEN

from atlas.api.atlas import Atlas
from ingest.requests.load_model import LoadModel

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")

BAD = "<img src=x onerror=document.title='bad'>"


@contextmanager
def address_of(path: Path, model: Path) -> Iterator[str]:
    """Where a server with a live model listens."""
    from cli.serve import listen
    from cli.web.app import build
    from cli.web.settings import Settings

    listening = listen("127.0.0.1", 0)
    app = build(Settings(path, port=listening.getsockname()[1], token=TOKEN, live=LoadModel(str(model)), write=True))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        for _ in range(1000):
            if server.started and app.state.asking.worker.state == "ready":
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def path(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("browser") / "browser.atlas"))


@pytest.fixture
def page(path: Path, llava_folder: Path) -> Iterator[Any]:
    """A page of Chromium at the server, with its cookie; no error may come, as of the policy for scripts and styles."""
    said: list[str] = []
    with address_of(path, llava_folder) as base, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(base_url=base).new_page()
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"/?token={TOKEN}")
        yield page
        browser.close()
    assert not said


def idle(page: Any) -> None:
    """Wait until nothing is asked any more."""
    for _ in range(500):
        if page.get_attribute("#answers", "aria-busy") == "false":
            return
        page.wait_for_timeout(20)
    raise AssertionError(page.inner_text("#status"))


def test_a_live_ablation(page: Any, path: Path) -> None:
    page.goto("/live?neurons=1%2F2")
    page.fill("#prompt", BAD)
    page.click("#go")
    page.wait_for_selector("#before button")
    idle(page)
    before = page.inner_text("#before")
    page.click("#before button >> nth=0")
    page.wait_for_selector("#found tbody tr")
    idle(page)
    assert page.locator("#found tbody tr").count() == 20
    page.click("#found tbody button >> nth=0")
    page.wait_for_selector("#after button")
    idle(page)
    assert page.inner_text("#random") and page.inner_text("#before") == before
    page.fill("#changes input[type=number]", "0.5")
    page.fill("#save input[name=name]", "by-hand")
    page.click("#save button")
    page.wait_for_selector("text=saved: by-hand@1")
    [change] = Atlas(path).edit("by-hand").data.changes
    assert change.gain == 0.5 and str(change.neuron) == page.inner_text("#changes code")
    assert page.title() != "bad"


def test_the_slider_shows_more_of_a_picture(page: Any, path: Path, llava_folder: Path) -> None:
    page.goto(f"/m/{llava_folder}/n/0/1")
    clear = """() => [...document.querySelectorAll(".heat canvas")].map((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, place) => place % 4 === 3 && value === 0).length / (canvas.width * canvas.height);
    })"""
    for _ in range(500):
        if page.evaluate("() => [...document.querySelectorAll('.heat')].every((box) => box.map)"):
            break
        page.wait_for_timeout(20)
    few = page.evaluate(clear)
    move = "(slider) => { slider.value = 40; slider.dispatchEvent(new Event('input')); }"
    page.eval_on_selector("input[name=percentile]", move)
    many = page.evaluate(clear)
    assert few and all(0 < share <= 0.1 for share in few), few
    assert all(share > 0.4 for share in many), many
    assert page.inner_text(".heat-choose output") == "40" and "IoU with" in page.inner_text("main")
