"""The live page: the same answers and scores as in Python, one action at a time, within limits, and nothing is left."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from live_parts import TOKEN, LiveClient, live_server
from small_models import hooks
from web_parts import served

import atlas
from atlas.api.atlas import Atlas
from atlas.errors import UsageError
from cli.text import visible
from ingest.requests.load_model import LoadModel

pytest.importorskip("fastapi")

PROMPT = "what is this?"
OFF = ", ".join(f"1/{index}" for index in range(0, 64, 2))
"""Neurons without which the random model says something else."""


@pytest.fixture(scope="module")
def path(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("live") / "live.atlas"))


@pytest.fixture(scope="module")
def live(path: Path, llava_folder: Path) -> Iterator[LiveClient]:
    with live_server(path, llava_folder, write=True) as client:
        yield client


@pytest.fixture(scope="module")
def own_hooks(live: LiveClient, picture: Any) -> int:
    """Those that transformers keeps after the first pass with a picture."""
    live.done("/live/answer", prompt=PROMPT, picture=as_base64(picture), tokens=1)
    return hooks(live.worker.loaded.live.model)


def as_base64(picture: Any) -> str:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


@pytest.fixture
def busy(live: LiveClient) -> Iterator[threading.Event]:
    """The model does something until the event is set."""
    begun, end = threading.Event(), threading.Event()

    def do(loaded: Any) -> None:
        begun.set()
        assert end.wait(30)

    live.worker.submit("something", do)
    assert begun.wait(30)
    yield end
    end.set()


def test_answers_are_those_of_generate_and_of_the_edit(
    live: LiveClient, own_hooks: int, path: Path, llava_folder: Path, tmp_path: Path, picture: Any
) -> None:
    from atlas.query.neuron_set import neuron_set
    from ingest.requests.generate import Generate

    neurons = [atlas.Neuron.parse(text) for text in OFF.split(", ")]
    fingerprint = live.worker.loaded.stored.fingerprint
    edit = Atlas(path).create_edit("off", neuron_set(neurons, {"fingerprint": fingerprint}), atlas.ablate())
    picture.save(tmp_path / "shown.png")
    request = Generate(PROMPT, image=[str(tmp_path / "shown.png")], max_new_tokens=12)
    before, after = map(str, request.compare(edit))
    assert before != after
    content = {"prompt": PROMPT, "picture": as_base64(picture), "tokens": 12}
    assert live.done("/live/answer", **content)["answer"] == visible(before)
    for changes in ([{"neurons": OFF}], [{"neurons": "edit:off", "factor": 0}], [{"edit": "off@1"}]):
        assert live.done("/live/answer", **content, changes=changes)["answer"] == visible(after), changes
    assert live.done("/live/answer", **content, changes=[{"neurons": OFF, "factor": 1}])["answer"] == visible(before)
    assert live.done("/live/answer", **content)["answer"] == visible(before), "nothing is left"
    assert hooks(live.worker.loaded.live.model) == own_hooks


def test_random_neurons_are_those_of_evaluate(live: LiveClient, path: Path) -> None:
    from atlas.live.edit.apply import changing
    from cli.web.live_changes import changes_of
    from ingest.evaluate.controls import controls_for
    from ingest.evaluate.edit import on_random_neurons

    model = live.worker.loaded.live
    given = [{"neurons": ", ".join(f"1/{index}" for index in range(24)), "factor": -4}]
    [made] = changes_of(path, live.worker.loaded.stored, given)
    random = on_random_neurons(made.intervention, controls_for(path, model, None, "product", notes=[]), 3)
    assert not set(random.neurons) & set(made.intervention.neurons) and len(random.neurons) == 24
    with changing(model, random):
        [ids] = model.generate([model.encoder.prompt(PROMPT)], max_new_tokens=12)
    content: dict[str, Any] = {"prompt": PROMPT, "tokens": 12, "changes": given}
    got = live.done("/live/answer", **content, random=3)
    assert got["ids"] == ids != live.done("/live/answer", **content)["ids"]
    whole = [{"neurons": ", ".join(f"1/{index}" for index in range(64))}]
    ended = live.ended(live.post("/live/answer", prompt=PROMPT, changes=whole, random=1).json()["action"])
    assert "whole layer" in ended["problem"]


def test_words_are_made_of_the_tokens_of_the_answer(live: LiveClient) -> None:
    got = live.done("/live/answer", prompt=PROMPT, tokens=12)
    encoder = live.worker.loaded.live.encoder
    words = encoder.decode(got["ids"]).split()
    assert len(got["ids"]) <= 12 and [word["text"] for word in got["words"]] == list(map(visible, words))
    for word, text in zip(got["words"], words, strict=True):
        assert word["tokens"] and encoder.decode([got["ids"][i] for i in word["tokens"]]).strip() in text


@pytest.mark.parametrize("changes", [[], [{"neurons": "0/1, 0/2", "factor": 3}]])
def test_contributions_are_values_times_direct_effects(live: LiveClient, own_hooks: int, changes: list[Any]) -> None:
    """By the formula of the method, and by the method's own code within a job."""
    from atlas.live.hooks import tracing
    from cli.web.live_changes import changed, changes_of

    answer = live.done("/live/answer", prompt=PROMPT, tokens=12, changes=changes)
    tokens = answer["words"][-1]["tokens"]
    got = live.done("/live/contributions", prompt=PROMPT, ids=answer["ids"], tokens=tokens, changes=changes, top=100)
    model = live.worker.loaded.live
    prompt = model.encoder.prompt(PROMPT).answered(answer["ids"])
    made = changes_of(live.client.app.state.asking.path, live.worker.loaded.stored, changes)
    with torch.no_grad(), changed(model, made), tracing(model.layout) as capture:
        model.forward(model.batch([prompt]))
    unembedding = model.layout.unembedding()
    expected: dict[str, float] = {}
    for layer, values in capture.values.items():
        effects = unembedding[[answer["ids"][t] for t in tokens]] @ model.layout.write_vectors(layer)
        at = values[0, [len(prompt.ids) - 1 + t for t in tokens]]
        scores = (at * effects).mean(0)
        expected |= {f"{layer}/{index}": float(score) for index, score in enumerate(scores)}
    best = sorted(expected.values(), reverse=True)[:100]
    assert [row["score"] for row in got["rows"]] == pytest.approx(best, rel=1e-4, abs=1e-6)
    assert {row["neuron"]: row["score"] for row in got["rows"]} == pytest.approx(
        {row["neuron"]: expected[row["neuron"]] for row in got["rows"]}, rel=1e-4, abs=1e-6
    )
    first = got["rows"][0]
    assert first["tokens"] and live.get(first["link"]).status_code == 200
    assert got["neurons"] == len(expected) == 128 and hooks(live.worker.loaded.live.model) == own_hooks


