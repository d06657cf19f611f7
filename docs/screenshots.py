"""The pages of `atlas serve` as pictures: `python docs/screenshots.py ATLAS` writes docs/images/serve_*.png.

It needs Chromium, and an atlas of tiny-llava such as the demo's; the live page loads that model.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

OUT = Path(__file__).parent / "images"
MODEL = "/m/tiny-llava"
PAGES = {
    "home": "/",
    "concept": f"{MODEL}/c/dog",
    "neuron": f"{MODEL}/n/3/182",
    "compare": f"{MODEL}/compare?concept=dog&source=image&to=source%3Dtext",
    "edit": "/edits/no-dog@1",
    "live": "/live?prompt=what+does+the+dog+do%3F&neurons=3/265",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 1100}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 1100}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 1100}},
}
COLUMN = 550
"""Pixels of a page's width on the sheet; of a phone's, in proportion."""

COLOURS = 128


def main(atlas: str) -> None:
    command = [sys.executable, "-m", "cli.main", "serve", "-a", atlas, "--port", "0", "--no-browser"]
    server = subprocess.Popen([*command, "--model", "tiny-llava"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        address = next(line for line in server.stderr if "is served at" in line).split("is served at ")[1].split(" ")[0]
        base, _, token = address.partition("/?token=")
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for look, options in LOOKS.items():
                context = browser.new_context(**options)
                page = context.new_page()
                page.goto(f"{base}/?token={token}")
                sheet([shot(page, base + path) for path in PAGES.values()], OUT / f"serve_{look}.png")
                context.close()
            browser.close()
    finally:
        server.terminate()
        server.communicate()


def shot(page: Any, address: str) -> Image.Image:
    """The first screen of a page, when everything on it is loaded."""
    import io

    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2500)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def sheet(shots: list[Image.Image], file: Path) -> None:
    """Pictures side by side, small, in few colours."""
    width = COLUMN * shots[0].width // 1100
    small = [shot.resize((width, width * shot.height // shot.width), Image.Resampling.LANCZOS) for shot in shots]
    columns = 3
    rows = -(-len(small) // columns)
    whole = Image.new("RGB", (columns * (width + 8) - 8, rows * (small[0].height + 8) - 8), "#888888")
    for number, one in enumerate(small):
        whole.paste(one, (number % columns * (width + 8), number // columns * (small[0].height + 8)))
    whole.quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
