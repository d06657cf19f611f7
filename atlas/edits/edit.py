"""An edit is data: what becomes of some neurons in one model, and where the choice came from.

A change is affine on the neuron's value at the edit's tap, x <- gain * x + bias (+ noise), plus an optional delta on
its write vector: its column of the down projection. Ablations, steering, noise and learned word swaps are all this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from atlas.edits.positions import EVERYWHERE, Positions
from atlas.errors import UsageError
from atlas.neurons import PRODUCT, Neuron
from atlas.query.provenance import Provenance


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one neuron: gain * x + bias, and Gaussian noise of this standard deviation, one draw for each
    place in a sequence. write: the row of the deltas that is added to its write vector."""

    neuron: Neuron
    gain: float = 1.0
    bias: float = 0.0
    noise: float = 0.0
    where: Positions = EVERYWHERE
    write: int | None = None


@dataclass(frozen=True, slots=True)
class Intervention:
    """Changes to the neurons of one model, by themselves: what an edit does without its name and origin.

    deltas: (rows, d_model) float32, what `Change.write` points to. seed: of the noise.
    """

    changes: tuple[Change, ...]
    tap: str = PRODUCT
    deltas: np.ndarray | None = field(default=None, compare=False)
    seed: int = 0

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """The neurons, each once."""
        return tuple(dict.fromkeys(c.neuron for c in self.changes))

    def parameters(self, d_model: int) -> int:
        """How many weights would be others, were it written into the model: d_model for each neuron that is scaled or
        has a delta, and for each layer with a neuron that is shifted or set (its bias). Noise on values, and what acts
        at some positions only, is not a change of weights."""
        written = [c for c in self.changes if c.where == EVERYWHERE]
        columns = {c.neuron for c in written if c.gain != 1 or c.write is not None}
        biases = {(c.neuron.component, c.neuron.layer) for c in written if c.bias}
        return d_model * (len(columns) + len(biases))

    def delta(self, change: Change) -> np.ndarray | None:
        """(d_model,) what is added to a change's write vector."""
        return None if change.write is None or self.deltas is None else self.deltas[change.write]


@dataclass(frozen=True, slots=True)
class Edit:
    """A named, versioned intervention in one model.

    model: the columns of `models` without the id, `fingerprint` among them: other weights are refused.
    concept: what it is about, where that is one concept. provenance: the question that chose the neurons, or what
    solved or composed it. note: the author's own words.
    """

    name: str
    version: int
    model: Mapping[str, Any]
    concept: str | None
    provenance: Provenance
    intervention: Intervention
    created_at: str
    note: str | None = None

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def fingerprint(self) -> str:
        return str(self.model["fingerprint"])

    @property
    def tap(self) -> str:
        return self.intervention.tap

    @property
    def changes(self) -> tuple[Change, ...]:
        return self.intervention.changes

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        return self.intervention.neurons

    @property
    def solver(self) -> str | None:
        """What computed it, where something did."""
        record = self.provenance.get("solver")
        return None if record is None else str(record["name"])


def split_label(label: str) -> tuple[str, int | None]:
    """`no-dog@2` -> ("no-dog", 2); `no-dog` -> ("no-dog", None), the newest."""
    name, at, version = label.partition("@")
    if at and not version.isdigit():
        raise UsageError(f"'{label}' is not an edit; write a name, or name@version, for example no-dog@1")
    return name, int(version) if at else None


LARGEST = 1e12
"""The norms of a model square what a neuron writes: of a larger change the square may be beyond float32, and then the
norm gives 0 throughout, as if the model had seen nothing."""


def is_number(value: float) -> bool:
    """Whether it is a number to a model: neither NaN nor beyond `LARGEST`."""
    return abs(value) <= LARGEST


def check_intervention(label: str, intervention: Intervention) -> None:
    """Raises UsageError where an edit, however it was made, multiplies by or adds what is not a number to a model."""
    bad = [c.neuron for c in intervention.changes if not all(map(is_number, (c.gain, c.bias, c.noise)))]
    if bad:
        raise UsageError(
            f"{label} changes neuron {bad[0]} by what is not a number up to {LARGEST:.0e}; it is not stored"
        )
    if intervention.deltas is not None and not np.isfinite(intervention.deltas).all():
        raise UsageError(
            f"the write vectors that {label} adds are NaN or infinite; it is not stored (what learned it diverged: "
            "smaller steps, or fewer neurons)"
        )


def with_deltas(changes: Sequence[Change], deltas: Sequence[np.ndarray | None]) -> Intervention:
    """Changes with a delta (d_model,) each, or None, numbered anew."""
    rows = [d for d in deltas if d is not None]
    numbers = iter(range(len(rows)))
    numbered = [replace(c, write=None if d is None else next(numbers)) for c, d in zip(changes, deltas, strict=True)]
    return Intervention(tuple(numbered), deltas=np.stack(rows).astype(np.float32) if rows else None)
