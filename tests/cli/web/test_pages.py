"""The pages: every link leads somewhere, nothing from data is markup, and each says where its numbers are from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from web_parts import served

import atlas
from atlas.api.atlas import Atlas

pytest.importorskip("fastapi")
pytest.importorskip("matplotlib")

HTML = {"Accept": "text/html"}
BAD = "<img src=x onerror=alert(1)>\u202e\x07"
"""Markup, a character that turns the line around, and a bell."""


class Links(HTMLParser):
    """The addresses that a page leads to or loads, and everything that would be a script or a style of its own."""

    def __init__(self, html: str):
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value for name in ("href", "src", "hx-get") if (value := given.get(name))]
        if (tag == "script" and "src" not in given) or tag == "style":
            self.inline.append(tag)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]


@pytest.fixture(scope="module")
def shown_atlas(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small atlas with an edit."""
    import shutil

    path = Path(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("pages") / "shown.atlas"))
    opened = Atlas(path)
    opened.create_edit("no-dog", opened.query("dog", "contribution", top=3), atlas.ablate(), note="a note")
    return path


@pytest.fixture(scope="module")
def client(shown_atlas: Path) -> Iterator[Any]:
    with served(shown_atlas) as client:
        yield client


def model_of(path: Path) -> str:
    return str(Atlas(path).models()[0]["name"])


def resolved(page: str, address: str) -> str:
    return f"{page.partition('?')[0]}{address}" if address.startswith("?") else address


def test_every_link_of_every_page_leads_somewhere(client: Any) -> None:
    waiting, seen = ["/"], set[str]()
    kinds: dict[str, int] = {}
    while waiting:
        page = waiting.pop()
        if page in seen or page.startswith(("#", "data:")):
            continue
        seen.add(page)
        kind = "/".join(re.sub(r"\?.*", "", page).split("/")[:2])
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] > 40:  # neurons are many
            continue
        got = client.get(page, headers=HTML)
        assert got.status_code in (200, 303), (page, got.text[:300])
        if got.headers.get("content-type", "").startswith("text/html"):
            links = Links(got.text)
            assert not links.inline, (page, links.inline)
            assert all(not a.startswith(("http:", "https:", "//")) for a in links.addresses), "nothing from elsewhere"
            waiting += [resolved(page, unescape(a)).partition("#")[0] for a in links.addresses]
    assert {"/m", "/edits", "/runs", "/figure", "/media", "/v1", "/static", "/matrix", "/leaderboard"} <= kinds.keys()


def test_a_concept_page_says_what_when_and_by_chance(client: Any, shown_atlas: Path) -> None:
    model = model_of(shown_atlas)
    page = client.get(f"/m/{model}/c/dog?whole=1", headers=HTML).text
    best = Atlas(shown_atlas).query("dog", model=model, top=12)
    first = best.neurons[0]
    assert f"{first} carries &#39;dog&#39; most of 128 neurons" in page
    assert "would share" in page and "p = " in page
    assert f"run {best.provenance['maps'][0]['run_id'][:8]}" in page, "the run behind the numbers"
    assert "<code>atlas query " in page and " --concept dog" in page and "<code>atlas.query(" in page
    for source in ("image", "text"):
        assert f"<option{' selected' if source == 'image' else ''}>{source}</option>" in page
    other = client.get(f"/m/{model}/c/dog?source=text", headers=HTML).text
    assert "given by text" in other


