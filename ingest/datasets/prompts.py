"""prompts: your own questions without pictures, one JSON object a line.

    PATH    a file such as {"prompt": "The capital of France is", "answer": "Paris", "concepts": ["France"]}
    PATH    or a folder with prompts.jsonl in it

A row may also have "words" (the part of the answer that stands for the concepts; by default a concept's name, or else
the whole answer), "references" (more right answers), "task", "fact" and "split" (find or held_out; by default about one
fact in five is held out). Rows of one fact are wordings of it and in one split. Where no fact is given, the same
concepts, task and answer are the same fact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.errors import UsageError
from atlas.query.given import shown
from atlas.store.atomic import expand_home
from ingest.data.examples import FIND, HELD_OUT, TEXT, Concept, Example
from ingest.datasets._files import dataset_folder, identifier, one_line, read_jsonl, split_of, stripped_text
from ingest.datasets._own import build_concepts, concept_names, mentions_of, without_repeats
from ingest.datasets._tasks import TaskDataset

NAME, TASK, FILE = "prompts", "fact", "prompts.jsonl"
KEYS = ("prompt", "answer", "concepts", "words", "references", "task", "fact", "split")


def build(path: str | None = None) -> TaskDataset:
    """Read a file of prompts. About one fact in five is held out, unless the rows say which.

    Raises:
        UsageError: no such file; a line that is not JSON, lacks a prompt, answer or concept, or has an unknown key;
            words that are not in the answer; a fact in both splits.
    """
    file = _file(path)
    return read_prompts(file, NAME, path=str(expand_home(path or "")), licence="not stated")


def read_prompts(file: Path, name: str, *, path: str | None, licence: str) -> TaskDataset:
    """A file of prompts as the dataset of that name; raises what `build` does."""
    rows = read_jsonl(file)
    for where, row in rows:
        if unknown_keys := sorted(set(row) - set(KEYS)):
            raise UsageError(f"{where} has {', '.join(unknown_keys)[:80]}; a row has {', '.join(KEYS)}")
    names = [concept_names(row.get("concepts"), where) for where, row in rows]
    known = build_concepts(name for concept_group in names for name in concept_group)

    def read() -> Iterator[tuple[str, Example]]:
        splits: dict[str, str] = {}
        for (where, row), concept_group in zip(rows, names, strict=True):
            example = _example(row, concept_group, known, where)
            if splits.setdefault(example.fact, example.split) != example.split:
                raise UsageError(f"{where}: another wording of this fact is in the split {splits[example.fact]}")
            yield where, example

    dataset = TaskDataset(
        name,
        file.parent,
        licence=licence,
        concepts=known.values(),
        metrics={one_line(row.get("task", TASK), f"{where}, the task"): ("exact", "label") for where, row in rows},
        examples=without_repeats(read(), file),
    )
    dataset.path = path
    return dataset


def _file(path: str | None) -> Path:
    file = expand_home(path or "")
    if path and file.is_file():
        return file
    default_file = dataset_folder(path, NAME) / FILE
    if not default_file.is_file():
        raise UsageError(f"{default_file.parent} has no {FILE}; use [[dataset={NAME}:FILE]]")
    return default_file


def _example(row: Mapping[str, Any], names: Sequence[str], known: Mapping[str, Concept], where: str) -> Example:
    prompt = stripped_text(row.get("prompt"), f"{where}, the prompt")
    answer = one_line(row.get("answer"), f"{where}, the answer")
    task = one_line(row.get("task", TASK), f"{where}, the task")
    listed = row.get("references", [])
    if not isinstance(listed, list):
        raise UsageError(f"{where}: the references are not a list of texts")
    right_answers = tuple(dict.fromkeys([answer, *(one_line(text, f"{where}, a reference") for text in listed)]))
    mentions = mentions_of(names, answer, row.get("words"), known, where)
    fact = fact_of(row, names, task, answer, where)
    references = right_answers if len(right_answers) > 1 else ()
    split = row.get("split", split_of(fact))
    if split not in (FIND, HELD_OUT):
        raise UsageError(f"{where}: the split is {FIND} or {HELD_OUT}, not {shown(split)}")
    return Example(TEXT, task, split, prompt, answer, mentions, references=references, fact=fact)


def fact_of(row: Mapping[str, Any], names: Sequence[str], task: str, answer: str, where: str) -> str:
    """The id that all wordings of a row's fact share: the given one, else one made of concepts, task and answer."""
    if row.get("fact") is not None:
        return identifier(row["fact"], f"{where}, the fact")
    return json.dumps([sorted(names), task, answer.lower()])
