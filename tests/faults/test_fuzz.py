"""Every parser with inputs that nobody would write: a value or one of the project's own errors, never anything else."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzzing import a_file, damaged, feed, objects, texts

from atlas.edits import files as edit_files
from atlas.edits import set_expression, single_file
from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.positions import Positions
from atlas.errors import AtlasError, UsageError, unknown
from atlas.neurons import Neuron, parse_layers
from atlas.query import filter_text, filters, paging
from atlas.query import saved as query_saved
from atlas.query.neuron_set import neuron_set
from atlas.query.selection_rules import Rule
from atlas.store import run_manifest

# Fast parsers always get ten thousand.
FAST = pytest.mark.parametrize("number", [10_000])
SLOW = pytest.mark.parametrize("number", [700, pytest.param(10_000, marks=pytest.mark.nightly)])


FILTERS = (
    "concept = dog and layer in 8-15,20 and not token = bark",
    "(method = contribution or method = activation) and percentile >= 99 and effect.suppression > 0.5",
    'concept = "hot dog" and label = miner:image',
    "not (score < 0.5 or z >= 4) and rank in (1,2,3)",
)


@FAST
def test_filters_as_text(number: int) -> None:
    assert (
        feed(number, texts(*FILTERS), filter_text.parse, lambda tree: filter_text.parse(filter_text.text_of(tree))) > 50
    )


@FAST
def test_filters_as_json(number: int) -> None:
    make = objects(*(filters.as_json(filter_text.parse(whole)) for whole in FILTERS))

    def read(data: bytes) -> Any:
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            raise UsageError("no JSON") from None
        return filters.from_json(said)

    assert feed(number, make, read, lambda tree: filters.from_json(filters.as_json(tree))) > 50


def test_filters_deeper_than_any(number: int = fuzzing.DEEP) -> None:
    nested: Any = {"field": "layer", "op": "=", "value": 1}
    listed: Any = []
    for _ in range(number):
        nested, listed = {"not": nested}, [listed]
    for said in (nested, listed, {"and": listed}, {"field": "concept", "op": "=", "value": listed}):
        with pytest.raises(UsageError):
            filters.from_json(said)
    for whole in ("(" * 4000 + "layer = 1", "not " * 2400 + "layer = 1"):
        with pytest.raises(UsageError, match="levels deep"):
            filter_text.parse(whole)


@FAST
def test_rules(number: int) -> None:
    valid = (
        "top:50",
        "per_layer:5",
        "percentile:99",
        "fraction:0.3",
        "above:0.5",
        "z:4",
        "z:4,concept=cat,source=text",
    )
    assert feed(number, texts(*valid), Rule.parse, lambda rule: Rule.parse(str(rule))) > 50


@FAST
def test_places(number: int) -> None:
    valid = ("all", "role=image,text", "position=-1,2:5", "phase=prefill", "role=image;position=-3:;phase=prefill")
    assert feed(number, texts(*valid), Positions.parse, lambda where: Positions.parse(str(where))) > 50


@FAST
def test_addresses(number: int) -> None:
    make = texts("3/117", "vision/3/17", "0/0", "language/31/11007")
    assert feed(number, make, Neuron.parse, lambda neuron: Neuron.parse(str(neuron))) > 50


@FAST
def test_sets_of_layers(number: int) -> None:
    make = texts("3", "8-15", "0,2,8-15", "0-10000")
    assert feed(number, make, parse_layers, lambda layers: parse_layers(",".join(map(str, layers)))) > 50


@FAST
def test_cursors(number: int) -> None:
    by = (*paging.order((), ("concept",)), ("z", True))
    row = {"rank": 3, "concept": "dog", "component": "language", "layer": 1, "neuron": 2, "z": 0.5}
    whole = paging.cursor(by, row, "q" * 16)
    said = ["q" * 16, *(row[name] for name, _ in by)]

    def make(draw: random.Random) -> str:
        if draw.random() < 0.4:
            return damaged(draw, whole.encode()).decode(errors="surrogateescape")
        return base64.urlsafe_b64encode(objects(said)(draw)).decode().rstrip("=")

    def again(last: list[Any]) -> list[Any]:
        row = dict(zip((name for name, _ in by), last, strict=True))
        return paging.read(paging.cursor(by, row, "q" * 16), by, "q" * 16)

    assert feed(number, make, lambda given: paging.read(given, by, "q" * 16), again) > 50


def named(_: Path, name: str) -> Any:
    if name not in ("dog", "cat", "edit:no-dog@1"):
        raise unknown("selection or edit", name, ["dog", "cat"], "atlas select ls")
    return neuron_set([Neuron("language", 0, len(name)), Neuron("language", 0, 1)], {"fingerprint": "f"})


@FAST
def test_set_expressions(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_expression, "named", named)
    make = texts("dog & cat", "(dog | cat) - dog", "dog - cat & edit:no-dog@1", "((dog))")
    assert feed(number, make, lambda given: set_expression.of_expression(Path(), given), None) > 50


@pytest.mark.parametrize("number", [100, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_set_expressions_of_a_real_atlas(number: int, world: Path) -> None:
    make = texts("dogs & quiet", "selection:dogs - edit:quiet@1", "(dogs | noisy) - quiet", "selection:dogs")
    assert feed(number, make, lambda given: set_expression.of_expression(world, given), None) > 2


@SLOW
def test_job_files(number: int, tmp_path: Path) -> None:
    from ingest.job import make_job, read_toml

    file = tmp_path / "job.toml"
    valid = b"""model = "tiny-llava"