def test_what_was_copied_gives_the_same_rows(client: Any, shown_atlas: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command line and the Python of a page are run."""
    import json
    import shlex

    from cli.main import main

    page = client.get(f"/m/{model_of(shown_atlas)}/c/dog?whole=1", headers=HTML).text
    commands = [unescape(c) for c in re.findall(r'data-copy="(atlas [^"]+)"', page)]
    pythons = [unescape(c) for c in re.findall(r'data-copy="(atlas\.[^"]+)"', page)]
    addresses = [unescape(a) for a in re.findall(r'href="(/v1/[^".]+\?[^"]*)">\.json', page)]
    assert len(commands) == len(pythons) == len(addresses) >= 3
    for command, python, address in zip(commands, pythons, addresses, strict=True):
        rows = client.get(address).json()["rows"]
        assert main([*shlex.split(command)[1:], "--json", "--atlas", str(shown_atlas)]) == 0
        printed = json.loads(capfd.readouterr().out)["rows"]
        asked = eval(python, {"atlas": Atlas(shown_atlas)})
        assert len(printed) == len(asked) >= len(rows) > 0, command
        for got in (printed, asked.to_pylist()):
            assert [r.get("layer") for r in got[: len(rows)]] == [r.get("layer") for r in rows], command


def test_two_maps_are_compared(client: Any, shown_atlas: Path) -> None:
    model = model_of(shown_atlas)
    got = client.get("/compare", headers=HTML)
    assert got.status_code == 303 and got.headers["location"] == f"/m/{model}/compare"
    form = client.get(f"/m/{model}/compare", headers=HTML).text
    assert "Choose a concept" in form and '<option value="dog">' in form
    names = {"concept": "dog", "method": "contribution", "source": "image", "to": "source=text", "top": "8"}
    page = client.get(f"/m/{model}/compare", params=names, headers=HTML).text
    answer = Atlas(shown_atlas).compare("dog", method="contribution", source="image", to="source=text", top=8)
    assert f"{answer.facts['shared']} of the best 8 are the same; by chance" in page
    assert "/figure/compare?" in page and 'hx-get="?' in page
    wrong = client.get(f"/m/{model}/compare", params=names | {"to": "source=image"}, headers=HTML)
    assert wrong.status_code == 400 and "is the same map" in wrong.text


def test_a_part_of_a_page_is_asked_for_by_itself(client: Any, shown_atlas: Path) -> None:
    address = f"/m/{model_of(shown_atlas)}/c/dog"
    page = client.get(address, headers=HTML).text
    assert 'hx-get="?part=layers"' in page and "Over the layers" in page
    part = client.get(f"{address}?part=layers", headers=HTML).text
    assert "<html" not in part and 'hx-get="/figure/layers?' in part
    got = client.get(f"{address}?part=nothing", headers=HTML)
    assert got.status_code == 400 and "no part" in got.text
    assert 'hx-get="?part' not in client.get(f"{address}?whole=1", headers=HTML).text


def test_an_edit_page_offers_no_question_that_gives_other_rows(client: Any, shown_atlas: Path) -> None:
    changed = Atlas(shown_atlas).edit("no-dog").neurons.neurons
    page = client.get("/edits/no-dog@1", headers=HTML).text
    changes = page[page.index('id="changes"') :]
    assert all(f"<td>{neuron}</td>" in changes for neuron in changed)
    assert "atlas edit show no-dog@1" in changes and "data-copy" not in changes and "/v1/" not in changes
    part = client.get("/edits/no-dog@1?part=changes", headers=HTML).text
    assert all(f"<td>{neuron}</td>" in part for neuron in changed)


def test_a_neuron_page_has_its_examples_and_steps(client: Any, shown_atlas: Path) -> None:
    model, opened = model_of(shown_atlas), Atlas(shown_atlas)
    page = client.get(f"/m/{model}/n/0/1", headers=HTML).text
    for row in opened.exemplars("0/1").to_pylist():
        assert (f"/media/{row['example']}/0" in page) == bool(row["media"])
    assert f'rel="prev" href="/m/{model}/n/0/0"' in page and f'rel="next" href="/m/{model}/n/0/2"' in page
    assert 'rel="prev"' not in client.get(f"/m/{model}/n/0/0", headers=HTML).text
    last = opened.models()[0]
    end = f"/m/{model}/n/{last['layers'] - 1}/{last['width'] - 1}"
    assert 'rel="next"' not in client.get(end, headers=HTML).text


def test_a_neuron_page_names_the_edits_that_change_it(client: Any, shown_atlas: Path) -> None:
    model, opened = model_of(shown_atlas), Atlas(shown_atlas)
    changed = opened.edit("no-dog").neurons.neurons
    other = next(n for n in opened.query("dog", top=50).neurons if n not in changed)
    link = '<a href="/edits/no-dog@1">no-dog@1</a>'
    for neuron, expected in ((changed[0], True), (other, False)):
        assert (link in client.get(f"/m/{model}/n/{neuron}", headers=HTML).text) == expected
        assert len(opened.edits(neuron=str(neuron), model=model)) == expected
    [row] = opened.edits(neuron=str(changed[0])).to_pylist()
    assert (row["edit"], row["gain"], row["bias"], row["changes"]) == ("no-dog@1", 0.0, 0.0, 3)
    assert not len(opened.edits(model="another"))


@pytest.mark.parametrize(
    ("query", "leads"),
    [("0/1", "/n/0/1"), ("dog", "/c/dog"), ("Dog", "/c/dog"), ("", "/")],
)
def test_the_search_box_leads_to_what_it_names(client: Any, query: str, leads: str) -> None:
    got = client.get("/search", params={"q": query}, headers=HTML)
    assert got.status_code == 303 and got.headers["location"].endswith(leads)


def test_other_words_are_looked_for_among_tokens(client: Any) -> None:
    page = client.get("/search", params={"q": "bark"}, headers=HTML).text
    assert "Neurons that decode to" in page and 'value="bark"' in page
    assert client.get("/search", params={"q": BAD}, headers=HTML).status_code == 200


def test_errors_are_pages_for_people_and_objects_for_programs(client: Any) -> None:
    for address, status in (("/nothing", 404), ("/m/none/c/dog", 400), ("/m/none/n/0/1", 400), ("/edits/none@1", 400)):
        page, program = client.get(address, headers=HTML), client.get(address)
        assert page.status_code == program.status_code == status, address
        assert "<h1>" in page.text and program.headers["content-type"] == "application/problem+json"
    assert client.get("/v1/nothing", headers=HTML).headers["content-type"] == "application/problem+json"


def test_home_links_the_concepts_that_each_model_has_maps_of(own_atlas: Path) -> None:
    import sqlalchemy as sa

    from atlas.store.engine import connect_writer

    with connect_writer(own_atlas) as connection:
        connection.execute(
            sa.text(
                "INSERT INTO models SELECT * REPLACE (99 AS model_id, 'other' AS name, 'f' AS fingerprint) FROM models"
            )
        )
    with served(own_atlas) as client:
        links = [a for a in Links(client.get("/", headers=HTML).text).addresses if "/c/" in a]
        assert links and not [a for a in links if a.startswith("/m/other/")]
        assert all(client.get(a, headers=HTML).status_code == 200 for a in links)


def test_an_empty_atlas_says_how_to_fill_it(empty_atlas: Path) -> None:
    with served(empty_atlas) as client:
        assert "atlas demo" in client.get("/", headers=HTML).text
        for address in ("/leaderboard", "/matrix", "/runs", "/edits"):
            assert client.get(address, headers=HTML).status_code == 200, address


def test_nothing_from_data_is_markup(shown_atlas: Path, tmp_path: Path) -> None:
    import shutil

    import sqlalchemy as sa

    from atlas.store.engine import connect_writer

    path = Path(shutil.copytree(shown_atlas, tmp_path / "bad.atlas"))
    changes = (
        "UPDATE concepts SET name = :bad WHERE name = 'dog'",
        "UPDATE concepts SET supercategory = :bad",
        "UPDATE examples SET prompt = :bad, answer = :bad",
        "UPDATE exemplars SET token = :bad",
        "UPDATE decodings SET tokens = list_transform(tokens, lambda token: :bad)",
        "UPDATE datasets SET licence = :bad",
        "UPDATE edits SET note = :bad",
    )
    with connect_writer(path) as connection:
        for change in changes:
            connection.execute(sa.text(change), {"bad": BAD})
    with served(path) as client:
        home = client.get("/", headers=HTML).text
        [concept] = [a for a in Links(home).addresses if "/c/" in a and "onerror" in a]
        pages = ["/", concept, f"{concept}?whole=1", f"/m/{model_of(path)}/n/0/1", "/edits", "/search?q=%3Cb%3E"]
        for page in pages:
            got = client.get(page, headers=HTML)
            assert got.status_code == 200 and not Links(got.text).inline, page
            assert "<img src=x" not in got.text and "<b>" not in got.text, page
            assert "\u202e" not in got.text and "\x07" not in got.text, page
            for figure in [a for a in Links(got.text).addresses if a.startswith("/figure/")]:
                assert "<img" not in client.get(unescape(figure)).text


def test_figures_have_no_styles_of_their_own(client: Any) -> None:
    got = client.get("/figure/layers?concept=dog")
    assert got.headers["content-type"] == "image/svg+xml"
    assert "style" not in got.text and "<svg" in got.text and ">layer<" in got.text, "text is text"
    bad = client.get("/figure/layers?concept=nothing")
    assert bad.status_code == 400 and "nothing" in bad.json()["detail"]
    assert client.get("/figure/runs").status_code == 400, "no figure shows runs"


def test_media_by_id_only(client: Any, shown_atlas: Path) -> None:
    import io

    from PIL import Image

    rows = Atlas(shown_atlas).sql("SELECT example_id, source FROM examples ORDER BY ALL").to_pylist()
    [picture] = [r["example_id"] for r in rows if r["source"] == "image"][:1]
    [words] = [r["example_id"] for r in rows if r["source"] == "text"][:1]
    got = client.get(f"/media/{picture}/0?side=32")
    assert got.headers["content-type"] == "image/jpeg" and max(Image.open(io.BytesIO(got.content)).size) == 32
    assert client.get(f"/media/{picture}/0", headers={"If-None-Match": got.headers["etag"]}).status_code == 200
    assert client.get(f"/media/{picture}/0?side=32", headers={"If-None-Match": got.headers["etag"]}).status_code == 304
    for address in (
        f"/media/{picture}/1",
        f"/media/{picture}/0?side=1",
        f"/media/{picture}/0?side=100000",
        f"/media/{words}/0",
        f"/media/{'0' * 32}/0",
        "/media/..%2F..%2Fetc%2Fpasswd/0",
        "/media/find%2F0/0",
        "/static/..%2Fapp.py",
        "/static/../app.py",
    ):
        assert client.get(address).status_code in (400, 404), address


def test_files_that_are_gone_are_said_so(shown_atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest.data.examples import BadMedia
    from ingest.datasets.scenes import Scenes

    def missing(self: Scenes, media: str) -> object:
        raise BadMedia(f"{media} is missing")

    monkeypatch.setattr(Scenes, "image", missing)
    rows = Atlas(shown_atlas).sql("SELECT example_id FROM examples WHERE source = 'image' LIMIT 1").to_pylist()
    with served(shown_atlas) as client:
        got = client.get(f"/media/{rows[0]['example_id']}/0")
        assert got.status_code == 404 and "is missing" in got.json()["detail"]


def test_what_is_vendored_is_what_the_list_says() -> None:
    import hashlib

    from cli.web.routes import STATIC

    listed = dict(
        re.findall(r"^\| `([\w.]+)` .*`([0-9a-f]{64})` \|$", (STATIC / "VENDORED.md").read_text(), re.MULTILINE)
    )
    ours = {"atlas.js", "heat.js", "live.js"}
    assert {file.name for file in STATIC.glob("*.js")} == ours | listed.keys()
    for name, digest in listed.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest, name
