"""The contract of a dataset (`ingest.data.examples.Dataset`): complete examples, disjoint splits, its own media."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ingest.metrics
from atlas import registry
from atlas.testing.contract import Entry, check_build, entry_of
from ingest.data.examples import AUDIO, FIND, HELD_OUT, IMAGE, TEXT, VIDEO, BadMedia, Dataset, Example
from ingest.data.targets import spans

FOREIGN = ("../x.jpg", "/etc/passwd", "a/../../b.wav", "", "C:\\x.png", "no/such.jpg", "x" * 300)
"""Pointers that no dataset can have."""


def check_dataset(
    module_or_build: ModuleType | Callable[..., Dataset],
    path: Path | None = None,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check a dataset, given as its module or its `build`, with its default options or the given ones.

    Its name is the entry's, its licence is stated, and its revision is 64 hex digits of its content. Examples are
    complete, the two splits share nothing, and only the seed decides which examples are drawn. What it does not have is
    refused. Media open or raise an error that says why not, and no pointer leads out of the dataset.

    path: a folder (or file) in its format with some examples of each split, for a dataset that reads one; it is copied
    and not changed. A copy of it must be the same dataset, and a link out of the folder must not be followed.

    Raises:
        ContractError: the dataset breaks its contract; the message names the dataset and the fault.
    """
    entry = entry_of(module_or_build, name)
    check_build(entry, positional=("path",))

    def open_at(place: Path | None) -> Dataset:
        dataset: Dataset = entry.build(None if place is None else str(place), **(options or {}))
        return dataset

    dataset = open_at(path)
    check_description(entry, dataset)
    check_examples(entry, dataset)
    check_splits(entry, dataset)
    check_seed(entry, dataset, open_at(path))
    check_amounts(entry, dataset)
    check_refusals(entry, dataset)
    check_pointers(entry, dataset)
    check_media(entry, dataset)
    if path is not None:
        with tempfile.TemporaryDirectory() as folder:
            check_moved(entry, open_at, path, Path(folder))
        if path.is_dir():
            with tempfile.TemporaryDirectory() as folder:
                check_links(entry, open_at, path, Path(folder))
        check_path(entry, open_at)


def sample_examples(dataset: Dataset, split: str, source: str | None = None, **changed: Any) -> list[Example]:
    """Up to four examples of every source (or one), concept and task; `changed` replaces arguments of `examples`."""
    selected: list[Example] = []
    for name in dataset.all_tasks if source is None else [source]:
        arguments: dict[str, Any] = {"concepts": list(dataset.concepts), "tasks": dataset.all_tasks[name]}
        arguments |= {"per_concept": 4, "seed": 0} | changed
        selected += dataset.examples(source=name, split=split, **arguments)
    return selected


def check_description(entry: Entry, dataset: Dataset) -> None:
    """Name, revision, licence, concepts, tasks and metrics are what a job and the database expect."""
    entry.require(dataset.name == entry.name, f"its name is '{dataset.name}', not the entry's")
    entry.require(re.fullmatch(r"[0-9a-f]{64}", dataset.revision), "its revision is not 64 hex digits of its content")
    entry.require(dataset.licence, "it does not state its licence ('not stated' is enough)")
    for name, concept in dataset.concepts.items():
        entry.require(name == concept.name, f"its concept '{name}' has the name '{concept.name}'")
        lower = all(form == form.lower() for form in concept.forms)
        entry.require(lower, f"a form of its concept '{name}' is not lower case")
    sources = {IMAGE, TEXT, AUDIO, VIDEO}
    entry.require(set(dataset.all_tasks) <= sources, f"all_tasks has sources other than {', '.join(sorted(sources))}")
    entry.require(set(dataset.tasks) == set(dataset.all_tasks), "tasks and all_tasks have different sources")
    tasks = {task for of_source in dataset.all_tasks.values() for task in of_source}
    entry.require({t for of in dataset.tasks.values() for t in of} <= tasks, "tasks has one that all_tasks lacks")
    entry.require(set(dataset.metrics) <= tasks, "metrics names a task that all_tasks lacks")
    known = set(registry.names(ingest.metrics))
    unknown = sorted({metric for of_task in dataset.metrics.values() for metric in of_task} - known)
    entry.require(not unknown, f"its metrics {', '.join(unknown)} do not exist")


