"""audio: a folder of recordings with a table of what each is, such as ESC-50.

    PATH/meta/esc50.csv, or clips.csv, or the only .csv there is: a row a recording
    PATH/audio/NAME (or clips/, sounds/, or PATH itself); .wav, and .flac and others by soundfile

The table's cells are separated by commas, semicolons or tabs. It has the file's name (filename, file, path or clip) and
what is heard (category, label or class), in small or capital letters; other columns do not matter. Every label is a
concept; source "audio". Recordings cut from the same original (ESC's names 1-100032-A, 1-100032-B, ..., or a column
src_file) are in one split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from atlas.errors import UsageError
from ingest.data.examples import AUDIO, Concept, Example, Mention
from ingest.datasets._files import dataset_folder, find_one_file, media_pointers, one_line, read_csv, split_of
from ingest.datasets._tasks import TaskDataset

NAME, TASK = "audio", "sound"
TABLES = ("meta/esc50.csv", "clips.csv", "meta/*.csv", "*.csv")
FOLDERS = ("audio", "clips", "sounds", ".")
FILES, LABELS, ORIGINALS = (
    ("filename", "file", "path", "clip"),
    ("category", "label", "class"),
    ("src_file", "original"),
)
LICENCES = ("licence", "license", "clip_licence", "clip_license")
LAYOUT = "a .csv with the columns file and label (or filename and category) beside the recordings or above audio/"
TAKE = re.compile(r"(?P<original>.*\d)-[A-Z](-\d+)?")


def build(
    path: str | None = None, *, question: str = "What do you hear? Answer with one or two words.", part: str = "all"
) -> TaskDataset:
    """Read a folder of labelled recordings.

    question: what is asked of each. part: only these labels, joined by "+"; "all" for every one.
    About one original in five is held out.

    Raises:
        UsageError: no such folder; no table, or several; a column that is missing; a row without a file or a label;
            an unknown label in `part`; not one recording there.
        BadMedia: a file's name leads out of the folder.
    """
    root = dataset_folder(path, NAME)
    table = find_one_file(root, TABLES, LAYOUT)
    listed = read_csv(table)
    names = [one_line(_of(row, FILES, table), f"{where}, the file") for where, row in listed]
    labels = [one_line(_of(row, LABELS, table), f"{where}, the label") for where, row in listed]
    rows = [row for _, row in listed]
    concepts = {label: _concept(label) for label in sorted(set(labels))}
    wanted = set(labels) if part == "all" else set(part.split("+"))
    for label in sorted(wanted - set(labels)):
        raise UsageError(f"{table} has no label '{label}'; there are: {', '.join(sorted(set(labels)))}")
    pointers = media_pointers(root, FOLDERS, names)

    def read() -> Iterator[Example]:
        for row, pointer, label in zip(rows, pointers, labels, strict=True):
            if label in wanted:
                said = concepts[label].name
                split = split_of(_original(row, pointer))
                yield Example(AUDIO, TASK, split, question, said, (Mention(said, said),), (pointer,))

    return TaskDataset(
        NAME,
        root,
        licence=_licence(rows),
        concepts=[concepts[label] for label in sorted(wanted)],
        metrics={TASK: ("label",)},
        examples=read(),
    )


def _of(row: Mapping[str, str | None], columns: Sequence[str], table: Path) -> str | None:
    for column in columns:
        if column in row:
            return row[column]
    have = ", ".join(str(key) for key in row)
    raise UsageError(f"{table} has no column {' or '.join(columns)} (it has {have}); expected is {LAYOUT}")


def _concept(label: str) -> Concept:
    """ "dog_bark" -> the concept "dog bark"."""
    name = " ".join(label.replace("_", " ").lower().split())
    return Concept(name, (name,))


def _original(row: Mapping[str, str | None], pointer: str) -> str:
    """What tells that two recordings are cut from one."""
    given = next((row[column] for column in ORIGINALS if row.get(column)), None)
    stem = Path(pointer).stem
    take = TAKE.fullmatch(stem)
    return given or (take["original"] if take else stem)


def _licence(rows: Sequence[Mapping[str, str | None]]) -> str:
    found = {row[column] for row in rows for column in LICENCES if row.get(column)}
    return " and ".join(sorted(str(licence) for licence in found)) or "not stated"
