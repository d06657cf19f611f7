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
from ingest.data.examples import AUDIO, FIND, HELD_OUT, IMAGE, TEXT, VIDEO, BadMedia, Dataset, Example
from ingest.data.targets import spans
from ingest.datasets._files import split_of

NAMES = registry.names(ingest.datasets)
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


def every(dataset: Dataset, split: str, source: str | None = None, **changed: Any) -> list[Example]:
    """A few examples of every source, concept and task."""
    found = []
    for one in dataset.all_tasks if source is None else [source]:
        asked: dict[str, Any] = {"concepts": list(dataset.concepts), "tasks": dataset.all_tasks[one]}
        asked |= {"per_concept": 4, "seed": 0} | changed
        found += dataset.examples(source=one, split=split, **asked)
    return found


def test_every_dataset_that_reads_a_folder_is_tested() -> None:
    assert set(NAMES) == {*WRITERS, "scenes"}


def test_it_says_what_it_is(dataset: Dataset) -> None:
    assert dataset.name in NAMES
    assert re.fullmatch(r"[0-9a-f]{64}", dataset.revision)
    assert dataset.licence
    assert all(name == concept.name for name, concept in dataset.concepts.items())
    assert all(form == form.lower() for concept in dataset.concepts.values() for form in concept.forms)
    assert set(dataset.tasks) == set(dataset.all_tasks) <= {IMAGE, TEXT, AUDIO, VIDEO}
    tasks = {task for some in dataset.all_tasks.values() for task in some}
    assert set(dataset.metrics) <= tasks
    known = registry.names(ingest.metrics)
    assert {metric for some in dataset.metrics.values() for metric in some} <= set(known)


def test_its_parameters_are_for_the_command_line() -> None:
    for name in NAMES:
        for default in registry.parameters(registry.load(ingest.datasets, name).build).values():
            assert isinstance(default, str | int | float | bool)


def test_examples_are_whole(dataset: Dataset) -> None:
    forms = [form for concept in dataset.concepts.values() for form in concept.forms]
    for split in (FIND, HELD_OUT):
        found = every(dataset, split)
        assert found
        assert len({e.id for e in found}) == len(found)
        for example in found:
            assert example.split == split
            assert example.prompt.strip() and example.mentions
            assert bool(example.media) == (example.source != TEXT)
            assert isinstance(example.references, tuple) and all(r.strip() for r in example.references)
            if example.task in dataset.metrics:
                assert example.references or example.answer
            for mention in example.mentions:
                told = [mention.words] if mention.words else list(dataset.concepts[mention.concept].forms)
                assert example.answer is None or spans(example.answer, told, forms)


def test_the_splits_share_nothing(dataset: Dataset) -> None:
    find, held = every(dataset, FIND, per_concept=200), every(dataset, HELD_OUT, per_concept=200)
    assert not {e.id for e in find} & {e.id for e in held}
    assert not {m for e in find for m in e.media} & {m for e in held for m in e.media}


def test_the_seed_decides_and_nothing_else(dataset: Dataset, folders: dict[str, Path]) -> None:
    again = open_named(dataset.name, folders.get(dataset.name))
    assert again.revision == dataset.revision
    ten = [e.id for e in every(dataset, FIND, per_concept=10)]
    assert ten == [e.id for e in every(again, FIND, per_concept=10)]
    assert ten != [e.id for e in every(dataset, FIND, per_concept=10, seed=1)]


def test_per_concept_is_kept(dataset: Dataset) -> None:
    for source, tasks in dataset.all_tasks.items():
        concept = next(iter(dataset.concepts))
        for number in (1, 3):
            found = every(dataset, FIND, source, concepts=[concept], per_concept=number)
            assert len(found) <= number * len(tasks)
            assert all(concept in {m.concept for m in e.mentions} for e in found)
        assert every(dataset, FIND, source, tasks=[]) == []
        assert every(dataset, FIND, source, concepts=[]) == []


