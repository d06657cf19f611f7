"""What tests of edits share: a model's row, edits in memory, and any mix of changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.positions import EVERYWHERE, Positions
from atlas.neurons import Neuron

LAYERS, WIDTH, D_MODEL = 2, 64, 32
"""Of the random models of conftest.py."""

WHERES = [EVERYWHERE, *map(Positions.parse, ("role=image", "role=text;phase=decode", "position=-1,2:5;phase=prefill"))]


def model_row(**changed: Any) -> dict[str, Any]:
    row = {"name": "tiny", "revision": None, "fingerprint": "f" * 64, "model_type": "llava", "layers": LAYERS}
    row |= {"width": WIDTH, "d_model": D_MODEL, "vocabulary": 300, "created_at": "2026-01-01T00:00:00"}
    return row | changed


def edit_of(intervention: Intervention | Sequence[Change], name: str = "no-dog", version: int = 1, **more: Any) -> Edit:
    """An edit of the row's model. more: of its fields; `fingerprint` of its model."""
    done = intervention if isinstance(intervention, Intervention) else Intervention(tuple(intervention))
    model = model_row(**({"fingerprint": more.pop("fingerprint")} if "fingerprint" in more else {}))
    fields = {"model": model, "concept": "dog", "provenance": {"fingerprint": model["fingerprint"]}} | more
    return Edit(name, version, intervention=done, created_at="2026-01-02T00:00:00", **fields)


def neuron(layer: int, index: int) -> Neuron:
    return Neuron("language", layer, index)


def language(*addresses: tuple[int, int]) -> list[Neuron]:
    return [neuron(*address) for address in addresses]


numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def interventions(draw: st.DrawFn) -> Intervention:
    """Any: one neuron or many, all changed alike or each in its own way, with deltas or without."""
    rows = draw(st.integers(0, 3))
    one = st.builds(
        Change,
        st.builds(Neuron, st.sampled_from(["language", "vision"]), st.integers(0, 99), st.integers(0, 99_999)),
        numbers,
        numbers,
        st.floats(0, 1e9),
        st.sampled_from(WHERES),
        st.none() | st.integers(0, rows - 1) if rows else st.none(),
    )
    changes = draw(st.lists(one, min_size=1, max_size=6))
    seed = draw(st.integers(0, 2**31))
    deltas = np.random.default_rng(seed).standard_normal((rows, 5)).astype(np.float32) if rows else None
    return Intervention(tuple(changes), draw(st.sampled_from(["product", "gate"])), deltas, seed)


def same(one: Intervention, other: Intervention) -> bool:
    """Whether two interventions are equal, their deltas to the last bit."""
    if one.deltas is None or other.deltas is None:
        return one == other and one.deltas is other.deltas
    return one == other and one.deltas.dtype == other.deltas.dtype and np.array_equal(one.deltas, other.deltas)


def files(atlas: Path) -> set[str]:
    return {file.name for file in (atlas / "edits").iterdir()}
