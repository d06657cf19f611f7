"""What becomes of a set of neurons, as one value: `ablate()`, `scale(0.5)`, `steer(2, unit="sd")`, `mean()`, ..."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.edits.edit import LARGEST, Change, is_number
from atlas.edits.positions import EVERYWHERE, Positions
from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.query.given import shown

KINDS = ("set", "scale", "shift", "mean", "min", "noise", "write_noise")
"""The names that a stored edit's provenance has for the kinds, in that order."""

VALUE, DEVIATIONS = "value", "sd"
"""The units of a shift: that of the neuron's values, or the neuron's own standard deviations."""

FUNCTIONS = {"set": "set_to", "shift": "steer", "min": "minimum"}
"""The functions of this module that are not called as their kind is."""

OWN_VALUE = ("mean", "min")
"""Kinds without an amount: each neuron has its own."""

NEUTRAL = {"scale": 1.0, "shift": 0.0, "noise": 0.0, "write_noise": 0.0}
"""Amounts that leave every value as it is."""


@dataclass(frozen=True, slots=True)
class ChangeKind:
    """What becomes of each neuron of an edit. Made by the functions of this module.

    name: of KINDS. amount: the constant, the factor, the addition or the noise's standard deviation; None for a
    neuron's own mean or minimum. unit: of a shift.

    Raises:
        UsageError: an unknown name or unit; an amount that is missing, not finite, negative for noise, or changes
            nothing.
    """

    name: str
    amount: float | None = None
    unit: str = VALUE

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise unknown_kind(self.name)
        if self.unit not in (VALUE, DEVIATIONS):
            raise UsageError(f"[[unit={self.unit}]] is not a unit; give {VALUE} or {DEVIATIONS}")
        if self.name in OWN_VALUE:
            return
        is_real = isinstance(self.amount, numbers.Real) and not isinstance(self.amount, bool)
        text = f"{self.amount:g}" if is_real else str(self.amount)
        given = f"[[{FUNCTIONS.get(self.name, self.name)}]]={text}"
        is_noise = self.name.endswith("noise")
        expected = "a number, 0 or more" if is_noise else f"a finite number, up to {LARGEST:.0e}"
        if self.amount is None or not is_real:
            raise UsageError(f"{given} is not a number; give {expected}")
        if not is_number(self.amount) or (is_noise and self.amount < 0):
            raise UsageError(f"{given} is out of range; give {expected}")
        if self.amount == NEUTRAL.get(self.name):
            raise UsageError(f"{given} changes nothing: it leaves every value as it is")

    @property
    def statistic(self) -> str | None:
        """The stored statistic of each neuron that it needs: `mean`, `min` or `sd`."""
        if self.name in OWN_VALUE:
            return self.name
        return DEVIATIONS if self.unit == DEVIATIONS else None

    def plain(self) -> dict[str, Any]:
        """As an edit's provenance keeps it: every name of KINDS, with the amount of this one."""
        amount = f"{self.amount:g}sd" if self.unit == DEVIATIONS else self.amount
        unset: dict[str, Any] = dict.fromkeys(KINDS) | {"mean": False, "min": False}
        return unset | {self.name: True if amount is None else amount}


def unknown_kind(given: object) -> UsageError:
    """The error for what is not a kind of change."""
    return UsageError(f"[[kind]] is ablate(), scale(0.5), mean() or another of atlas.edits.kinds, not {shown(given)}")


def ablate() -> ChangeKind:
    """Replace the values by 0."""
    return set_to(0.0)


def set_to(value: float) -> ChangeKind:
    """Replace the values by a constant."""
    return ChangeKind("set", value)


def scale(factor: float) -> ChangeKind:
    """Multiply the values by a factor."""
    return ChangeKind("scale", factor)


def steer(amount: float, *, unit: str = VALUE) -> ChangeKind:
    """Add to the values. unit: `value`, their own; or `sd`, each neuron's stored standard deviation."""
    return ChangeKind("shift", amount, unit)


def mean() -> ChangeKind:
    """Replace each value by the neuron's stored mean."""
    return ChangeKind("mean")


def minimum() -> ChangeKind:
    """Replace each value by the neuron's stored minimum."""
    return ChangeKind("min")


def noise(deviation: float) -> ChangeKind:
    """Add Gaussian noise of this standard deviation to the values, one draw a neuron and position (Sato & Takagi
    2025)."""
    return ChangeKind("noise", deviation)


def write_noise(deviation: float) -> ChangeKind:
    """Add Gaussian noise of this standard deviation to the write vectors, v += deviation * eps (Pan et al. 2024)."""
    return ChangeKind("write_noise", deviation)


def parse_shift(text: str) -> ChangeKind:
    """A shift as text: `0.5`, or `2sd`.

    Raises:
        UsageError: neither.
    """
    in_deviations = text.endswith(DEVIATIONS)
    try:
        amount = float(text.removesuffix(DEVIATIONS))
    except ValueError:
        raise UsageError(f"[[steer={text}]] is not a number, nor standard deviations such as 2sd") from None
    return steer(amount, unit=DEVIATIONS if in_deviations else VALUE)


def make_changes(
    neurons: Sequence[Neuron],
    kind: ChangeKind,
    *,
    statistics: Mapping[Neuron, float] | None = None,
    where: Positions = EVERYWHERE,
) -> tuple[Change, ...]:
    """The change of every neuron. statistics: each neuron's own value, for kinds that need one. Of `write_noise`, each
    change names its row of `write_deltas`.

    Raises:
        UsageError: no neurons, or a neuron without the statistic.
    """
    if not neurons:
        raise UsageError("the selection has no neurons; loosen it ([[top]], [[select]], [[layers]])")
    if kind.name == "write_noise":
        return tuple(Change(n, where=where, write=row) for row, n in enumerate(neurons))
    if kind.statistic is not None:
        values = _own_values(neurons, statistics or {})
        if kind.amount is not None:
            return tuple(Change(n, 1.0, kind.amount * value, where=where) for n, value in values.items())
        return tuple(Change(n, 0.0, value, where=where) for n, value in values.items())
    amount = float(kind.amount or 0.0)
    gain, bias, deviation = {
        "set": (0.0, amount, 0.0),
        "scale": (amount, 0.0, 0.0),
        "shift": (1.0, amount, 0.0),
        "noise": (1.0, 0.0, amount),
    }[kind.name]
    return tuple(Change(n, gain, bias, deviation, where) for n in neurons)


def _own_values(neurons: Sequence[Neuron], statistics: Mapping[Neuron, float]) -> dict[Neuron, float]:
    missing = [n for n in neurons if n not in statistics]
    if missing:
        raise UsageError(f"no stored value for neuron {missing[0]}; `atlas ingest --methods activation` stores them")
    return {n: statistics[n] for n in neurons}


def write_deltas(neurons: Sequence[Neuron], kind: ChangeKind, d_model: int, seed: int) -> np.ndarray | None:
    """(neurons, d_model) float32: what `write_noise` adds to each write vector; None for other kinds."""
    if kind.name != "write_noise":
        return None
    deltas = float(kind.amount or 0.0) * np.random.default_rng(seed).standard_normal((len(neurons), d_model))
    return deltas.astype(np.float32)