dataset = "scenes"
concepts = ["dog", "cat"]
sources = ["image"]
per_concept = 3
reduce = ["mean"]
keep = "top:50"
layers = "0,2-3"
[options]
seed = 1
[methods.contribution]
norm = true
[methods.integrated_gradients]
"""

    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return damaged(draw, valid)
        lines = valid.decode().splitlines()
        at = draw.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        odd = ("1979-05-27", "[[1]]", "{a = 1}", "nan", "-1", '"\\u0000"', "'@/dev/null'", "[1.5]", "true", "9" * 400)
        lines[at] = (
            f"{key}= {draw.choice(odd)}" if equals else draw.choice(("[methods]", "[[methods]]", "[methods.x]", "x"))
        )
        return "\n".join(lines).encode()

    read = a_file(file, lambda: make_job(read_toml(file)))
    assert feed(number, make, read, lambda job: make_job(asdict(job))) > 20


MODEL = {"name": "tiny", "revision": None, "fingerprint": "f" * 64, "model_type": "llava", "layers": 2, "width": 8}
MODEL |= {"d_model": 4, "vocabulary": 32, "created_at": "2026-01-01T00:00:00"}


def an_edit() -> Edit:
    changes = (
        Change(Neuron("language", 1, 3), 0.0),
        Change(Neuron("language", 1, 4), 0.5, -1.5, 0.25, Positions.parse("role=image;phase=prefill"), 0),
    )
    deltas = np.arange(4, dtype=np.float32)[None]
    return Edit("x", 1, MODEL, "dog", {"maps": []}, Intervention(changes, "product", deltas, 3), "2026", "mine")


@SLOW
def test_edit_files(number: int, tmp_path: Path) -> None:
    file = edit_files.write_edit(tmp_path, an_edit())
    make = objects(json.loads(file.read_text()))

    def again(edit: Edit) -> Edit:
        said = json.loads(json.dumps(edit_files.as_json(edit)))
        return edit_files.from_json(said, edit.intervention.deltas)

    assert feed(number, make, a_file(file, lambda: edit_files.read_edit(file)), again) > 20


@SLOW
def test_edits_handed_on(number: int, tmp_path: Path) -> None:
    from safetensors.numpy import save

    file = tmp_path / "x.safetensors"
    single_file.write_bundle(an_edit(), file)
    whole = file.read_bytes()
    said = edit_files.as_json(an_edit()) | {"format": single_file.FORMAT, "sum": single_file._sum(an_edit())}
    make_said = objects(said)

    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return damaged(draw, whole)
        tensors = {
            draw.choice(("deltas", "other")): np.zeros(draw.choice(((0, 0), (1, 4), (2,))), draw.choice(("f4", "i8")))
        }
        return bytes(save(tensors, metadata={"edit": make_said(draw).decode(errors="replace")}))

    feed(number, make, a_file(file, lambda: single_file.read_bundle(file)), None)
    file.write_bytes(whole)
    assert single_file.read_bundle(file).changes == an_edit().changes


@SLOW
def test_run_manifests(number: int, world: Path) -> None:
    folder = next(f.parent for f in world.glob("runs/*/scores.parquet"))
    make = objects(json.loads((folder / run_manifest.NAME).read_text()))
    for verify in (False, True) if number < 1000 else (False,):
        read = a_file(
            folder / run_manifest.NAME, lambda verify=verify: run_manifest.read_manifest(folder, verify=verify)
        )
        assert feed(number, make, read, None) > 20


@SLOW
def test_selection_files(number: int, world: Path, tmp_path: Path) -> None:
    file = world / "selections" / "dogs.json"
    make = objects(json.loads(file.read_text()))

    def again(found: query_saved.Selection) -> query_saved.Selection:
        saved = query_saved.save(tmp_path, found.name, found.as_set(), note=found.note, replace=True)
        assert query_saved.read(query_saved.file_of(tmp_path, saved.name)) == saved
        return found

    assert feed(number, make, a_file(file, lambda: query_saved.read(file)), again) > 20


def test_another_exception_is_noticed() -> None:
    def read(given: int) -> int:
        if given == 3:
            raise KeyError("mine")
        if given == 4:
            raise AtlasError("clear")
        return given

    with pytest.raises(AssertionError, match="KeyError: 'mine'"):
        feed(10, lambda draw: draw.randrange(5), read, None)
    with pytest.raises(AssertionError, match="reads back as another"):
        feed(10, lambda draw: 1, lambda given: given, lambda value: value + 1)
