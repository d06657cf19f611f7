"""What datasets that a user writes by hand have in common: named concepts, and the words that stand for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from atlas.errors import UsageError
from ingest.data.examples import Concept, Example, Mention
from ingest.data.targets import mention_spans
from ingest.datasets._coco_words import forms
from ingest.datasets._files import EVERY, one_line, warn_case_variants, warn_left_out


def concept_names(value: Any, where: str) -> tuple[str, ...]:
    """The concepts of a row: a name, names with semicolons between, or a list of names.

    Raises:
        UsageError: there is none, or one that no option could name.
    """
    texts = value.split(";") if isinstance(value, str) else [] if value is None else value
    given = texts if isinstance(texts, list) else [texts]
    found = [one_line(name, f"{where}, a concept") for name in given if name != ""]
    if not found:
        raise UsageError(f"{where} names no concept; each row needs one")
    for name in found:
        if "," in name:
            raise UsageError(f"{where}: the concept '{name}' has a comma, which separates concepts in options; use ;")
        if name == EVERY:
            raise UsageError(f"{where}: the concept '{EVERY}' stands for all concepts; give it another name")
    return tuple(dict.fromkeys(found))


def build_concepts(names: Iterable[str]) -> dict[str, Concept]:
    """A concept for each name, in order, with its plural and synonyms as forms; names that differ in capitals alone are
    told."""
    names = sorted(set(names))
    warn_case_variants(names)
    return {name: Concept(name, forms(name)) for name in names}


def mentions_of(
    names: Iterable[str], answer: str | None, words: Any, known: Mapping[str, Concept], where: str
) -> tuple[Mention, ...]:
    """What stands for each concept: the words that are given; else its name or a form of it where that is in the
    answer; else the whole answer. Without an answer, its forms in whatever the model answers.

    Raises:
        UsageError: the given words are not in the answer.
    """
    if words not in (None, ""):
        said = one_line(words, f"{where}, the words")
        if answer is None or not mention_spans(answer, Mention("", said), {}):
            raise UsageError(f"{where}: the words '{said}' are not in the answer")
        return tuple(Mention(name, said) for name in names)
    found = []
    for name in names:
        plain = Mention(name)
        found.append(plain if answer is None or mention_spans(answer, plain, known) else Mention(name, answer))
    return tuple(found)


def without_repeats(examples: Iterable[tuple[str, Example]], root: object) -> Iterator[Example]:
    """The examples without those that are equal to an earlier one, which is told. Each comes with where it is read."""
    first: dict[str, str] = {}
    again, count = [], 0
    for where, example in examples:
        count += 1
        if example.id in first:
            again.append(f"{where} is the same as {first[example.id]}")
            continue
        first[example.id] = where.rpartition(": ")[2]
        yield example
    warn_left_out(f"{root}: equal rows", again, count)
