"""prompts: questions of your own without pictures, one JSON object a line.

    PATH    a file such as {"prompt": "The capital of France is", "answer": "Paris", "concepts": ["France"]}
    PATH    or a folder with prompts.jsonl in it

Beside these a row may have "words" (the part of the answer that stands for the concepts; else a concept's name, or
else the whole answer), "references" (more right answers), "task" and "fact". Rows of one fact are wordings of it: they
are in one split together. Where no fact is given, the same concepts, task and answer are the same fact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.errors import UsageError
from atlas.store.atomic import expanded
from ingest.data.examples import TEXT, Concept, Example
from ingest.datasets._files import dataset_folder, identifier, one_line, read_jsonl, split_of, stripped_text
from ingest.datasets._own import build_concepts, concept_names, mentions_of, without_repeats
from ingest.datasets._tasks import TaskDataset

NAME, TASK, FILE = "prompts", "fact", "prompts.jsonl"
KEYS = ("prompt", "answer", "concepts", "words", "references", "task", "fact")


def build(path: str | None = None) -> TaskDataset:
    """Read a file of prompts. About one fact in five is held out.

    Raises:
        UsageError: no such file; a line that is not JSON, lacks a prompt, answer or concept, or has a key that is not
            known; words that are not in the answer.
    """
    file = _file(path)
    rows = read_jsonl(file)
    for where, row in rows:
        if strange := sorted(set(row) - set(KEYS)):
            raise UsageError(f"{where} has {', '.join(strange)[:80]}; a row has {', '.join(KEYS)}")
    names = [concept_names(row.get("concepts"), where) for where, row in rows]
    known = build_concepts(name for some in names for name in some)

    def read() -> Iterator[tuple[str, Example]]:
        for (where, row), some in zip(rows, names, strict=True):
            yield where, _example(row, some, known, where)

    found = TaskDataset(
        NAME,
        file.parent,
        licence="not stated",
        concepts=known.values(),
        metrics={one_line(row.get("task", TASK), f"{where}, the task"): ("exact", "label") for where, row in rows},
        examples=without_repeats(read(), file),
    )
    found.path = str(expanded(path or ""))
    return found


def _file(path: str | None) -> Path:
    file = expanded(path or "")
    if path and file.is_file():
        return file
    found = dataset_folder(path, NAME) / FILE
    if not found.is_file():
        raise UsageError(f"{found.parent} has no {FILE}; use --dataset {NAME}:FILE")
    return found


def _example(row: Mapping[str, Any], names: Sequence[str], known: Mapping[str, Concept], where: str) -> Example:
    prompt = stripped_text(row.get("prompt"), f"{where}, the prompt")
    answer = one_line(row.get("answer"), f"{where}, the answer")
    task = one_line(row.get("task", TASK), f"{where}, the task")
    more = row.get("references", [])
    if not isinstance(more, list):
        raise UsageError(f"{where}: the references are not a list of texts")
    right = tuple(dict.fromkeys([answer, *(one_line(text, f"{where}, a reference") for text in more)]))
    mentions = mentions_of(names, answer, row.get("words"), known, where)
    fact = fact_of(row, names, task, answer, where)
    references = right if len(right) > 1 else ()
    return Example(TEXT, task, split_of(fact), prompt, answer, mentions, references=references, fact=fact)


def fact_of(row: Mapping[str, Any], names: Sequence[str], task: str, answer: str, where: str) -> str:
    """The id that all wordings of a row's fact share: the one that is given, else by concepts, task and answer."""
    if row.get("fact") is not None:
        return identifier(row["fact"], f"{where}, the fact")
    return json.dumps([sorted(names), task, answer.lower()])