def test_an_action_that_runs_is_cancelled_and_leaves_nothing(live: LiveClient, own_hooks: int) -> None:
    from cli.web.live_changes import changed, changes_of

    made = changes_of(live.client.app.state.asking.path, live.worker.loaded.stored, [{"neurons": OFF}])
    started = threading.Event()

    def endless(loaded: Any) -> None:
        while True:
            with changed(loaded.live, made):
                loaded.live.ask(PROMPT)
            started.set()

    action = live.worker.submit("endless", endless)
    assert started.wait(30)
    assert live.post(f"/live/actions/{action.id}/cancel").status_code == 200
    assert live.ended(action.id)["state"] == "cancelled"
    assert hooks(live.worker.loaded.live.model) == own_hooks
    assert live.done("/live/answer", prompt=PROMPT, tokens=3)["ids"], "and the next one is done"


def test_an_action_has_its_time(live: LiveClient, own_hooks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.web.live_worker.SECONDS", -1.0)
    action = live.post("/live/answer", prompt=PROMPT).json()["action"]
    ended = live.ended(action)
    assert (
        ended["state"] == "problem"
        and "ask for fewer tokens" in ended["problem"]
        and hooks(live.worker.loaded.live.model) == own_hooks
    )
    monkeypatch.setattr("cli.web.live_worker.SECONDS", 120.0)
    monkeypatch.setattr("cli.web.live_worker.ABANDONED", -1.0)
    assert live.ended(live.post("/live/answer", prompt=PROMPT).json()["action"])["state"] == "cancelled"


def test_nothing_large_is_kept(live: LiveClient, picture: Any) -> None:
    got = live.post("/live/answer", prompt=PROMPT, picture=as_base64(picture), tokens=2).json()["action"]
    live.ended(got)
    assert live.worker.action(got).do is None
    before = {*live.worker._actions}
    assert live.worker.wait_for("something", lambda loaded: 3, 30) == 3 and {*live.worker._actions} == before
    for _ in range(110):
        last = live.post("/live/answer", prompt="", tokens=1).json()["action"]
        live.ended(last)
    assert len(live.worker._actions) <= 96 and live.get(f"/live/actions/{got}").status_code == 404


def test_a_get_changes_nothing(live: LiveClient, path: Path) -> None:
    from cli.web.state import state_of

    before = state_of(path)
    for address in ("/live?neurons=0/1&prompt=x", "/live/status", f"/m/{live.worker.name}/n/0/1?percentile=95"):
        assert live.get(address, Accept="text/html").status_code == 200
    assert state_of(path) == before


def test_two_clients_wait_for_each_other(live: LiveClient, busy: threading.Event) -> None:
    first, second, third = (live.post("/live/answer", prompt=PROMPT, tokens=2).json() for _ in range(3))
    assert [shown["state"] for shown in (first, second, third)] == ["waiting"] * 3
    assert [shown["ahead"] for shown in (first, second, third)] == [1, 2, 3]
    assert live.get("/live/status").json()["waiting"] == 4
    assert live.post(f"/live/actions/{second['action']}/cancel").json()["state"] == "cancelled"
    assert live.get(f"/live/actions/{third['action']}").json()["ahead"] == 2
    busy.set()
    assert [live.ended(shown["action"])["state"] for shown in (first, second, third)] == ["done", "cancelled", "done"]


def test_more_than_may_wait_are_refused(
    live: LiveClient, busy: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.web.live_worker.WAITING", 2)
    waiting = [live.post("/live/answer", prompt=PROMPT, tokens=2) for _ in range(3)]
    assert [got.status_code for got in waiting] == [202, 202, 503]
    assert "wait for the model already" in waiting[2].json()["detail"] and waiting[2].headers["retry-after"]
    busy.set()
    live.ended(waiting[1].json()["action"])


def recording(seconds: float) -> str:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(1000)
        file.writeframes(b"\x10\x00" * int(1000 * seconds))
    return base64.b64encode(written.getvalue()).decode()


def test_limits_are_told(live: LiveClient) -> None:
    from PIL import Image

    wide = as_base64(Image.new("L", (5000, 4000)))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tokens": 201}, "from 1 to 200"),
        ({"tokens": True}, "whole number"),
        ({"prompt": "a" * 20_001}, "at most 20,000 characters"),
        ({"prompt": "\ud800"}, "half a character"),
        ({"picture": "/etc/passwd"}, "not base64"),
        ({"picture": base64.b64encode(b"/etc/passwd").decode()}, "the picture is not a picture"),
        ({"picture": wide}, "the picture is 5000 x 4000 pixels, the limit is 16,000,000"),
        ({"picture": "A" * 14_200_000}, "10 MiB"),
        ({"recording": recording(61)}, "60"),
        ({"picture": wide, "recording": wide}, "not both"),
        ({"changes": [{"neurons": "9/1"}]}, "no neuron"),
        ({"changes": [{"neurons": "0/1", "factor": 101}]}, "from -100 to 100"),
        ({"changes": [{"neurons": "nothing"}]}, "no selection or edit called 'nothing'"),
        ({"changes": [{"edit": "nothing@1"}]}, "no edit called 'nothing@1'"),
        ({"changes": [{"neurons": "0/1"}] * 21}, "at most 20 changes"),
        ({"changes": {"neurons": "0/1"}}, "list of objects"),
    ]
    for content, message in cases:
        got = live.post("/live/answer", **({"prompt": PROMPT} | content))
        assert got.status_code == 400 and message in got.json()["detail"], (message, got.text[:300])
        assert "atlas-live-" not in got.json()["detail"], "nor the path of a file that was sent"
    for ids, tokens, message in ([[5], [1], "has 1 tokens"], [[10**6], [0], "tokens, and ids has"]):
        ended = live.ended(live.post("/live/contributions", prompt=PROMPT, ids=ids, tokens=tokens).json()["action"])
        assert ended["state"] == "problem" and message in ended["problem"]
    assert live.post("/live/contributions", prompt=PROMPT, ids=[], tokens=[0]).status_code == 400


def test_every_live_route_needs_the_token(live: LiveClient) -> None:
    from cli.web import heat, live_routes

    asking = live.client.app.state.asking
    routes = [*live_routes.router(asking).routes, *heat.router(asking).routes]
    found = [(route.path, method) for route in routes for method in route.methods] + [("/live", "GET")]
    assert len(found) == 10
    for address, method in found:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            got = live.client.request(method, address, headers={"Content-Type": "application/json", **headers})
            assert got.status_code == 401, (address, method)
        if method == "POST":
            form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Bearer {TOKEN}"}
            assert live.client.post(address, content="a=b", headers=form).status_code == 415, "no form can do it"
            assert live.get(address).status_code in (404, 405), "and no GET"


def test_what_was_found_is_saved_where_that_is_allowed(live: LiveClient, path: Path, llava_folder: Path) -> None:
    content = {"kind": "edit", "name": "found", "changes": [{"neurons": "0/1, 1/2"}], "note": "<b>seen</b>"}
    assert live.post("/live/save", **content).json() == {"kind": "edit", "saved": "found@1"}
    stored = Atlas(path).edit("found")
    assert [str(neuron) for neuron in stored.neurons] == ["0/1", "1/2"] and stored.data.note == "<b>seen</b>"
    assert {(change.gain, change.bias) for change in stored.data.changes} == {(0.0, 0.0)}
    both = [{"edit": "found@1"}, {"neurons": "1/2, 1/3", "factor": 0.5}]
    assert live.post("/live/save", **{**content, "name": "both", "changes": both}).json()["saved"] == "both@1"
    assert {str(c.neuron): c.gain for c in Atlas(path).edit("both").data.changes} == {"0/1": 0, "1/2": 0, "1/3": 0.5}
    chosen = {"kind": "selection", "name": "chosen", "changes": both}
    assert live.post("/live/save", **chosen).json()["saved"] == "chosen"
    assert [str(neuron) for neuron in Atlas(path).selection("chosen")] == ["0/1", "1/2", "1/3"]
    for changed in ({"name": "../x"}, {"kind": "run"}, {"changes": []}, {"name": 3}, {"changes": [{"edit": "found"}]}):
        got = live.post("/live/save", **(content | changed))
        assert got.status_code == 400, changed
    with live_server(path, llava_folder) as reading:
        got = reading.post("/live/save", **content)
        assert got.status_code == 403 and "--write" in got.json()["detail"]
        assert "Save the changes" not in reading.get("/live").text


def test_nothing_asked_is_markup(live: LiveClient) -> None:
    bad = "<img src=x onerror=alert(1)>"
    page = live.client.get("/live", params={"prompt": bad, "neurons": f'"{bad}'}, headers=live.headers).text
    assert bad not in page and "&lt;img src=x" in page and "need" in page and "<noscript>" in page
    assert " style=" not in page and "onerror=alert(1)>" not in page.replace("onerror=alert(1)&gt;", "")


def test_a_model_that_the_atlas_does_not_know_is_refused(path: Path, tmp_path: Path, random_llava: Any) -> None:
    model, processor = random_llava(seed=5)
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    with live_server(path, tmp_path / "other") as client:
        assert client.get("/live/status").json()["state"] == "failed"
        got = client.post("/live/answer", prompt=PROMPT)
        assert got.status_code == 400 and f"`atlas ingest --model {tmp_path / 'other'}`" in got.json()["detail"]
    options = ["--model", str(tmp_path / "other"), "--atlas", str(path), "--port", "0", "--no-browser"]
    command = [sys.executable, "-m", "cli.main", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "makes it known" in done.stderr


def test_a_live_model_needs_a_token_and_writing_needs_a_model(path: Path) -> None:
    from cli.web.settings import Settings

    with pytest.raises(UsageError, match="those who have its token"):
        Settings(path, live=LoadModel("tiny-llava"))
    with pytest.raises(UsageError, match="give its model"):
        Settings(path, write=True)
    with served(path) as client:
        for address in ("/live", "/live/status", "/heat/x/0/1"):
            got = client.get(address)
            assert got.status_code == 404 and "atlas serve --model" in got.json()["detail"], address
        assert ">Live<" not in client.get("/", headers={"Accept": "text/html"}).text


def test_our_scripts_are_short() -> None:
    from cli.web.routes import STATIC

    own = [file for file in STATIC.glob("*.js") if file.name != "htmx.min.js"]
    assert len(own) == 3 and sum(len(file.read_text(encoding="utf-8").splitlines()) for file in own) < 300


def test_a_neuron_whose_scores_are_0_has_a_page_with_heatmaps(path: Path, tmp_path: Path) -> None:
    import sqlalchemy as sa

    from atlas.store.engine import connect_writer

    own = Path(shutil.copytree(path, tmp_path / "own.atlas"))
    [row] = Atlas(own).sql("SELECT layer, neuron FROM exemplars WHERE source = 'image' LIMIT 1").to_pylist()
    where = f"layer = {row['layer']} AND neuron = {row['neuron']}"
    with connect_writer(own) as connection:
        connection.execute(sa.text(f"UPDATE scores SET score = 0 WHERE {where}"))
    neuron = f"{row['layer']}/{row['neuron']}"
    profile = Atlas(own).neuron(neuron)
    assert len(profile) and len(profile.ranked()) < len(profile)
    ranks = [r["rank"] for r in profile.ranked()]
    assert ranks == sorted(ranks) and None not in ranks
    assert all(r["percentile"] is None for r in profile.to_pylist() if r["rank"] is None)
    model = str(Atlas(own).models()[-1]["name"])
    with live_server(own, model) as client:
        page = client.get(f"/m/{model}/n/{neuron}", accept="text/html")
        assert page.status_code == 200 and "/heat/" in page.text
