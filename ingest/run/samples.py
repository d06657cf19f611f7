"""Which examples of a job are rehearsed: spread over each source, in batches as a run makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ingest.attribution.estimators import IMAGE_TARGET
from ingest.data.examples import Example
from ingest.job import Execution, Job
from ingest.run.shallow import parameters_of

T = TypeVar("T")

STRETCH = 4
"""How many batches a run sorts by length together (`ingest.run.map_step.stretches`)."""

LARGEST = 4e12
"""Operations of all forward passes of the deeper model, at most: fewer batches are rehearsed of a large model, or one
with fewer examples."""

POSITIONS = 512
"""Tokens of an example, as assumed for that."""


def batches_of(job: Job, execution: Execution, depth: int) -> tuple[int, int]:
    """How many examples go through the models together, and how many such batches. depth: layers of the deepest model,
    as the numbers are to be the same for every depth: what two depths take is compared."""
    operations = 2 * parameters_of(job, execution, depth) * POSITIONS
    size = min(execution.batch_size, max(1, int(LARGEST / operations)))
    return size, min(STRETCH, max(1, int(LARGEST / (size * operations))))


def choose_samples(examples: Sequence[Example], size: int) -> dict[str, list[int]]:
    """source -> the numbers of the examples that are encoded: of all that are answered in words, as many as a run sorts
    by length together, in pieces of `size` that are spread evenly. Neighbours are of few concepts, as in a run."""
    numbers: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        if example.target != IMAGE_TARGET:
            numbers.setdefault(example.source, []).append(number)
    return {
        source: [number for piece in cut_batches(of_source, size, STRETCH) for number in piece]
        for source, of_source in numbers.items()
    }


def spread(numbers: Sequence[int], size: int) -> list[int]:
    """`size` of the numbers, or all where they are fewer, each from the middle of an equal part."""
    size = min(size, len(numbers))
    return [numbers[(2 * part + 1) * len(numbers) // (2 * size)] for part in range(size)]


def cut_batches(items: Sequence[T], size: int, count: int) -> list[Sequence[T]]:
    """`count` batches of `size` consecutive items, each from the middle of an equal part; all items, in as few equal
    batches as hold them, where they are no more than that."""
    if len(items) <= size * count:
        count = -(-len(items) // size)
        return [items[part * len(items) // count : (part + 1) * len(items) // count] for part in range(count)]
    firsts = [(2 * part + 1) * len(items) // (2 * count) - size // 2 for part in range(count)]
    return [items[max(0, first) : max(0, first) + size] for first in firsts]
