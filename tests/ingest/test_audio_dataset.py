"""A folder of recordings with a table: ESC-50's layout, and that of the real clips beside the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import task_folders

from atlas.errors import UsageError
from ingest.data.examples import FIND, HELD_OUT, Example
from ingest.datasets import audio


def every(dataset: Any) -> list[Example]:
    names = list(dataset.concepts)
    return [
        e
        for split in (FIND, HELD_OUT)
        for e in dataset.examples(source="audio", split=split, concepts=names, tasks=["sound"], per_concept=99, seed=0)
    ]


def test_takes_of_one_original_are_in_one_split(tmp_path: Path) -> None:
    task_folders.audio(tmp_path)
    split: dict[str, set[str]] = {}
    for example in every(audio.build(str(tmp_path))):
        split.setdefault(example.media[0].rsplit("-", 2)[0], set()).add(example.split)
    assert len(split) == task_folders.COUNT and all(len(found) == 1 for found in split.values())
    assert {s for found in split.values() for s in found} == {FIND, HELD_OUT}
    # The same without the column that says so, from ESC's names.
    table = tmp_path / "meta" / "esc50.csv"
    table.write_text("\n".join(",".join(row.split(",")[:5]) for row in table.read_text().splitlines()) + "\n")
    again = {e.media[0].rsplit("-", 2)[0]: set() for e in every(audio.build(str(tmp_path)))}  # type: ignore[var-annotated]
    for example in every(audio.build(str(tmp_path))):
        again[example.media[0].rsplit("-", 2)[0]].add(example.split)
    assert all(len(found) == 1 for found in again.values())


def test_labels_are_concepts_in_words(tmp_path: Path) -> None:
    dataset = audio.build(str(task_folders.audio(tmp_path)))
    assert list(dataset.concepts) == ["dog", "rain", "sea waves"]
    assert {e.answer for e in every(dataset)} == set(dataset.concepts)
    only = audio.build(str(tmp_path), part="dog+rain", question="which?")
    assert list(only.concepts) == ["dog", "rain"]
    assert {e.prompt for e in every(only)} == {"which?"}
    with pytest.raises(UsageError, match="no label 'cat'; there are: dog, rain, sea_waves"):
        audio.build(str(tmp_path), part="cat")


def test_a_table_that_says_too_little_is_refused(tmp_path: Path) -> None:
    task_folders.sound(tmp_path / "a.wav")
    table = tmp_path / "clips.csv"
    for content, match in (
        ("file,loudness\na.wav,3\n", "no column category or label or class .it has file, loudness."),
        ("file,label\n", "no rows"),
        ("file,label\na.wav,\n", "line 2, the label is not text"),
        ("file,label\n../a.wav,dog\n", "leads out of"),
        ("file,label\nb.wav,dog\n", "none of the files"),
    ):
        table.write_text(content)
        with pytest.raises(Exception, match=match):
            audio.build(str(tmp_path))
    table.unlink()
    with pytest.raises(UsageError, match="has no meta/esc50.csv or clips.csv"):
        audio.build(str(tmp_path))


def test_the_real_clips_are_read(shared_data: Path) -> None:
    pytest.importorskip("soundfile")
    dataset = audio.build(str(shared_data / "esc10_mini"))
    found = every(dataset)
    assert len(found) == 79 and len(dataset.concepts) == 10 and dataset.licence.startswith("CC0")
    assert {e.split for e in found} == {FIND, HELD_OUT}
    samples, rate = dataset.audio(found[0].media[0])
    assert rate == 16_000 and 4 * rate < len(samples) < 6 * rate
