"""folder: pictures of your own, in a folder for each class or with a table.

    PATH/dog/*.jpg  PATH/cat/*.png  ...          a folder's name is the answer and the concept
    PATH/train/dog/*.jpg  PATH/test/dog/*.jpg    the same below train/, val/, test/
    PATH/metadata.csv (or .jsonl, or the only .csv or .jsonl file)   a row for each question about a picture

A table has the columns file_name (or file, path, image), below PATH, and concepts (or concept, label, class, category;
several separated by semicolons, or a list); and may have prompt, answer, words and task. Without an answer the model's
own is explained. "words" is the part of the answer that stands for the concepts; by default a concept's name, or else
the whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.errors import UsageError
from ingest.data.examples import IMAGE, BadMedia, Concept, Example
from ingest.datasets._coco_words import spaced_name
from ingest.datasets._files import (
    dataset_folder,
    find_one_file,
    media_pointers,
    one_line,
    read_csv,
    read_jsonl,
    require_inside,
    split_of,
    stripped_text,
    warn_left_out,
)
from ingest.datasets._own import build_concepts, concept_names, mentions_of, without_repeats
from ingest.datasets._tasks import TaskDataset

NAME, TASK = "folder", "name"
TABLES = ("metadata.csv", "metadata.jsonl", "*.csv", "*.jsonl")
FILES = ("file_name", "filename", "file", "path", "image")
LABELS = ("concepts", "concept", "label", "class", "category")
MORE = ("prompt", "answer", "words", "task")
PARTS = ("train", "val", "valid", "validation", "test")
PICTURES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
LAYOUT = "a folder of pictures for each class, or metadata.csv with the columns file_name and concepts"

Row = tuple[str, str, tuple[str, ...], Mapping[str, Any]]
"""Where the row was read, the picture's name, the concepts, and the other fields."""


def build(
    path: str | None = None, *, question: str = "What is this? Answer with one or two words.", table: str = ""
) -> TaskDataset:
    """Read a folder of pictures.

    question: the prompt where the table has none. table: its name below PATH, or "none" to read class folders although
    there is a table; by default the one table found. About one picture in five is held out.

    Raises:
        UsageError: no such folder; neither pictures in class folders nor a table; a row without a concept, or with a
            file outside the folder; no picture exists.
        BadMedia: a table outside the folder.
    """
    root = dataset_folder(path, NAME)
    patterns = (table,) if table else TABLES
    require_inside(table or "none")
    has_table = table != "none" and (table or any(file for pattern in TABLES for file in root.glob(pattern)))
    rows = _table(find_one_file(root, patterns, LAYOUT), root) if has_table else _classes(root)
    known = build_concepts(name for _, _, names, _ in rows for name in names)
    pointers = media_pointers(root, (".", "images"), [name for _, name, _, _ in rows])

    def read() -> Iterator[tuple[str, Example]]:
        for row, pointer in zip(rows, pointers, strict=True):
            yield row[0], _example(row, pointer, question, known)

    examples = list(without_repeats(read(), root))
    unanswered = {example.task for example in examples if example.answer is None}
    metrics = {example.task: ("label",) for example in examples if example.task not in unanswered}
    return TaskDataset(NAME, root, licence="not stated", concepts=known.values(), metrics=metrics, examples=examples)


def _example(row: Row, pointer: str, question: str, known: Mapping[str, Concept]) -> Example:
    where, _, names, row_fields = row
    fields = {key: row_fields.get(key) for key in MORE}
    prompt = stripped_text(fields["prompt"], f"{where}, the prompt") if fields["prompt"] not in (None, "") else question
    answer = one_line(fields["answer"], f"{where}, the answer") if fields["answer"] not in (None, "") else None
    task = one_line(fields["task"], f"{where}, the task") if fields["task"] not in (None, "") else TASK
    mentions = mentions_of(names, answer, fields["words"], known, where)
    return Example(IMAGE, task, split_of(pointer), prompt, answer, mentions, (pointer,))


def _table(file: Path, root: Path) -> list[Row]:
    rows: list[Row] = []
    numbered_rows = [(where, {key.lower(): value for key, value in row.items()}) for where, row in _lines(file)]
    for where, row in numbered_rows:
        name = one_line(_of(row, FILES, where), f"{where}, the file")
        if Path(name).is_absolute() and Path(name).is_relative_to(root.absolute()):
            name = Path(name).relative_to(root.absolute()).as_posix()
        try:
            require_inside(name)
        except BadMedia as error:
            raise UsageError(f"{where}: {error}") from error
        rows.append((where, name, concept_names(_of(row, LABELS, where), where), row))
    unread_columns = dict.fromkeys(key for _, row in numbered_rows for key in row if key not in _read(row))
    subject = f"{file}: unknown columns (known are {', '.join(MORE)})"
    warn_left_out(subject, list(unread_columns), len(numbered_rows[0][1]), "ignored")
    return rows


def _lines(file: Path) -> Sequence[tuple[str, Mapping[str, Any]]]:
    return read_jsonl(file) if file.suffix == ".jsonl" else read_csv(file)


def _read(row: Mapping[str, Any]) -> set[str]:
    """The columns of a row that are read: where a column has several names, the first of them."""
    return {next(key for key in aliases if key in row) for aliases in (FILES, LABELS)} | set(MORE)


def _of(row: Mapping[str, Any], columns: Sequence[str], where: str) -> Any:
    for column in columns:
        if column in row:
            return row[column]
    present = ", ".join(str(key) for key in row)[:80]
    raise UsageError(f"{where} has no {' or '.join(columns)} (it has {present}); expected: {LAYOUT}")


def _classes(root: Path) -> list[Row]:
    """The pictures of every class folder; warns of files that are not pictures."""
    folders = _folders(root)
    parts = [
        folder
        for folder in folders
        if folder.name.lower() in PARTS and _folders(folder) and not _pictures(folder.iterdir())
    ]
    class_folders = [folder for folder in folders if folder not in parts and _pictures(folder.rglob("*"))]
    if parts and class_folders:
        raise UsageError(
            f"{root} has classes below {parts[0].name}/ and pictures in {class_folders[0].name}/ beside it; "
            f"keep one of them, or give [[dataset={NAME}:{parts[0]}]]"
        )
    empty = [folder.name for folder in folders if parts and folder not in parts]
    folders = [inner for folder in parts for inner in _folders(folder)] if parts else folders
    rows: list[Row] = []
    other_files: list[str] = []
    for folder in folders:
        count_before, answer = len(rows), spaced_name(folder.name)
        for file in sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")):
            name = file.relative_to(root).as_posix()
            if file.suffix.lower() in PICTURES and answer:
                rows.append((name, name, concept_names(answer, name), {"answer": answer}))
            else:
                other_files.append(name)
        if len(rows) == count_before:
            empty.append(folder.relative_to(root).as_posix())
    if not rows:
        raise UsageError(f"{root} has no pictures in class folders and no table; expected: {LAYOUT}")
    warn_left_out(f"{root}: folders without pictures", empty, len(folders) + len(parts))
    loose = [file.name for file in _pictures(sorted(root.iterdir()))]
    warn_left_out(
        f"{root}: files that are not pictures of a class",
        [*loose, *other_files],
        len(rows) + len(loose) + len(other_files),
    )
    return rows


def _pictures(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.is_file() and file.suffix.lower() in PICTURES]


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
