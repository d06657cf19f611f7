"""An edit handed on: what arrives is what was sent, and what is damaged, forged or impossible is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edit_parts import D_MODEL, edit_of, files, neuron, same
from safetensors import safe_open
from safetensors.numpy import save_file

from atlas import Atlas
from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.positions import Positions
from atlas.edits.single_file import read_bundle, write_bundle
from atlas.errors import AtlasError, IntegrityError, UsageError
from atlas.maintain.check import check

WHOLE = Intervention(
    (
        Change(neuron(0, 3), 0.1, 1 / 3, 0.25, Positions(("image",)), 1),
        Change(neuron(1, 63), write=0),
        Change(neuron(1, 2), 0.0),
    ),
    "gate",
    np.random.default_rng(0).standard_normal((2, D_MODEL)).astype(np.float32),
    7,
)


@pytest.fixture
def edit() -> Edit:
    return edit_of(WHOLE, version=4, note="für alle", provenance={"fingerprint": "f" * 64, "solver": {"name": "x"}})


def test_what_is_handed_on_is_the_same_elsewhere(edit: Edit, empty: Path, filled: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "no-dog.safetensors"
    write_bundle(edit, file)
    for path, version in ((empty, 1), (filled, 2)):  # the second has effects of a no-dog@1
        found = Atlas.open(path).import_edit(file).data
        assert same(found.intervention, WHOLE)
        assert (found.label, found.note, found.concept) == (f"no-dog@{version}", "für alle", "dog")
        assert found.model == edit.model and found.created_at == edit.created_at and found.solver == "x"
        assert found.provenance == {**edit.provenance, "imported": "no-dog@4"}
        stored = Atlas.open(path).edit("no-dog").data
        assert stored == found and same(stored.intervention, WHOLE)
        assert check(path) == []
    assert Atlas.open(empty).import_edit(file, name="theirs").label == "theirs@1"
    assert Atlas.open(empty).import_edit(file).label == "no-dog@2"
    assert sum(name.endswith(".safetensors") for name in files(empty)) == 1
    with pytest.raises(UsageError, match="'a/b' cannot name an edit"):
        Atlas.open(empty).import_edit(file, name="a/b")


def test_an_edit_without_deltas_arrives_without(tmp_path: Path) -> None:
    edit = edit_of([Change(neuron(0, 3), 0.0)])
    write_bundle(edit, tmp_path / "x.safetensors")
    assert same(read_bundle(tmp_path / "x.safetensors").intervention, edit.intervention)


def test_a_file_that_is_there_stays(edit: Edit, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"x\.safetensors is there already; choose another name or remove it"):
        write_bundle(edit, file)
    assert file.read_bytes() == b"mine"
    with pytest.raises(UsageError, match="is there already"):
        write_bundle(edit, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(edit: Edit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AtlasError, match="file"):
        write_bundle(edit, tmp_path / "file" / "x.safetensors")


def parts(file: Path) -> tuple[dict[str, Any], np.ndarray]:
    with safe_open(file, "numpy") as handle:
        return json.loads(handle.metadata()["edit"]), handle.get_tensor("deltas")


def of_header(**changed: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said | changed


TAMPERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a gain": lambda said: said | {"changes": said["changes"] | {"gain": [0.2, 1.0, 0.0]}},
    "a neuron": lambda said: said | {"changes": said["changes"] | {"neuron": [4, 63, 2]}},
    "the tap": of_header(tap="product"),
    "the seed": of_header(seed=8),
    "the model's weights": lambda said: said | {"model": said["model"] | {"fingerprint": "0" * 64}},
    "the name": of_header(name="no-cat"),
    "the note": of_header(note="other words"),
    "where it came from": of_header(provenance={"fingerprint": "f" * 64}),
    "no sum": lambda said: {k: v for k, v in said.items() if k != "sum"},
    "a part less": lambda said: {k: v for k, v in said.items() if k != "model"},
    "a part more": of_header(more=1),
    "changes that are a word": of_header(changes="all"),
    "a model that is a number": of_header(model=5),
    "a name that is a number": of_header(name=5),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_header_that_was_changed_is_refused(what: str, edit: Edit, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_bundle(edit, file)
    said, deltas = parts(file)
    save_file({"deltas": deltas}, file, metadata={"edit": json.dumps(TAMPERED[what](said))})
    with pytest.raises(IntegrityError, match=r"x\.safetensors is damaged \(.*\); ask for it again"):
        read_bundle(file)


def test_other_deltas_or_lost_bytes_are_refused(edit: Edit, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_bundle(edit, file)
    content = file.read_bytes()
    said, deltas = parts(file)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="not what its sum says"):
        read_bundle(file)
    for other in ({"deltas": deltas[:1]}, {"deltas": deltas.T.copy()}, {}):
        save_file(other or {"more": deltas}, file, metadata={"edit": json.dumps(said)})
        with pytest.raises(IntegrityError, match="damaged"):
            read_bundle(file)
    for lost in (b"", content[:20], content[: len(content) // 2], b"not this" * 100):
        file.write_bytes(lost)
        with pytest.raises(IntegrityError, match="is damaged, or no safetensors file"):
            read_bundle(file)


@pytest.mark.parametrize("said", ['{"format": "neuron-atlas edit 2"}', "{}", "[]", "7", '"neuron-atlas edit 1"'])
def test_another_form_is_refused_and_says_which_is_meant(said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"deltas": np.zeros((1, 1), np.float32)}, file, metadata={"edit": said})
    with pytest.raises(UsageError, match="is not an edit of the form 'neuron-atlas edit 1'; `atlas edit export"):
        read_bundle(file)
    save_file({"weight": np.zeros((1, 1), np.float32)}, file)  # any other safetensors file
    with pytest.raises(UsageError, match="is not an edit"):
        read_bundle(file)
    with pytest.raises(UsageError, match="there is no file .*; `atlas edit export NAME FILE` writes one"):
        read_bundle(tmp_path / "none.safetensors")


def wide(**fields: Any) -> Intervention:
    return replace(WHOLE, changes=(replace(WHOLE.changes[0], **fields), *WHOLE.changes[1:]))


IMPOSSIBLE = {
    "a layer that its model has not": (wide(neuron=neuron(2, 0)), "no neuron 2/0"),
    "an index beyond its width": (wide(neuron=neuron(0, 64)), "no neuron 0/64"),
    "an index before the first": (wide(neuron=neuron(0, -1)), "no neuron 0/-1"),
    "another component": (wide(neuron=replace(neuron(0, 1), component="vision")), "no neuron vision/0/1"),
    "a gain that is not a number": (wide(gain=float("nan")), "changed by no number"),
    "an infinite bias": (wide(bias=float("inf")), "changed by no number"),
    "less than no noise": (wide(noise=-1.0), "changed by no number"),
    "deltas that are not numbers": (replace(WHOLE, deltas=np.full((2, D_MODEL), np.nan, np.float32)), "not finite"),
    "deltas of another width": (replace(WHOLE, deltas=np.ones((2, D_MODEL + 1), np.float32)), "another width"),
    "deltas in a row": (replace(WHOLE, deltas=np.ones(D_MODEL, np.float32)), "another width"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_numbers_that_cannot_be_are_refused_with_a_right_sum_too(what: str, tmp_path: Path) -> None:
    intervention, message = IMPOSSIBLE[what]
    write_bundle(edit_of(intervention), tmp_path / "x.safetensors")
    with pytest.raises(IntegrityError, match=message):
        read_bundle(tmp_path / "x.safetensors")


def test_nothing_is_stored_of_an_impossible_edit(tmp_path: Path, empty: Path) -> None:
    write_bundle(edit_of(wide(gain=float("inf"))), tmp_path / "x.safetensors")
    with pytest.raises(IntegrityError, match="changed by no number"):
        Atlas.open(empty).import_edit(tmp_path / "x.safetensors")
    assert Atlas.open(empty).edits().table.num_rows == 0 and not list((empty / "edits").glob("*"))


def test_a_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    write_bundle(edit_of(WHOLE, "../../x"), tmp_path / "x.safetensors")
    with pytest.raises(IntegrityError, match="cannot name an edit"):
        read_bundle(tmp_path / "x.safetensors")


def test_the_edits_model_becomes_known(edit: Edit, empty: Path, tmp_path: Path) -> None:
    write_bundle(edit, tmp_path / "x.safetensors")
    assert Atlas.open(empty).models().table.num_rows == 0
    Atlas.open(empty).import_edit(tmp_path / "x.safetensors")
    (row,) = Atlas.open(empty).models().to_pylist()
    assert {name: row[name] for name in ("name", "layers", "width")} == {"name": "tiny", "layers": 2, "width": 64}


def test_no_folder_of_this_machine_is_handed_on(tmp_path: Path) -> None:
    solved = {"solver": {"name": "word_swap"}, "dataset": "coco:/data/mine", "maps": []}
    asked = {"prompt": "what is this?", "pictures": ["/home/me/dog.jpg", "scenes:held_out/0"], "concept": "dog"}
    about = {**solved, "asked": asked, "parts": [solved], "of": {"left": solved}}
    edit = edit_of([Change(neuron(0, 3), 0.0)])
    write_bundle(replace(edit, provenance={**edit.provenance, **about}), tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    assert b"/data" not in content and b"/home" not in content
    read = read_bundle(tmp_path / "x.safetensors").provenance
    assert read["dataset"] == read["parts"][0]["dataset"] == read["of"]["left"]["dataset"] == "coco"
    assert read["asked"]["pictures"] == ["dog.jpg", "scenes:held_out/0"]
