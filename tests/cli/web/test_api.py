"""The HTTP API: the same answers as in Python, in pages and files, and errors that say what is wrong."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from web_parts import served

import atlas.questions
from atlas import registry
from atlas.api.ask import question_named
from atlas.api.atlas import Atlas
from cli.web.paging import has_pages
from cli.web.parameters import required_of

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

MODEL = "{model}"
ASKED: dict[str, dict[str, Any]] = {
    "agreement": {"concept": "dog"},
    "compare": {"concept": "dog", "method": "contribution", "source": "image", "to": "source=text", "top": 8},
    "cross_ablation": {},
    "edit_diff": {"first": "no-dog", "second": "no-dog"},
    "exemplars": {"address": "0/1"},
    "layers": {"concept": "dog", "methods": ["contribution", "activation"], "top": 5},
    "match": {"first": MODEL, "second": MODEL, "concept": "dog", "method": "contribution", "source": "text"},
    "neuron": {"address": "0/1"},
    "only": {"concept": "dog", "method": "contribution", "sources": ["image", "text"], "top": 5},
    "overlap": {"concept": "dog", "methods": ["contribution", "activation"], "top": 5},
    "query": {"concept": "dog", "method": "contribution", "source": "text", "top": 5},
    "shared": {"concepts": ["dog", "cat"], "method": "contribution", "top": 5},
    "search": {"text": "dog"},
    "similar": {"address": "0/1"},
}
"""What a question needs to have an answer in the small atlas; the others need nothing, or have none there."""


@pytest.fixture(scope="module")
def client(stored_atlas: Path) -> Iterator[Any]:
    with served(stored_atlas) as client:
        yield client


@pytest.fixture(scope="module")
def opened(stored_atlas: Path) -> Atlas:
    return Atlas.open(stored_atlas)


def asked(name: str, opened: Atlas) -> dict[str, Any]:
    model = opened.models()[0]["name"]
    given = {key: model if value == MODEL else value for key, value in ASKED.get(name, {}).items()}
    if name in ("run", "run_diff"):
        run = opened.runs()[0]["run"]
        given = {"run": run} if name == "run" else {"first": run, "second": run}
    return given


def texts(given: dict[str, Any]) -> dict[str, str]:
    return {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in given.items()}


@pytest.mark.parametrize("name", registry.folder_names(atlas.questions))
def test_every_question_has_the_answer_that_python_gives(name: str, client: Any, opened: Atlas) -> None:
    given = asked(name, opened)
    try:
        expected = opened.ask(question_named(name)(**given))
    except atlas.AtlasError as error:
        for response in (client.get(f"/v1/{name}", params=texts(given)), client.post(f"/v1/{name}", json=given)):
            assert response.status_code >= 400 and response.headers["content-type"] == "application/problem+json"
            assert str(error).partition("'")[0] in response.json()["detail"]
        return
    got = client.get(f"/v1/{name}", params=texts(given))
    assert got.status_code == 200, got.text
    content = plain(got.json())
    first_page = expected if has_pages(question_named(name)) else expected[:20]
    assert content["rows"] == plain(first_page.to_pylist())
    assert content["facts"] == plain(expected.facts) and content["provenance"] == plain(expected.provenance)
    assert content["notes"] == list(expected.notes) and content["defaults"] == list(expected.defaults)
    assert content["parts"] == {part: plain(table.to_pylist()) for part, table in expected.parts.items()}
    assert plain(client.post(f"/v1/{name}", json=given).json()) == content


def test_enough_of_the_questions_have_an_answer_here(client: Any, opened: Atlas) -> None:
    done = [
        name
        for name in registry.folder_names(atlas.questions)
        if client.get(f"/v1/{name}", params=texts(asked(name, opened))).status_code == 200
    ]
    assert len(done) > 20, done


def plain(value: Any) -> Any:
    """A value as JSON has it, with numbers to nine digits: DuckDB's threads add in any order."""
    from cli.interchange import json_text

    return json.loads(json_text(value), parse_float=lambda text: float(f"{float(text):.9g}"))


def test_rows_as_files(client: Any, opened: Atlas) -> None:
    given = ASKED["query"]
    table = opened.query(**given).table
    got = client.get("/v1/query.csv", params=given)
    assert got.headers["content-type"] == "text/csv; charset=utf-8"
    [names, *rows] = csv.reader(io.StringIO(got.text))
    assert names == table.column_names and [float(row[names.index("score")]) for row in rows] == [
        pytest.approx(score) for score in table["score"].to_pylist()
    ]
    assert pq.read_table(io.BytesIO(client.get("/v1/query.parquet", params=given).content)).equals(table)


def test_pages_together_are_the_whole_answer(client: Any, opened: Atlas) -> None:
    whole = plain(opened.neuron("0/1").to_pylist())
    assert len(whole) > 4
    rows: list[Any] = []
    after = None
    while True:
        page = client.get("/v1/neuron", params={"address": "0/1", "limit": 3} | ({"after": after} if after else {}))
        rows += plain(page.json()["rows"])
        assert len(page.json()["rows"]) <= 3
        if (after := page.json()["next"]) is None:
            break
    assert rows == whole
    pages = [client.get("/v1/query", params={"concept": "dog", "top": 4}).json()]
    pages.append(client.get("/v1/query", params={"concept": "dog", "top": 4, "after": pages[0]["next"]}).json())
    assert plain(pages[0]["rows"] + pages[1]["rows"]) == plain(opened.query("dog", top=8).to_pylist())


