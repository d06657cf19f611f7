"""Saved selections: files, set algebra, use in questions and edits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atlas import Atlas
from atlas.edits import kinds
from atlas.errors import IntegrityError, UsageError
from atlas.query import saved


@pytest.fixture
def atlas(own_atlas: Path) -> Atlas:
    there = Atlas.open(own_atlas)
    for name, concept, top in (("dog", "dog", 30), ("cat", "cat", 20)):
        there.save_selection(name, there.query(concept, source="text", reduce="mean", top=top), note=f"about a {name}")
    return there


def test_a_selection_comes_back_with_what_it_came_from(atlas: Atlas) -> None:
    wanted = atlas.query("dog", source="text", reduce="mean", top=30)
    found = atlas.selection("dog")
    assert list(found) == list(wanted)  # in their order
    assert found.provenance["of"]["maps"] == wanted.provenance["maps"]
    listed = {row["name"]: row for row in atlas.selections().to_pylist()}
    assert listed["dog"]["neurons"] == 30 and listed["cat"]["note"] == "about a cat"
    assert (listed["cat"]["concept"], listed["cat"]["method"]) == ("cat", "contribution")
    with pytest.raises(UsageError, match="already exists; give another name, or use replace"):
        atlas.save_selection("dog", wanted)
    atlas.save_selection("dog", atlas.selection("cat"), replace=True)
    assert list(atlas.selection("dog")) == list(atlas.selection("cat"))
    atlas.remove_selection("dog")
    assert atlas.selections()["name"].to_pylist() == ["cat"]
    with pytest.raises(UsageError, match="no selection called 'dgo'"):
        atlas.remove_selection("dgo")


def test_sets_of_selections_and_edits(atlas: Atlas) -> None:
    atlas.create_edit("no-dog", atlas.query("dog", source="image", top=25), kinds.ablate())
    dog, cat = set(atlas.selection("dog")), set(atlas.selection("cat"))
    edit = set(atlas.edit("no-dog").neurons)
    assert dog & cat and dog - cat and edit - dog
    for text, wanted in (
        ("dog & cat", dog & cat),
        ("dog - cat | no-dog", (dog - cat) | edit),
        ("dog - (cat | no-dog)", dog - (cat | edit)),
        ("(dog|cat)-no-dog@1", (dog | cat) - edit),
        ("selection:dog & edit:no-dog", dog & edit),
    ):
        assert set(atlas.selection(text)) == wanted
        asked = atlas.query("dog", source="text", selection=text, top=128)
        assert set(asked) == wanted
        assert set(atlas.query("dog", source="text", where=f"not selection = '{text}'", top=128)) == (
            set(atlas.query("dog", source="text", top=128)) - wanted
        )
    made = atlas.create_edit("both", atlas.selection("dog & cat"), kinds.scale(0.5)).data
    assert set(made.neurons) == dog & cat and made.concept is None
    assert [m["concept"] for m in (made.provenance["left"]["of"]["maps"] + made.provenance["right"]["of"]["maps"])] == [
        "dog",
        "cat",
    ]


def test_a_name_that_is_a_selection_and_an_edit_must_say_which(atlas: Atlas) -> None:
    atlas.create_edit("dog", atlas.query("cat", top=3), kinds.ablate())
    with pytest.raises(UsageError, match="both a selection and an edit .* write selection:dog or edit:dog"):
        atlas.selection("dog")
    assert len(atlas.selection("edit:dog")) == 3 and len(atlas.selection("selection:dog")) == 30


def test_what_cannot_be_saved(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match="no neurons to save"):
        atlas.save_selection("none", atlas.query("dog", score=">1e9"))
    with pytest.raises(UsageError, match="cannot name a selection"):
        atlas.save_selection("a/b", atlas.selection("dog"))
    for text in ("", "dog &", "& dog", "dog cat", "(dog", "dog)", "dog ! cat", "()", "dog - - cat", "(" * 60 + "dog"):
        with pytest.raises(UsageError, match="not a set of neurons"):
            atlas.selection(text)
    with pytest.raises(UsageError, match="at most 2,000 characters"):
        atlas.selection("dog | " * 500 + "dog")


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("neurons"),
        lambda said: said.update(neurons=["1/2/3/4"]),
        lambda said: said.update(neurons=[]),
        lambda said: said.update(neurons=[3]),
        lambda said: said.update(name="other"),
        lambda said: said.update(format=2),
        lambda said: said.update(provenance=[]),
        lambda said: said.update(fingerprint=None),
    ],
)
def test_a_damaged_file_is_refused(change: object, atlas: Atlas) -> None:
    file = saved.file_of(atlas.path, "dog")
    said = json.loads(file.read_text())
    change(said)  # type: ignore[operator]
    file.write_text(json.dumps(said))
    with pytest.raises(IntegrityError, match=r"dog.json is damaged .*save it again, or remove it"):
        atlas.selection("dog")
    file.write_bytes(b"\xff\x00")
    with pytest.raises(IntegrityError, match="is damaged"):
        atlas.query("dog", selection="dog")


def test_neurons_of_other_weights_are_in_no_map(atlas: Atlas) -> None:
    file = saved.file_of(atlas.path, "cat")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": "0" * 64}))
    with pytest.raises(UsageError, match="has neurons of other weights"):
        atlas.query("dog", selection="cat")
    assert len(atlas.query("dog", where="selection != cat", top=5)) == 5
    with pytest.raises(UsageError, match="two models"):
        atlas.selection("dog & cat")
