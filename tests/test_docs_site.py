"""The site is built with every warning an error; it has every command, and needs nothing from the network."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import make_app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

for package in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(package, reason="the extra docs is not installed")


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html", str(docs), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    outcome = build(DOCS, out)
    assert outcome.returncode == 0, outcome.stderr
    return out


def test_every_page_is_built(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md")}
    assert len(pages) > 30
    assert [page for page in sorted(pages) if not (site / page.with_suffix(".html")).is_file()] == []


def sections(page: Path) -> dict[str, str]:
    """The text below each heading of a page."""
    parts = re.split(r"<h[1-6]>(.*?)<a class=\"headerlink\"", page.read_text(encoding="utf-8"))
    plain = [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", part)).split()) for part in parts]
    return dict(zip(plain[1::2], plain[2::2], strict=True))


def commands(command: Any, path: str = "atlas") -> dict[str, Any]:
    found = {path: command}
    for name, below in getattr(command, "commands", {}).items():
        found |= commands(below, f"{path} {name}")
    return found


def test_the_reference_has_every_command_with_all_its_options(site: Path) -> None:
    shown = sections(site / "cli.html")
    every = commands(typer.main.get_command(make_app()))
    del every["atlas"]
    assert len(every) > 50
    assert set(shown) - {"Commands"} == set(every)
    assert not re.search("[–—‘’“”]", "".join(shown.values()))  # what is copied from here is typed
    for path, command in every.items():
        for parameter in command.params:
            for name in [] if getattr(parameter, "hidden", False) else parameter.opts:
                assert name in shown[path], f"{path}: {name}"


def test_the_reference_has_every_public_method_of_an_atlas(site: Path) -> None:
    from atlas import Atlas

    text = (site / "python.html").read_text(encoding="utf-8")
    public = [name for name in dir(Atlas) if not name.startswith("_")]
    assert len(public) > 20
    assert [name for name in public if f'id="atlas.Atlas.{name}"' not in text] == []


class Fetched(HTMLParser):
    """What a browser loads with a page, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get("href") if tag == "link" else given.get("src")
        if address:
            self.addresses.append(address)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    loaded = 0
    for page in site.rglob("*.html"):
        parser = Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        loaded += len(parser.addresses)
        assert [address for address in parser.addresses if re.match(r"(https?:)?//", address)] == [], page.name
    for style in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", style.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"url\(['\"]?(https?:)?//", text), style.name
    assert loaded > 100


def test_formulas_need_no_script(site: Path) -> None:
    assert "<math" in (site / "methods" / "contribution.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", ["[a page](nowhere.md)", "[a heading](#nowhere)", "```{py:nothing}\n```"])
def test_a_fault_in_a_page_stops_the_build(fault: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for file in ("conf.py", "generated.py", "docstrings.py"):
        shutil.copy(DOCS / file, docs)
    (docs / "index.md").write_text(f"# A page\n\n{fault}\n", encoding="utf-8")
    outcome = build(docs, tmp_path / "out")
    assert outcome.returncode != 0
    assert "index.md:3: WARNING" in outcome.stderr


def test_a_page_without_a_fault_is_built(tmp_path: Path) -> None:
    """What the faults above are set against: the same project builds without them."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for file in ("conf.py", "generated.py", "docstrings.py"):
        shutil.copy(DOCS / file, docs)
    (docs / "index.md").write_text("# A page\n\n[a heading](#a-page)\n", encoding="utf-8")
    outcome = build(docs, tmp_path / "out")
    assert outcome.returncode == 0, outcome.stderr