def test_a_cursor_holds_for_its_question_and_atlas_only(own_atlas: Path) -> None:
    with served(own_atlas) as client:
        after = client.get("/v1/neuron", params={"address": "0/1", "limit": 3}).json()["next"]
        for address, cursor, message in (
            ("0/2", after, "another question"),
            ("0/1", "x", "this is not one"),
            ("0/1", "WyJhIiwgLTFd", "this is not one"),
        ):
            got = client.get("/v1/neuron", params={"address": address, "limit": 3, "after": cursor})
            assert got.status_code == 400 and message in got.json()["detail"]
        Atlas(own_atlas).use(dataset="scenes")
        got = client.get("/v1/neuron", params={"address": "0/1", "limit": 3, "after": after})
        assert got.status_code == 400 and "the atlas has changed" in got.json()["detail"]


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/v1/query?concpt=dog", 400, "no parameter of this question called 'concpt'; did you mean 'concept'?"),
        ("/v1/query?concept=dgo", 400, "no stored concept called 'dgo'; did you mean 'dog'?"),
        ("/v1/query", 400, "give concept, or another condition"),
        ("/v1/query?concept=dog&top=0", 400, "top must be at least 1"),
        ("/v1/query?concept=dog&top=5000", 400, "top is at most 1,000 here"),
        ("/v1/query?concept=dog&each=perhaps", 400, "each is true or false, not 'perhaps'"),
        ("/v1/neuron", 400, "give address: layer/index, for example 3/117."),
        ("/v1/neuron?address=9/9", 400, "no neuron 9/9"),
        ("/v1/neuron?address=0/1&limit=x", 400, "limit must be a whole number, not 'x'"),
        ("/v1/neuron?address=0/1&limit=1001", 400, "limit must be from 1 to 1,000"),
        ("/v1/points?layer=two", 400, "layer must be a whole number, not 'two'"),
        ("/v1/edit_diff?first=../../x&second=y", 400, ""),
        ("/v1/nothing", 404, "there is nothing at /v1/nothing"),
    ],
)
def test_what_is_wrong_is_said(client: Any, address: str, status: int, message: str) -> None:
    got = client.get(address)
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json"), got.text
    content = got.json()
    assert message in content["detail"] and content["status"] == status and "[[" not in content["detail"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"[1]", "send a JSON object"),
        (b'{"address": 3}', "address must be"),
        (b'{"address": "0/1", "limit": true}', "limit is a whole number"),
        (b'{"adress": "0/1"}', "did you mean 'address'?"),
        (b'{"address": "' + b"x" * (1 << 20) + b'"}', "at most 1024 KiB"),
        (b"[" * 100_000, "the body is not JSON"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(client: Any, body: bytes, message: str) -> None:
    got = client.post("/v1/neuron", content=body, headers={"Content-Type": "application/json"})
    assert got.status_code == 400 and message in got.json()["detail"]


def test_browsers_keep_answers_until_the_atlas_changes(own_atlas: Path) -> None:
    with served(own_atlas) as client:
        first = client.get("/v1/concepts")
        mark = {"If-None-Match": first.headers["etag"]}
        assert client.get("/v1/concepts", headers=mark).status_code == 304
        assert client.get("/v1/concepts?limit=1", headers=mark).status_code == 200
        Atlas(own_atlas).use(dataset="scenes")
        assert client.get("/v1/concepts", headers=mark).status_code == 200


def test_who_writes_the_atlas_is_said(own_atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.store.database.PATIENCE", 0.2)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom atlas.store.engine import connect_writer\n"
        "with connect_writer(Path(sys.argv[1])):\n    print('open', flush=True)\n    time.sleep(30)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(own_atlas)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
        with served(own_atlas) as client:
            got = client.get("/v1/models")
            assert got.status_code == 503 and got.headers["retry-after"] == "2"
            assert f"process {writer.pid} is writing" in got.json()["detail"]
            writer.kill()
            writer.wait()
            assert client.get("/v1/models").status_code == 200
    finally:
        writer.kill()
        writer.communicate()


def test_a_question_that_takes_too_long_is_ended(stored_atlas: Path) -> None:
    with served(stored_atlas, seconds=0.0001) as client:
        got = client.get("/v1/query?concept=dog")
        assert got.status_code == 503 and "took longer than 0.0001 s" in got.json()["detail"]


def test_the_document_of_the_api_is_up_to_date() -> None:
    from cli.web.write_openapi import FILE, text

    assert FILE.read_text(encoding="utf-8") == text(), "python -m cli.web.write_openapi"


def test_the_document_names_every_field_with_its_help(client: Any) -> None:
    document = client.get("/v1/openapi.json").json()
    for name in registry.folder_names(atlas.questions):
        parameters = document["paths"][f"/v1/{name}"]["get"]["parameters"]
        described = [document["components"]["parameters"][p["$ref"].rpartition("/")[2]] for p in parameters]
        assert {p["name"] for p in described if p["required"]} == set(required_of(question_named(name)))
        assert all(p["schema"]["description"] and "[[" not in p["schema"]["description"] for p in described)