@pytest.mark.parametrize("asked", [{"source": "smell"}, {"split": "train"}, {"concepts": ["xyz"]}, {"tasks": ["xyz"]}])
def test_what_does_not_exist_is_a_usage_error(dataset: Dataset, asked: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"source": next(iter(dataset.all_tasks)), "split": FIND, "concepts": [], "tasks": []}
    with pytest.raises(UsageError, match=f"no {next(iter(asked)).removesuffix('s')} called"):
        dataset.examples(**(whole | asked), per_concept=1, seed=0)


@pytest.mark.parametrize(
    "pointer", ["../x.jpg", "/etc/passwd", "a/../../b.wav", "", "C:\\x.png", "no/such.jpg", "x" * 300]
)
def test_no_pointer_but_its_own_is_followed(dataset: Dataset, pointer: str) -> None:
    with pytest.raises(BadMedia):
        dataset.image(pointer)
    with pytest.raises(BadMedia):
        dataset.mask(pointer, next(iter(dataset.concepts)))
    if hasattr(dataset, "audio"):
        with pytest.raises(BadMedia):
            dataset.audio(pointer)
    if dataset.path is not None:
        assert dataset.digest(pointer) == "missing"


def test_media_open_or_say_why_not(dataset: Dataset) -> None:
    for example in every(dataset, HELD_OUT):
        for media in example.media:
            assert dataset.digest(media) not in ("", "missing")
            if example.source == IMAGE:
                image = dataset.image(media)
                assert image.mode == "RGB"
                mask = dataset.mask(media, example.mentions[0].concept)
                assert mask.shape == (image.height, image.width) and mask.dtype == bool
                continue
            with pytest.raises(BadMedia, match="no picture"):
                dataset.image(media)
            if example.source == VIDEO:
                frames = dataset.video(media)  # type: ignore[attr-defined]
                assert len({frame.size for frame in frames}) == 1 and {frame.mode for frame in frames} == {"RGB"}
            if example.source == AUDIO:
                samples, rate = dataset.audio(media)  # type: ignore[attr-defined]
                assert samples.ndim == 1 and samples.dtype == "float32" and rate == 16_000


def test_another_folder_with_the_same_content_is_the_same_dataset(folder: tuple[str, Path]) -> None:
    name, path = folder
    before = open_named(name, path)
    moved = open_named(name, path.rename(path.with_name("elsewhere")))
    assert (moved.revision, moved.path) == (before.revision, str(path.with_name("elsewhere")))
    assert every(moved, FIND) == every(before, FIND)


@pytest.mark.parametrize("name", READ)
def test_a_folder_is_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name} needs a folder; use --dataset {name}:PATH"):
        open_named(name, None)
    with pytest.raises(UsageError, match="there is no folder .*nowhere; use --dataset"):
        open_named(name, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        open_named(name, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="there is no folder" if name != "prompts" else "file: line 1 is not JSON"):
        open_named(name, tmp_path / "file")


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


def test_a_link_out_of_the_folder_is_refused(folder: tuple[str, Path], tmp_path: Path) -> None:
    name, path = folder
    dataset = open_named(name, path)
    media = [m for e in every(dataset, FIND) for m in e.media]
    if not media:
        pytest.skip("it has no media")
    secret = tmp_path / "secret"
    (path / media[0]).rename(secret)
    (path / media[0]).symlink_to(secret)
    with pytest.raises(BadMedia, match="is a link out of the dataset's folder"):
        dataset.image(media[0])
    assert dataset.digest(media[0]) == "missing"


def test_links_of_the_hubs_cache_are_followed(folder: tuple[str, Path], tmp_path: Path) -> None:
    name, path = folder
    before = open_named(name, path)
    cache = tmp_path / "datasets--somebody--something"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    place = path.rename(cache / "snapshots" / ("0" * 40))
    for number, file in enumerate(sorted(f for f in place.rglob("*") if f.is_file())):
        file.rename(cache / "blobs" / f"{number}")
        file.symlink_to(cache / "blobs" / f"{number}")
    after = open_named(name, place)
    assert after.revision == before.revision
    for example in every(after, FIND)[:5]:
        for media in example.media:
            assert after.digest(media) != "missing"
            {IMAGE: after.image, AUDIO: getattr(after, "audio", None), VIDEO: getattr(after, "video", None)}[
                example.source
            ](media)


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
