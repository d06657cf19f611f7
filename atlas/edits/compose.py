"""Several edits as one: what becomes of a neuron that two of them change is said, never guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from atlas.edits.edit import Change, Edit, Intervention, with_deltas
from atlas.edits.positions import Positions
from atlas.errors import UsageError
from atlas.neurons import GATE, PRODUCT, Neuron

ERROR, PRIORITY, SEQUENCE = CONFLICTS = ("error", "priority", "sequence")

Part = tuple[Change, np.ndarray | None]
"""A change and the delta (d_model,) of its write vector."""


def compose(edits: Sequence[Edit], conflict: str = ERROR) -> Intervention:
    """One intervention that does what several edits do.

    conflict: what becomes of a neuron that two of them change at the same positions. "error": refused. "priority": the
    edit that is named first has it alone. "sequence": one after another, as nested `with` blocks do: the values go
    through every gain and bias in turn, deltas of write vectors add.

    Raises:
        UsageError: edits of two models, two taps or two seeds of noise; a conflict, or one that cannot be written as
            one change.
    """
    if conflict not in CONFLICTS:
        raise UsageError(f"no conflict rule called '{conflict}'; there are: {', '.join(CONFLICTS)}")
    if len({e.fingerprint for e in edits}) > 1:
        raise UsageError(f"{edits[0].label} and the others are edits of different weights; compose edits of one model")
    taps = {tap_needed(e.intervention) for e in edits} - {None}
    if len(taps) > 1:
        raise UsageError("these edits act at the taps gate and product; nest them instead: with a.on(m), b.on(m)")
    seeds = {e.intervention.seed for e in edits if any(c.noise for c in e.changes)}
    if len(seeds) > 1:
        raise UsageError("these edits have noise of different seeds; nest them instead: with a.on(m), b.on(m)")
    if taps and conflict == SEQUENCE:
        _check_taps(edits)
    parts_by_neuron: dict[Neuron, list[Part]] = {}
    for edit in edits:
        own_parts: dict[Neuron, list[Part]] = {}
        for change in edit.changes:
            own_parts.setdefault(change.neuron, []).append((change, edit.intervention.delta(change)))
        for neuron, parts in own_parts.items():
            parts_by_neuron[neuron] = _joined(parts_by_neuron.get(neuron, []), parts, conflict, edit)
    parts = [part for neuron_parts in parts_by_neuron.values() for part in neuron_parts]
    composed = with_deltas([c for c, _ in parts], [d for _, d in parts])
    return replace(composed, tap=taps.pop() or PRODUCT if taps else PRODUCT, seed=seeds.pop() if seeds else 0)


def _check_taps(edits: Sequence[Edit]) -> None:
    """Raise UsageError where a neuron's value is changed at both taps: the gate acts first, whoever is named first."""
    tap_by_neuron: dict[Neuron, str] = {}
    for edit in edits:
        for change in edit.changes:
            changes_value = (change.gain, change.bias, change.noise) != (1.0, 0.0, 0.0)
            if changes_value and tap_by_neuron.setdefault(change.neuron, edit.tap) != edit.tap:
                raise UsageError(
                    f"neuron {change.neuron} is changed at the taps gate and product; "
                    "nest the edits instead: with a.on(m), b.on(m)"
                )


def tap_needed(intervention: Intervention) -> str | None:
    """The tap that an intervention must act at; None where both are the same, as for a gain alone: gain * G * U."""
    plain = all(c.bias == 0 and c.noise == 0 for c in intervention.changes)
    return None if plain else (GATE if intervention.tap == GATE else PRODUCT)


