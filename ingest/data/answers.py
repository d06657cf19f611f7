"""Whose words are explained: the model's own answer to a picture, or the best of the dataset's reference answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

from atlas.errors import AtlasWarning, UsageError
from ingest.data.examples import TEXT, Concept, Example
from ingest.data.targets import mention_spans

OWN, REFERENCE = "own", "reference"
ANSWERS = (OWN, REFERENCE)
"""`answers` of a job, for examples that have no answer of their own: what the model says, or what a person wrote."""


def with_references(
    examples: Sequence[Example], concepts: Mapping[str, Concept], names: Sequence[str]
) -> list[Example]:
    """The examples, each without an answer given the reference that names the most of the concepts `names` that the
    example mentions; of equal ones, the first. Requests for pictures stay as they are. Warns of examples that are left
    out because they have none.

    Raises:
        UsageError: there are examples without an answer, and none of them has a reference.
    """
    answered: list[Example] = []
    lacking: list[str] = []
    for example in examples:
        if example.answer is not None or example.target != TEXT:
            answered.append(example)
        elif example.references:
            answered.append(replace(example, answer=_best(example, concepts, names)))
        else:
            lacking.append(example.id)
    if lacking and not answered:
        raise UsageError(
            f"none of the {len(lacking)} examples without an answer has a reference; leave out [[answers=reference]] "
            "to explain the model's own words"
        )
    if lacking:
        warnings.warn(
            f"{len(lacking)} of {len(examples)} examples have no reference answer and are left out; the first: "
            f"{lacking[0]}",
            AtlasWarning,
            stacklevel=3,
        )
    return answered


def _best(example: Example, concepts: Mapping[str, Concept], names: Sequence[str]) -> str:
    mentions = [mention for mention in example.mentions if mention.concept in names]
    counts = [sum(bool(mention_spans(text, mention, concepts)) for mention in mentions) for text in example.references]
    return example.references[counts.index(max(counts))]
