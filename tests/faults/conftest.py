"""Atlases to be disturbed, and the process whose forks disturb them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulting import Nursery
from operations import DOG, INDEX, Operations

INGEST = ("ingest", "--methods", "contribution,random", "--concepts", "cat,dog", "--per-concept", "8", "--no-progress")


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    found = Nursery(tmp_path_factory.mktemp("nursery"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def ingesting(llava_folder: Path) -> tuple[str, ...]:
    """The command that makes the run of `world`, but for the atlas."""
    return (*INGEST, "--model", str(llava_folder), "--atlas")


@pytest.fixture(scope="session")
def world_once(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, ingesting: tuple[str, ...]) -> Path:
    path = tmp_path_factory.mktemp("faults") / "world.atlas"
    nursery.good("init", "--atlas", path)
    nursery.good(*ingesting, path)
    of = (*DOG, "--atlas", path)
    nursery.good("edit", "create", "quiet", "--scale", "0", *of)
    nursery.good("edit", "create", "noisy", "--write-noise", "0.5", *of)
    nursery.good("select", "save", "dogs", *of)
    nursery.good(*INDEX, path)
    return path


@pytest.fixture
def world(world_once: Path, tmp_path: Path) -> Path:
    """An atlas with a run of scores and one of vectors, two edits and a selection; this test's own copy."""
    return Path(shutil.copytree(world_once, tmp_path / "world.atlas"))


@pytest.fixture(scope="session")
def operations(
    nursery: Nursery, world_once: Path, ingesting: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Operations:
    return Operations(nursery, world_once, ingesting, tmp_path_factory.mktemp("operations"))
