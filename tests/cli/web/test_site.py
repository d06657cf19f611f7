"""The pages as files: every address leads to a file of the folder, and nothing is asked of a server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import atlas
from atlas.api.atlas import Atlas

pytest.importorskip("fastapi")
pytest.importorskip("matplotlib")

Run = Callable[..., tuple[int, str, str]]


class Page(HTMLParser):
    """The addresses and the ids of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.others: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.addresses.append(value)
            elif name == "id" and value:
                self.ids.add(value)
            elif name.startswith(("hx-", "on")) or name in ("action", "style"):
                self.others.append(name)


@pytest.fixture(scope="module")
def site(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cli.web.site import write

    folder = tmp_path_factory.mktemp("site")
    path = Path(shutil.copytree(stored_atlas, folder / "own.atlas"))
    opened = Atlas(path)
    opened.create_edit("no-dog", opened.query("dog", "contribution", top=3), atlas.ablate(), note="<b>a note</b>")
    written = write(path, folder / "out", concepts=["dog"], top=3)
    assert not written.missing and written.files[".html"] >= 12 and written.files[".svg"] > 5
    return folder / "out"


def test_every_address_leads_to_a_file(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    linked = {site / "index.html"}
    for file in pages:
        page = Page(file.read_text(encoding="utf-8"))
        assert not page.others, (file, page.others)
        for address in page.addresses:
            name, _, part = unescape(address).partition("#")
            if address.startswith("data:"):
                continue
            assert not name.startswith(("/", "http")), (file, address)
            target = (file.parent / unquote(name)).resolve() if name else file
            assert target.is_file() and target.is_relative_to(site), (file, address)
            linked.add(target)
            if part:
                assert part in Page(target.read_text(encoding="utf-8")).ids | {"main"}, (file, address)
    assert linked == {file for file in site.rglob("*") if file.is_file()}, "every file is reached"


def test_it_has_the_chosen_concept_its_best_neurons_and_what_it_is(site: Path, stored_atlas: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r'href="[^"]*dog\.html">dog</a>', home) and not re.search(r'href="[^"]*">cat</a>', home)
    concept = next(site.rglob("dog.html")).read_text(encoding="utf-8")
    best = Atlas(stored_atlas).query("dog", top=12).neurons
    for neuron in best[:3]:
        assert re.search(rf'<a href="[^"]*{neuron.index}\.html"><strong>{neuron}</strong>', concept), neuron
    card = (site / "card.html").read_text(encoding="utf-8")
    assert "CC0-1.0" in card and "Cite: " in card and "Pan et al." in card
    edit = next(site.glob("edits/*.html")).read_text(encoding="utf-8")
    assert "&lt;b&gt;a note" in edit


def test_rows_and_figures_are_there_as_files(site: Path) -> None:
    assert all(file.read_text(encoding="utf-8").startswith("<svg") for file in site.rglob("*.svg"))
    [query] = [f for f in (site / "v1").glob("query-*.csv") if "rank" in f.read_text(encoding="utf-8")][:1]
    assert query.read_text(encoding="utf-8").splitlines()[0].startswith("component,layer,neuron")


def test_the_command_says_what_was_written_and_refuses_what_exists(
    stored_atlas: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    code, printed, _ = run("site", "--out", out, "--concepts", "dog", "--top", 1, "--atlas", stored_atlas)
    assert code == 0 and printed.startswith(f"{out / 'index.html'}: ") and " .html" in printed
    code, _, err = run("site", "--out", out, "--atlas", stored_atlas)
    assert code == 2 and "is not an empty folder" in err
    code, _, err = run("site", "--out", tmp_path / "other", "--concepts", "dgo", "--atlas", stored_atlas)
    assert code == 2 and "did you mean 'dog'" in err and not (tmp_path / "other").exists()


def test_names_that_are_no_file_names_are_told_apart() -> None:
    from cli.web.site import file_of

    names = [file_of(f"/m/a/c/{part}") for part in ("a%2Fb", "a_b", "a:b", "..", "%2E%2E", "A" * 300)]
    assert len(set(names)) == 5 and all(".." not in name and ":" not in name for name in names)
    assert all(len(part) < 120 for name in names for part in name.split("/"))
    assert file_of("/") == "index.html"
