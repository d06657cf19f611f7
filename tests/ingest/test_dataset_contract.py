"""What every file of `ingest/datasets/` must keep, so that a job can take any of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from task_folders import WRITERS

import ingest.datasets
import ingest.metrics
from atlas import registry
from atlas.errors import AtlasError, UsageError
from atlas.testing import check_dataset
from ingest.data.examples import HELD_OUT, BadMedia, Dataset
from ingest.datasets._files import split_of

NAMES = registry.folder_names(ingest.datasets)
READ = sorted(WRITERS)


def open_named(name: str, path: Path | None) -> Dataset:
    found: Dataset = registry.load(ingest.datasets, name).build(None if path is None else str(path))
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp("datasets") / name) for name, write in WRITERS.items()}


@pytest.fixture(params=NAMES)
def dataset(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Dataset:
    return open_named(request.param, folders.get(request.param))


@pytest.fixture(params=READ)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """A dataset's name and a folder of it that the test may change."""
    return request.param, Path(shutil.copytree(folders[request.param], tmp_path / request.param))


SHIPPED = ("scenes", "photos", "facts")
"""Datasets that read nothing of the user's."""


def test_every_dataset_that_reads_a_folder_is_tested() -> None:
    assert set(NAMES) == {*WRITERS, *SHIPPED}


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_keeps_its_contract(name: str, folders: dict[str, Path]) -> None:
    check_dataset(registry.load(ingest.datasets, name), folders.get(name))


@pytest.mark.parametrize("name", READ)
def test_a_folder_is_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name} needs a folder; use dataset='{name}:PATH"):
        open_named(name, None)
    with pytest.raises(UsageError, match="there is no folder .*nowhere; use dataset="):
        open_named(name, tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="there is no folder" if name != "prompts" else "file: line 1 is not JSON"):
        open_named(name, tmp_path / "file")


def test_what_a_refusal_says(dataset: Dataset) -> None:
    source = next(iter(dataset.all_tasks))
    with pytest.raises(UsageError, match="no source called 'smell'"):
        dataset.examples(source="smell", split="find", concepts=[], tasks=[], per_concept=1, seed=0)
    for asked in ({"split": "train"}, {"concepts": ["xyz"]}, {"tasks": ["xyz"]}):
        usual: dict[str, Any] = {"source": source, "split": "find", "concepts": [], "tasks": []}
        with pytest.raises(UsageError, match=f"no {next(iter(asked)).removesuffix('s')} called"):
            dataset.examples(**(usual | asked), per_concept=1, seed=0)


def test_a_link_out_of_the_folder_is_named(folder: tuple[str, Path], tmp_path: Path) -> None:
    name, path = folder
    media = [file for file in path.rglob("*") if file.suffix in (".jpg", ".wav", ".flac", ".avi", ".png")]
    for file in media:
        file.rename(tmp_path / f"secret{media.index(file)}")
        file.symlink_to(tmp_path / f"secret{media.index(file)}")
    dataset = open_named(name, path)
    (source, tasks), *_ = dataset.all_tasks.items()
    asked = {"source": source, "split": "find", "concepts": list(dataset.concepts), "tasks": tasks}
    pointers = [m for e in dataset.examples(**asked, per_concept=1, seed=0) for m in e.media]
    assert bool(pointers) == bool(media)
    for pointer in pointers:
        with pytest.raises(BadMedia, match="is a link out of the dataset's folder"):
            dataset.image(pointer)


def annotations(path: Path) -> list[Path]:
    return sorted(
        f for f in path.rglob("*") if f.suffix in (".json", ".jsonl", ".csv", ".txt") and f.parent.name != "meta"
    )


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2 - 1],
    "empty": lambda data: b"",
    "bytes": lambda data: b"\xff\xfe\x00" + data,
    "null": lambda data: b"null",
    "deep": lambda data: b"[" * 100_000,
    "list": lambda data: b"[]",
    "numbers": lambda data: b"[1, 2]",
    "surrogate": lambda data: re.sub(rb'": "[^"]*"', rb'": "\\ud800"', data),
}


SPARED = {("mmlu", ".csv"), ("msvd_qa", ".txt"), ("librispeech", ".txt"), ("coco", ".json")}
"""In these the bytes of "surrogate" are not there, or are only words."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(folder: tuple[str, Path], damage: str) -> None:
    """Whatever is wrong with an annotation file, it is one error of ours, with the path; or the file did not matter."""
    name, path = folder
    for file in annotations(path):
        data = file.read_bytes()
        file.write_bytes(DAMAGE[damage](data))
        try:
            open_named(name, path)
        except AtlasError as error:
            assert str(path) in str(error)
            assert len(str(error)) < 400 and "\n" not in str(error)
        else:
            assert file.parent.name in ("datafiles", "val") or (damage == "surrogate" and (name, file.suffix) in SPARED)
        file.write_bytes(data)


def test_a_field_that_is_missing_or_of_another_kind_is_named(folder: tuple[str, Path]) -> None:
    name, path = folder
    for file in annotations(path):
        if file.suffix != ".json" or file.parent.name == "datafiles" or name == "coco":
            continue
        whole = json.loads(file.read_text())
        rows = whole if isinstance(whole, list) else next(v for v in whole.values() if isinstance(v, list))
        for key, value in list(rows[3].items()):
            for wrong in (None, "", [], {}, True, [None], [{}], "../../etc/passwd"):
                rows[3][key] = wrong
                file.write_text(json.dumps(whole))
                try:
                    open_named(name, path)
                except AtlasError as error:
                    assert "row 3" in str(error) or "leads out" in str(error) or "has no name for" in str(error)
            rows[3][key] = value


def test_it_is_listed_with_its_tasks_and_metrics(
    dataset: Dataset, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.main import main

    path = folders.get(dataset.name)
    assert main(["datasets", dataset.name if path is None else f"{dataset.name}:{path}", "--format", "jsonl"]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert {(row["source"], row["task"]) for row in rows} == {(s, t) for s, ts in dataset.all_tasks.items() for t in ts}
    assert {row["task"]: tuple(row["metrics"].split()) for row in rows if row["metrics"]} == dict(dataset.metrics)


def test_the_split_is_the_same_for_ever() -> None:
    """Neurons that were found on one side must never be judged on it, whatever the version."""
    assert [n for n in range(40) if split_of(n) == HELD_OUT] == [n for n in range(40) if split_of(str(n)) == HELD_OUT]
    assert [n for n in range(40) if split_of(n) == HELD_OUT] == [0, 6, 28, 29, 31, 38]
