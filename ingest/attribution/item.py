"""An encoded example with the tokens of its answer to explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atlas.live.encode import Prompt
from atlas.live.grid.heatmap import Mask
from atlas.live.grid.token_grids import Grid
from ingest.data.targets import Target


@dataclass(frozen=True, slots=True)
class Region:
    """Where one picture of an example shows a concept.

    grids: of the picture's tokens. own: (height, width) bool, the pixels that show it. other: the same of another
    picture of the concept, a null for neurons that always look at one place; None where the run has no other.
    """

    grids: tuple[Grid, ...]
    own: Mask
    other: Mask | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One example, encoded with its answer, and the answer's tokens to explain (at least one).

    number: its place among the run's examples. cluster: see `Example`. twins: for each concept, the inputs with it
    removed from the pictures, then with an equal region elsewhere, once a draw; only where a method needs them. named:
    the positions of the prompt's tokens that name each concept; only of text, where a method needs them. regions: where
    its pictures show each concept; only where a method needs them.
    """

    number: int
    prompt: Prompt
    targets: tuple[Target, ...]
    twins: Mapping[str, tuple[Prompt, ...]] = field(default_factory=dict)
    cluster: str = ""
    named: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    regions: Mapping[str, tuple[Region, ...]] = field(default_factory=dict)


def shortest_first(items: Sequence[Item]) -> list[Item]:
    """The items by length, so that batches need little padding."""
    return sorted(items, key=lambda item: (len(item.prompt.ids) + len(item.prompt.answer), item.number))
