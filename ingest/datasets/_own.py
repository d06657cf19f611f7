"""What datasets written by hand have in common: named concepts, and the words that stand for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from atlas.errors import UsageError
from ingest.data.examples import Concept, Example, Mention
from ingest.data.targets import mention_spans
from ingest.datasets._coco_words import forms
from ingest.datasets._files import EVERY, one_line, warn_case_variants, warn_left_out


def concept_names(value: Any, where: str) -> tuple[str, ...]:
    """The concepts of a row: a name, names separated by semicolons, or a list of names.

    Raises:
        UsageError: there is none, or a name that no option could give.
    """
    raw_names = value.split(";") if isinstance(value, str) else [] if value is None else value
    listed = raw_names if isinstance(raw_names, list) else [raw_names]
    names = [one_line(name, f"{where}, a concept") for name in listed if name != ""]
    if not names:
        raise UsageError(f"{where} names no concept; each row needs one")
    for name in names:
        if "," in name:
            raise UsageError(f"{where}: the concept '{name}' has a comma, which separates concepts; use ; instead")
        if name == EVERY:
            raise UsageError(f"{where}: the concept '{EVERY}' stands for all concepts; give it another name")
    return tuple(dict.fromkeys(names))


def build_concepts(names: Iterable[str]) -> dict[str, Concept]:
    """A concept for each name, in order, with its plural and synonyms as forms; warns of names that differ only in
    capitals."""
    names = sorted(set(names))
    warn_case_variants(names)
    return {name: Concept(name, forms(name)) for name in names}


def mentions_of(
    names: Iterable[str], answer: str | None, answer_words: Any, known: Mapping[str, Concept], where: str
) -> tuple[Mention, ...]:
    """What stands for each concept: `answer_words` where given; else one of its forms where the answer has one; else
    the whole answer. Without an answer, its forms in whatever the model answers.

    Raises:
        UsageError: `answer_words` are not in the answer.
    """
    if answer_words not in (None, ""):
        own_words = one_line(answer_words, f"{where}, the words")
        if answer is None or not mention_spans(answer, Mention("", own_words), {}):
            raise UsageError(f"{where}: the words '{own_words}' are not in the answer")
        return tuple(Mention(name, own_words) for name in names)
    mentions = []
    for name in names:
        plain = Mention(name)
        mentions.append(plain if answer is None or mention_spans(answer, plain, known) else Mention(name, answer))
    return tuple(mentions)


def without_repeats(examples: Iterable[tuple[str, Example]], root: object) -> Iterator[Example]:
    """The examples without repeats of earlier ones, of which it warns. Each comes with where it was read."""
    first_place: dict[str, str] = {}
    repeats, count = [], 0
    for where, example in examples:
        count += 1
        if example.id in first_place:
            repeats.append(f"{where} is the same as {first_place[example.id]}")
            continue
        first_place[example.id] = where.rpartition(": ")[2]
        yield example
    warn_left_out(f"{root}: equal rows", repeats, count)