def check_examples(entry: Entry, dataset: Dataset) -> None:
    """Both splits have examples, each once, with a prompt, concepts, media where the source has any, and references."""
    forms = [form for concept in dataset.concepts.values() for form in concept.forms]
    for split in (FIND, HELD_OUT):
        examples = sample_examples(dataset, split)
        entry.require(examples, f"its split {split} has no examples")
        entry.require(len({e.id for e in examples}) == len(examples), f"an example of its split {split} is given twice")
        for e in examples:
            where = f"the example '{e.prompt[:40]}'"
            entry.require(e.split == split, f"{where} has the split {e.split}, not {split}")
            entry.require(e.prompt.strip(), "an example has an empty prompt")
            entry.require(e.mentions, f"{where} mentions no concept")
            entry.require(bool(e.media) == (e.source != TEXT), f"{where} of source {e.source} has media {e.media}")
            complete = isinstance(e.references, tuple) and all(r.strip() for r in e.references)
            entry.require(complete, f"{where} has references that are empty or not a tuple")
            if e.task in dataset.metrics:
                entry.require(e.references or e.answer, f"{where} is judged by metrics and has no reference")
            for mention in e.mentions:
                words = [mention.words] if mention.words else list(dataset.concepts[mention.concept].forms)
                has_words = e.answer is None or spans(e.answer, words, forms)
                entry.require(has_words, f"{where} has an answer without the words for its concept '{mention.concept}'")


def check_splits(entry: Entry, dataset: Dataset) -> None:
    """No example and no medium is in both splits: neurons must not be evaluated on the examples that found them."""
    find, held = (sample_examples(dataset, split, per_concept=200) for split in (FIND, HELD_OUT))
    entry.require(not {e.id for e in find} & {e.id for e in held}, "an example is in both splits")
    shared = {m for e in find for m in e.media} & {m for e in held for m in e.media}
    entry.require(not shared, f"media are in both splits: {', '.join(sorted(shared)[:3])}")


def check_seed(entry: Entry, dataset: Dataset, again: Dataset) -> None:
    """Only the seed decides which examples are drawn."""
    entry.require(again.revision == dataset.revision, "opened again it has another revision")
    ten = [e.id for e in sample_examples(dataset, FIND, per_concept=10)]
    entry.require(
        ten == [e.id for e in sample_examples(again, FIND, per_concept=10)], "the same seed gives other examples"
    )
    other_seed = [e.id for e in sample_examples(dataset, FIND, per_concept=10, seed=1)]
    entry.require(ten != other_seed, "another seed gives the same examples in the same order")


def check_amounts(entry: Entry, dataset: Dataset) -> None:
    """At most `per_concept` examples of a concept and task, and none without a task or a concept."""
    concept = next(iter(dataset.concepts))
    for source, tasks in dataset.all_tasks.items():
        for number in (1, 3):
            examples = sample_examples(dataset, FIND, source, concepts=[concept], per_concept=number)
            amount = f"{len(examples)} examples of {len(tasks)} tasks with per_concept={number}"
            entry.require(len(examples) <= number * len(tasks), f"it gives {amount}")
            about = all(concept in {m.concept for m in e.mentions} for e in examples)
            entry.require(about, f"asked for '{concept}', it gives examples that do not mention it")
        entry.require(sample_examples(dataset, FIND, source, tasks=[]) == [], "asked for no task, it gives examples")
        entry.require(
            sample_examples(dataset, FIND, source, concepts=[]) == [], "asked for no concept, it gives examples"
        )


def check_refusals(entry: Entry, dataset: Dataset) -> None:
    """What does not exist is a UsageError that names it."""
    usual: dict[str, Any] = {"source": next(iter(dataset.all_tasks)), "split": FIND, "concepts": [], "tasks": []}
    wrong_arguments: list[dict[str, Any]] = [
        {"source": "smell"},
        {"split": "train"},
        {"concepts": ["xyz"]},
        {"tasks": ["xyz"]},
    ]
    for argument in wrong_arguments:
        ((field, value),) = argument.items()
        named = value if isinstance(value, str) else value[0]
        with entry.refused(f"a {field.removesuffix('s')} that it does not have", matching=named):
            dataset.examples(**(usual | argument), per_concept=1, seed=0)