def _joined(before: list[Part], new: Sequence[Part], conflict: str, edit: Edit) -> list[Part]:
    """A neuron's changes, with those of one more edit."""
    out = list(before)
    for part in new:
        meets = [i for i, (c, _) in enumerate(before) if overlap(c.where, part[0].where)]
        if not meets:
            out.append(part)
        elif conflict == ERROR:
            raise UsageError(
                f"{edit.label} changes neuron {part[0].neuron}, which another of these edits changes too; "
                "choose [[conflict=priority]] or [[conflict=sequence]]"
            )
        elif conflict == PRIORITY and any(before[i][0].where != part[0].where for i in meets):
            raise UsageError(
                f"neuron {part[0].neuron} is changed where {before[meets[0]][0].where} and where {part[0].where}, "
                "which overlap in part; give both edits one [[where]], or nest them: with a.on(m), b.on(m)"
            )
        elif conflict == SEQUENCE:
            if len(meets) > 1 or before[meets[0]][0].where != part[0].where:
                raise UsageError(
                    f"neuron {part[0].neuron} is changed where {before[meets[0]][0].where} and where "
                    f"{part[0].where}, which is no one change; nest the edits instead: with a.on(m), b.on(m)"
                )
            out[meets[0]] = after(before[meets[0]], part)
    return out


def after(first: Part, second: Part) -> Part:
    """Two changes of one neuron as one: x <- g2 (g1 x + b1) + b2; deltas add.

    Raises:
        UsageError: both have noise.
    """
    (one, first_delta), (two, second_delta) = first, second
    if one.noise and two.noise:
        raise UsageError(f"neuron {one.neuron} gets noise twice; nest the edits instead: with a.on(m), b.on(m)")
    deltas = [d for d in (first_delta, second_delta) if d is not None]
    joined = replace(
        one,
        gain=one.gain * two.gain,
        bias=two.gain * one.bias + two.bias,
        noise=abs(two.gain) * one.noise + two.noise,
    )
    return joined, np.sum(deltas, axis=0) if deltas else None


def overlap(first: Positions, second: Positions) -> bool:
    """Whether two places may share a position."""
    if first.roles and second.roles and not set(first.roles) & set(second.roles):
        return False
    phases = {"prefill" if w.spans else w.phase for w in (first, second)}
    return None in phases or len(phases) == 1


SCHEMA = pa.schema([("neuron", pa.string()), ("where", pa.string()), ("first", pa.string()), ("second", pa.string())])


def difference(first: Edit, second: Edit) -> pa.Table:
    """What two edits do differently: one row for every neuron and place that only one of them changes, or both do
    otherwise. first, second: what becomes of it there; null where nothing does."""
    of_first, of_second = dict(_done(first)), dict(_done(second))
    unchanged: Done = (None, ())
    rows = []
    for key in sorted(of_first.keys() | of_second.keys()):
        (first_text, first_exact), (second_text, second_exact) = (
            of_first.get(key, unchanged),
            of_second.get(key, unchanged),
        )
        if first_exact != second_exact:
            rows.append({"neuron": str(key[0]), "where": key[1], "first": first_text, "second": second_text})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


Done = tuple[str | None, tuple[object, ...]]
"""What becomes of a neuron, in words, and to the last bit."""


def _done(edit: Edit) -> Iterator[tuple[tuple[Neuron, str], Done]]:
    for change in edit.changes:
        tap = edit.tap if change.bias or change.noise else PRODUCT
        delta = edit.intervention.delta(change)
        seed = edit.intervention.seed if change.noise else None
        exact_values = (change.gain, change.bias, change.noise, seed, tap, None if delta is None else delta.tobytes())
        yield (change.neuron, str(change.where)), (told(change, delta, tap), exact_values)


def told(change: Change, delta: np.ndarray | None, tap: str = PRODUCT) -> str:
    """A change in a few signs: `0`, `2 x`, `x + 0.5`, `x + noise 0.1`, `write + |1.3|`."""
    value = f"{change.gain:g} x" if change.gain not in (0.0, 1.0) else ("x" if change.gain else "")
    if change.bias or not value:
        value = f"{value} + {change.bias:g}" if value else f"{change.bias:g}"
    if change.noise:
        value += f" + noise {change.noise:g}"
    written = "" if delta is None else f"write + |{float(np.linalg.norm(delta)):.4g}|"
    text = ", ".join(part for part in ("" if value == "x" and written else value, written) if part)
    return text if tap == PRODUCT else f"gate: {text}"
