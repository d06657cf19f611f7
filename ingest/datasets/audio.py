"""audio: a folder of recordings with a table of labels, such as ESC-50.

    PATH/meta/esc50.csv, or clips.csv, or the only .csv file: one row a recording
    PATH/audio/NAME (or clips/, sounds/, or PATH itself); .wav, and .flac and others with soundfile

The table's cells are separated by commas, semicolons or tabs. It has columns for the file's name (filename, file, path
or clip) and for what is heard (category, label or class), in upper or lower case; other columns are ignored. Every
label is a concept; source "audio". Recordings cut from the same original (ESC's names 1-100032-A, 1-100032-B, ..., or
a column src_file) are in one split.
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

    question: the prompt for each recording. part: only these labels, joined by "+"; "all" for all of them.
    About one original in five is held out.

    Raises:
        UsageError: no such folder; no table, or several; a missing column; a row without a file or a label; an unknown
            label in `part`; none of the recordings exists.
        BadMedia: a file's name leads out of the folder.
    """
    root = dataset_folder(path, NAME)
    table = find_one_file(root, TABLES, LAYOUT)
    numbered_rows = read_csv(table)
    names = [one_line(_of(row, FILES, table), f"{where}, the file") for where, row in numbered_rows]
    labels = [one_line(_of(row, LABELS, table), f"{where}, the label") for where, row in numbered_rows]
    rows = [row for _, row in numbered_rows]
    concepts = {label: _concept(label) for label in sorted(set(labels))}
    chosen = set(labels) if part == "all" else set(part.split("+"))
    for label in sorted(chosen - set(labels)):
        raise UsageError(f"{table} has no label '{label}'; there are: {', '.join(sorted(set(labels)))}")
    pointers = media_pointers(root, FOLDERS, names)

    def read() -> Iterator[Example]:
        for row, pointer, label in zip(rows, pointers, labels, strict=True):
            if label in chosen:
                answer = concepts[label].name
                split = split_of(_original(row, pointer))
                yield Example(AUDIO, TASK, split, question, answer, (Mention(answer, answer),), (pointer,))

    return TaskDataset(
        NAME,
        root,
        licence=_licence(rows),
        concepts=[concepts[label] for label in sorted(chosen)],
        metrics={TASK: ("label",)},
        examples=read(),
    )


def _of(row: Mapping[str, str | None], columns: Sequence[str], table: Path) -> str | None:
    for column in columns:
        if column in row:
            return row[column]
    present = ", ".join(str(key) for key in row)
    raise UsageError(f"{table} has no column {' or '.join(columns)} (it has {present}); expected: {LAYOUT}")


def _concept(label: str) -> Concept:
    """ "dog_bark" -> the concept "dog bark"."""
    name = " ".join(label.replace("_", " ").lower().split())
    return Concept(name, (name,))


def _original(row: Mapping[str, str | None], pointer: str) -> str:
    """The name of the original that a recording was cut from."""
    stated = next((row[column] for column in ORIGINALS if row.get(column)), None)
    stem = Path(pointer).stem
    take = TAKE.fullmatch(stem)
    return stated or (take["original"] if take else stem)


def _licence(rows: Sequence[Mapping[str, str | None]]) -> str:
    licences = {row[column] for row in rows for column in LICENCES if row.get(column)}
    return " and ".join(sorted(str(licence) for licence in licences)) or "not stated"