def check_pointers(entry: Entry, dataset: Dataset) -> None:
    """Only the dataset's own pointers are followed."""
    concept = next(iter(dataset.concepts))
    for pointer in FOREIGN:
        what = f"the foreign pointer '{pointer[:20]}'"
        with entry.refused(what, BadMedia):
            dataset.image(pointer)
        with entry.refused(what, BadMedia):
            dataset.mask(pointer, concept)
        if hasattr(dataset, "audio"):
            with entry.refused(what, BadMedia):
                dataset.audio(pointer)
        if dataset.path is not None:
            entry.require(dataset.digest(pointer) == "missing", f"the digest of {what} is not 'missing'")


def check_media(entry: Entry, dataset: Dataset) -> None:
    """Every medium has a digest and opens as its source requires."""
    for example in sample_examples(dataset, HELD_OUT):
        for media in example.media:
            entry.require(dataset.digest(media) not in ("", "missing"), f"the digest of {media} is missing")
            if example.source == IMAGE:
                image = dataset.image(media)
                entry.require(image.mode == "RGB", f"{media} is {image.mode}, not RGB")
                mask = dataset.mask(media, example.mentions[0].concept)
                right = mask.shape == (image.height, image.width) and mask.dtype == bool
                entry.require(right, f"the mask of {media} is not (height, width) bool")
                continue
            with entry.refused(f"{media} as a picture", BadMedia):
                dataset.image(media)
            opened: Any = dataset
            if example.source == VIDEO:
                frames = opened.video(media)
                alike = len({frame.size for frame in frames}) == 1 and {frame.mode for frame in frames} == {"RGB"}
                entry.require(alike, f"the frames of {media} are not RGB pictures of one size")
            if example.source == AUDIO:
                samples, rate = opened.audio(media)
                right = samples.ndim == 1 and samples.dtype == "float32" and rate == 16_000
                entry.require(right, f"{media} is not one channel of float32 at 16 kHz")


def check_moved(entry: Entry, open_at: Callable[[Path | None], Dataset], path: Path, folder: Path) -> None:
    """Another folder with the same content is the same dataset."""
    before, after = open_at(path), open_at(copy_to(path, folder / "elsewhere"))
    entry.require(after.revision == before.revision, "its revision depends on where its files are")
    entry.require(after.path == str(folder / "elsewhere"), "its path is not the one it was given")
    entry.require(
        sample_examples(after, FIND) == sample_examples(before, FIND), "its examples depend on where its files are"
    )


def check_links(entry: Entry, open_at: Callable[[Path | None], Dataset], path: Path, folder: Path) -> None:
    """A medium that is a link out of the folder is refused; links of the Hub's cache are followed."""
    dataset = open_at(copy_to(path, folder / "linked"))
    pointers = [media for example in sample_examples(dataset, FIND) for media in example.media]
    place = folder / "linked" / pointers[0] if pointers else folder
    if place.is_file():
        place.rename(folder / "secret")
        place.symlink_to(folder / "secret")
        with entry.refused("a link out of its folder", BadMedia):
            dataset.image(pointers[0])
        entry.require(dataset.digest(pointers[0]) == "missing", "the digest of a link out of its folder is not missing")
    cache = folder / "datasets--somebody--something"
    (cache / "blobs").mkdir(parents=True)
    snapshot = copy_to(path, cache / "snapshots" / ("0" * 40))
    for number, file in enumerate(sorted(f for f in snapshot.rglob("*") if f.is_file())):
        file.rename(cache / "blobs" / f"{number}")
        file.symlink_to(cache / "blobs" / f"{number}")
    cached = open_at(snapshot)
    entry.require(cached.revision == open_at(path).revision, "its revision is another in the Hub's cache")
    check_media(entry, cached)


def check_path(entry: Entry, open_at: Callable[[Path | None], Dataset]) -> None:
    """A missing path argument is refused with what to type; a path that does not exist, or is empty, with its name."""
    with entry.refused("no path", matching=rf"dataset[= ]'?{re.escape(entry.name)}:"):
        open_at(None)
    with tempfile.TemporaryDirectory() as folder:
        with entry.refused("a path that is not there", matching="nowhere"):
            open_at(Path(folder) / "nowhere")
        with entry.refused("an empty folder", matching=re.escape(folder)):
            open_at(Path(folder))


def copy_to(path: Path, to: Path) -> Path:
    """A copy of a folder or a file."""
    to.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(path, to) if path.is_dir() else shutil.copy(path, to))
