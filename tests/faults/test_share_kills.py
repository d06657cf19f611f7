"""Bundles killed at any step: no half of one is ever at its name, and an import goes on where it was."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from bundles import tree
from faulting import Nursery
from operations import DOG, Operations


@pytest.mark.parametrize("share", [0.05, 0.5, 0.7, 0.98])
def test_an_import_that_is_killed_is_done_by_the_next(
    share: float, operations: Operations, nursery: Nursery, tmp_path: Path
) -> None:
    operation, path = operations("import"), tmp_path / "killed.atlas"
    fault = {"kill": round(share * operation.steps)}
    assert nursery.run(*operation.begin(path), **fault).code == -signal.SIGKILL
    operation.again(nursery, path, fault)


def test_a_killed_import_into_a_full_atlas_changes_nothing_of_it(
    operations: Operations, nursery: Nursery, tmp_path: Path
) -> None:
    """What is there stays readable at every kill, and the edit and the selection of taken names come once."""
    operation = operations("import")
    path = Path(shutil.copytree(operations.world, tmp_path / "full.atlas"))
    (path / "edits" / "quiet@1.json").unlink()
    nursery.good("db", "rebuild", "--atlas", path)
    nursery.good("edit", "create", "quiet", "--scale", "0.5", *DOG, "--atlas", path)
    for share in (0.5, 0.9, 0.97):
        nursery.run(*operation.command(path), kill=round(share * operation.steps))
        nursery.good("query", "--concept", "dog", "--method", "contribution", "--source", "image", "--atlas", path)
    nursery.good(*operation.command(path))
    nursery.good("db", "check", "--atlas", path)
    assert sorted(f.name for f in (path / "edits").glob("*.json")) == [
        "noisy@1.json",
        "quiet@1.json",
        "quiet@2.json",
    ]
    assert [f.name for f in (path / "selections").iterdir()] == ["dogs.json"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_an_export_that_is_killed_leaves_no_bundle(
    share: float, operations: Operations, nursery: Nursery, tmp_path: Path
) -> None:
    whole, path = operations.bundle(), tmp_path / "bundle"
    command = ("export", path, "--atlas", operations.world)
    steps = nursery.good(*command).steps
    shutil.rmtree(path)
    assert nursery.run(*command, kill=round(share * steps)).code == -signal.SIGKILL
    if path.exists():  # killed after the last rename
        assert share == 1.0
        shutil.rmtree(path)
    nursery.good(*command)
    assert tree(path) == tree(whole)
    assert [f.name for f in tmp_path.iterdir()] == ["bundle"]
