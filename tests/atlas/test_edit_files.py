"""Edits as files: what is read is what was written, what is damaged is refused, nothing is left behind unnamed."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edit_parts import WHERES, edit_of, files, interventions, language, neuron, same
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import Atlas
from atlas.edits import kinds
from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.files import digest, file_of, read_edit, sweep, tensors_of, write_edit
from atlas.edits.library import store
from atlas.errors import IntegrityError, UsageError
from atlas.maintain.check import check
from atlas.maintain.rebuild import rebuild

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(interventions(), st.dictionaries(st.text(), JSON, max_size=3), st.none() | st.text())
def test_what_is_read_is_what_was_written(intervention: Intervention, provenance: Any, note: str | None) -> None:
    edit = edit_of(intervention, provenance=provenance, note=note)
    with tempfile.TemporaryDirectory() as folder:
        found = read_edit(write_edit(Path(folder), edit))
        names = files(Path(folder))
    assert found == edit and same(found.intervention, intervention)
    assert digest(found.intervention) == digest(intervention)
    assert len(names) == (1 if intervention.deltas is None else 2)


def test_what_is_the_same_in_every_change_is_written_once(tmp_path: Path) -> None:
    many = [Change(neuron(i // 64, i % 64), 0.0, 0.25) for i in range(128)]
    said = json.loads(write_edit(tmp_path, edit_of(many)).read_text())["changes"]
    assert said["count"] == 128 and (said["gain"], said["bias"], said["where"], said["write"]) == (0, 0.25, "all", None)
    assert said["component"] == "language" and said["neuron"] == [i % 64 for i in range(128)]
    one = [*many[:-1], replace(many[-1], bias=0.5)]
    said = json.loads(write_edit(tmp_path, edit_of(one, "other")).read_text())["changes"]
    assert said["gain"] == 0 and said["bias"] == [0.25] * 127 + [0.5]
    assert read_edit(file_of(tmp_path, "no-dog", 1)).changes == tuple(many)
    assert read_edit(file_of(tmp_path, "other", 1)).changes == tuple(one)


def moved(*rows: float) -> Intervention:
    """Deltas on the write vectors of neurons 0/0, 0/1, ..., each of one number."""
    changes = tuple(Change(neuron(0, i), write=i) for i in range(len(rows)))
    return Intervention(changes, deltas=np.outer(rows, np.ones(4)).astype(np.float32))


def test_tensors_are_named_by_their_content_and_stay_as_long_as_an_edit_names_them(tmp_path: Path) -> None:
    for version, rows in ((1, (1.0, 2.0)), (2, (1.0, 2.0)), (3, (1.0, 3.0))):
        write_edit(tmp_path, edit_of(moved(*rows), version=version))
    tensors = sorted((tmp_path / "edits").glob("*.safetensors"))
    assert len(tensors) == 2
    for file in tensors:
        assert file.stem == hashlib.sha256(file.read_bytes()).hexdigest()
    (shared,) = tensors_of(file_of(tmp_path, "no-dog", 1))
    assert tensors_of(file_of(tmp_path, "no-dog", 2), verify=True) == {shared}
    file_of(tmp_path, "no-dog", 1).unlink()
    sweep(tmp_path)
    assert f"{shared}.safetensors" in files(tmp_path)
    assert same(read_edit(file_of(tmp_path, "no-dog", 2)).intervention, moved(1, 2))
    file_of(tmp_path, "no-dog", 2).unlink()
    damaged = file_of(tmp_path, "other", 1)
    for content in ("", "5", "{}", "[]"):  # what cannot be read may name any
        damaged.write_text(content)
        sweep(tmp_path)
        assert f"{shared}.safetensors" in files(tmp_path)
    damaged.unlink()
    (tmp_path / "edits" / "old@1.safetensors").write_bytes(b"an edit of the form before")
    sweep(tmp_path)
    assert len(files(tmp_path)) == 3 and f"{shared}.safetensors" not in files(tmp_path)
    file_of(tmp_path, "no-dog", 3).unlink()
    sweep(tmp_path)
    assert files(tmp_path) == {"old@1.safetensors"}


def said(**changed: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content | changed


def of_changes(**changed: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content | {"changes": content["changes"] | changed}


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a number": lambda _: 5,
    "a list": lambda content: [content],
    "nothing": lambda _: None,
    "a name less": lambda content: {k: v for k, v in content.items() if k != "provenance"},
    "a name more": said(more=1),
    "no changes": said(changes=None),
    "another tap": said(tap="gat"),
    "no seed": said(seed="x"),
    "no tensors": said(tensors=None),
    "tensors elsewhere": said(tensors="../../outside"),
    "tensors that are not there": said(tensors="0" * 64),
    "another count": of_changes(count=3),
    "a count in words": of_changes(count="two"),
    "a gain in words": of_changes(gain=["x", 1.0]),
    "a gain that is nothing": of_changes(gain=None),
    "half a layer": of_changes(layer=0.5),
    "one gain of two": of_changes(gain=[1.0]),
    "another place": of_changes(where="role=smell"),
    "a place that is a number": of_changes(where=7),
    "places that are lists": of_changes(where=[["all"], ["all"]]),
    "a delta that is not there": of_changes(write=[0, 2]),
    "a delta before the first": of_changes(write=[-1, 0]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    file = write_edit(tmp_path, edit_of(moved(1, 2)))
    read_edit(file)
    file.write_text(json.dumps(DAMAGE[damage](json.loads(file.read_text()))))
    with pytest.raises(IntegrityError, match=r"no-dog@1\.json is damaged.*create the edit again"):
        read_edit(file)


@pytest.mark.parametrize("part", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["half", "empty", "a flipped bit", "gone"])
def test_a_file_that_lost_bytes_is_refused(part: str, damage: str, tmp_path: Path) -> None:
    file = write_edit(tmp_path, edit_of(moved(1, 2)))
    (broken,) = (tmp_path / "edits").glob(f"*.{part}")
    content = broken.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:] if part == "json" else content[:-1] + bytes([content[-1] ^ 1])
    if damage == "gone":
        broken.unlink()
    else:
        broken.write_bytes({"half": content[: len(content) // 2], "empty": b"", "a flipped bit": flipped}[damage])
    error = UsageError if (part, damage) == ("json", "gone") else IntegrityError
    with pytest.raises(error, match="create the edit again"):
        read_edit(file)


BASE = Intervention(
    (Change(neuron(0, 3), 0.5, 1.0, 0.25, WHERES[1], 0), Change(neuron(1, 7), write=1)),
    deltas=np.arange(8, dtype=np.float32).reshape(2, 4),
    seed=3,
)


def changed(**fields: Any) -> Intervention:
    return replace(BASE, changes=(replace(BASE.changes[0], **fields), BASE.changes[1]))


def test_the_digest_follows_every_field() -> None:
    assert BASE.deltas is not None
    others = [
        changed(neuron=neuron(0, 4)),
        changed(neuron=neuron(1, 3)),
        changed(neuron=replace(neuron(0, 3), component="vision")),
        changed(gain=0.50000001),
        changed(bias=-1.0),
        changed(noise=0.0),
        changed(where=WHERES[2]),
        changed(write=None),
        changed(write=1),
        replace(BASE, changes=BASE.changes[::-1]),
        replace(BASE, changes=BASE.changes[:1]),
        replace(BASE, changes=(BASE.changes[0],) * 2),
        replace(BASE, tap="gate"),
        replace(BASE, seed=4),
        replace(BASE, deltas=None),
        replace(BASE, deltas=BASE.deltas + 1),
        replace(BASE, deltas=np.nextafter(BASE.deltas, np.float32(9))),
        replace(BASE, deltas=BASE.deltas.reshape(4, 2)),
    ]
    found = [digest(one) for one in (BASE, *others)]
    assert len(set(found)) == len(found) and all(len(d) == 64 for d in found)


def test_equal_interventions_have_one_digest_however_they_are_written() -> None:
    whole = Intervention((Change(neuron(0, 1), 0, 2),))
    assert whole == Intervention((Change(neuron(0, 1), 0.0, 2.0),))
    assert digest(whole) == digest(Intervention((Change(neuron(0, 1), 0.0, 2.0),)))
    assert BASE.deltas is not None
    assert digest(replace(BASE, deltas=BASE.deltas.astype(np.float64))) == digest(BASE)
    assert digest(replace(BASE, deltas=np.asfortranarray(BASE.deltas))) == digest(BASE)


@pytest.fixture
def with_deltas(own_atlas: Path) -> tuple[Path, Edit]:
    """An atlas with two edits of the same deltas, and one without."""
    atlas = Atlas.open(own_atlas)
    chosen = atlas.query("dog", top=3)
    atlas.create_edit("plain", chosen, kinds.ablate())
    for _ in range(2):
        edit = atlas.create_edit("noisy", chosen, kinds.write_noise(0.1), seed=5).data
    return own_atlas, edit


def test_the_database_and_the_files_agree_and_either_can_be_made_again(with_deltas: tuple[Path, Edit]) -> None:
    path, edit = with_deltas
    assert check(path) == []
    assert sum(name.endswith(".safetensors") for name in files(path)) == 1
    done = rebuild(path)
    assert (done.edits, done.skipped) == (3, ())
    found = Atlas.open(path).edit("noisy@2").data
    assert found == edit and same(found.intervention, edit.intervention)
    assert check(path) == []
    Atlas.open(path).remove_edit("noisy@1")
    assert check(path) == [] and same(Atlas.open(path).edit("noisy").data.intervention, edit.intervention)


def test_a_check_names_what_is_damaged_and_a_rebuild_leaves_it_out(with_deltas: tuple[Path, Edit]) -> None:
    path, _ = with_deltas
    (tensors,) = (path / "edits").glob("*.safetensors")
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    problems = [str(finding) for finding in check(path)]
    assert len(problems) == 2 and all("noisy@" in p and "are missing or damaged" in p for p in problems)
    tensors.unlink()
    assert len(check(path)) == 2
    done = rebuild(path)
    assert done.edits == 1 and len(done.skipped) == 2 and all("noisy@" in reason for reason in done.skipped)
    plain = file_of(path, "plain", 1)
    plain.write_text(plain.read_text().replace("plain", "plane"))
    assert any("plain@1: " in str(finding) and "sha256" in str(finding) for finding in check(path))
    with pytest.raises(IntegrityError, match="is not the file that was stored; .*`atlas db rebuild` takes it as it is"):
        Atlas.open(path).edit("plain")


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from atlas import Atlas
from atlas.edits import kinds
from atlas.edits import files as edit_files

plain = edit_files.write_atomically

def finish(file, write):
    if file.suffix == ".json":
        os.kill(os.getpid(), signal.SIGKILL)
    plain(file, write)

edit_files.write_atomically = finish
atlas = Atlas.open(sys.argv[1])
atlas.create_edit("noisy", atlas.query("dog", top=3), kinds.write_noise(0.1), seed=5)
"""


