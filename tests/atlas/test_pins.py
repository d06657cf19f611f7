"""What a question is about where it leaves things open: pinned, larger before newer, and always said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas
from atlas.errors import IntegrityError, UsageError
from atlas.query.pins import NAME, Pins

Store = Callable[..., str]


def scores(best: int) -> dict[tuple[int, int], float]:
    """Of 16 neurons this one of layer 0 is the best."""
    return {(layer, n): float((layer, n) == (0, best)) + 0.01 * n for layer in range(2) for n in range(8)}


@pytest.fixture
def keep(empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]) -> Store:
    """Store a run in which this neuron is dog's best, of so many examples: its id."""

    def call(seed: int, best: int, examples: int = 10, concepts: tuple[str, ...] = ("dog",), **model: Any) -> str:
        run = make_run(seed, concepts=concepts, **model)
        found = {"contribution": {c: scores(best) for c in concepts}}
        store_maps(empty, run, found, source="image", reduce="contrast", examples=examples)
        return str(run.run_id)

    return call


def best(path: Path, **more: Any) -> tuple[str, list[str]]:
    """Dog's best neuron, and what was taken, apart from how it is read as tokens."""
    found = Atlas.open(path).query("dog", top=1, **more)
    return str(found.neurons[0]), [note for note in found.provenance["assumed"] if not note.startswith("tokens=")]


def test_a_later_smaller_run_replaces_nothing_and_is_told(empty: Path, keep: Store) -> None:
    old = keep(1, 3, examples=20)
    assert best(empty) == ("0/3", [])
    new = keep(2, 5, examples=2)
    note = f"run={old[:8]} (20 examples; run={new[:8]} is newer but has 2)"
    assert best(empty) == ("0/3", [note]) and best(empty, run=new[:8]) == ("0/5", [])
    third = keep(3, 6, examples=20)
    assert best(empty) == ("0/6", [f"run={third[:8]} (the newest of 3; `atlas runs` lists them)"])


def test_several_maps_of_several_runs_are_told(empty: Path, keep: Store) -> None:
    keep(1, 3, examples=20, concepts=("dog", "cat"))
    new = keep(2, 5, examples=2)
    found = Atlas.open(empty).query(where="concept in dog,cat", top=2)
    assert [str(n) for n in found.neurons] == ["0/3", "0/3"]
    assert any("1 of 2 maps are in several runs" in a and f"run={new[:8]}" in a for a in found.provenance["assumed"])


def test_a_pinned_model_answers_whatever_is_stored_later(empty: Path, keep: Store) -> None:
    keep(1, 3)
    atlas = Atlas.open(empty)
    assert atlas.use() == Pins() and atlas.use("tiny", dataset="scenes") == Pins("tiny", "scenes")
    before = best(empty)
    assert before == ("0/3", ["model=tiny (pinned; `atlas use`)", "dataset=scenes (pinned; `atlas use`)"])
    keep(2, 5, name="other", fingerprint="a" * 64)
    assert best(empty) == before
    assert atlas.neuron("0/3").model == "tiny" and atlas.neuron("0/3").defaults[:2] == tuple(before[1])
    assert best(empty, model="other")[0] == "0/5"
    for where in ("model = other", "model = oth*", "not model = tiny"):
        assert str(atlas.query("dog", where=where, top=1).neurons[0]) == "0/5"
    atlas.use_nothing()
    assert best(empty) == ("0/5", ["model=other (also stored: tiny)"]) and atlas.use() == Pins()
    assert atlas.neuron("0/3").model == "other" and atlas.neuron("0/3").defaults[:1] == (
        "model=other (also stored: tiny)",
    )


def test_pinned_runs_answer_alone(empty: Path, keep: Store) -> None:
    old = keep(1, 3, examples=5)
    atlas = Atlas.open(empty)
    assert atlas.use(runs=[old[:8]]).runs == (old,)
    new = keep(2, 5, examples=50, concepts=("dog", "cat"))
    assert best(empty) == ("0/3", [f"run={old[:8]} (pinned; `atlas use`)"])
    assert best(empty, run=new[:8])[0] == "0/5"
    with pytest.raises(UsageError, match=f"'cat'.*only maps of run={old[:8]} .pinned.*were searched"):
        atlas.query("cat")
    assert atlas.use("tiny").runs == (old,)
    keep(3, 6, name="other", fingerprint="a" * 64)
    assert best(empty, model="other")[0] == "0/6"  # the pinned run is of another model
    assert set(atlas.use(runs=[old[:8], new[:8]]).runs) == {old, new} and best(empty)[0] == "0/5"


def test_what_is_not_there_is_not_pinned(empty: Path, keep: Store) -> None:
    keep(1, 3)
    atlas = Atlas.open(empty)
    for what, match in (
        ({"model": "tny"}, "did you mean 'tiny'"),
        ({"dataset": "coco"}, "no dataset called 'coco'"),
        ({"runs": ["zz"]}, "no run called 'zz'"),
    ):
        with pytest.raises(UsageError, match=match):
            atlas.use(**what)
    assert not (empty / NAME).exists()
    (empty / NAME).write_text('{"model": 1}')
    with pytest.raises(IntegrityError, match="atlas use --clear"):
        atlas.query("dog")
    atlas.use_nothing()
    assert best(empty)[0] == "0/3"