def test_tensors_of_an_edit_that_was_never_finished_are_named_and_taken_up_again(own_atlas: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(own_atlas)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    atlas = Atlas.open(own_atlas)
    assert atlas.edits().table.num_rows == 0
    (left,) = files(own_atlas)
    (finding,) = check(own_atlas)
    assert f"no edit uses {own_atlas / 'edits' / left}; `atlas db rebuild` removes it" in str(finding)
    atlas.create_edit("noisy", atlas.query("dog", top=3), kinds.write_noise(0.1), seed=5)
    assert files(own_atlas) == {left, "noisy@1.json"} and check(own_atlas) == []
    (own_atlas / "edits" / f"{'0' * 64}.safetensors").write_bytes(b"of another that was never finished")
    assert rebuild(own_atlas).edits == 1
    assert files(own_atlas) == {left, "noisy@1.json"} and check(own_atlas) == []


def test_a_version_is_never_given_twice_where_effects_name_it(filled: Path) -> None:
    first = store(filled, edit_of([Change(neuron(0, 1), 0.0)]))  # the atlas has effects of a removed no-dog@1
    assert first.version == 2
    assert store(filled, first).version == 3
    Atlas.open(filled).remove_edit("no-dog")
    assert store(filled, edit_of([Change(n) for n in language((0, 1))], "no-cat")).version == 1
    assert check(filled) == []
