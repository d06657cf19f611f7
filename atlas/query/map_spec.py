"""Which stored maps a question is about: the coordinates of a map, and what pins fill in of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atlas.store.pins_file import NOTHING, Pins, current

ANSWER = "answer"
"""The part of a method's maps that are of answers behind other concepts' prompts (`ingest.run.swapped_answers`)."""

OF_PINNED = """(r.run_id IN (SELECT unnest($pinned::VARCHAR[]))
    OR NOT EXISTS (FROM runs WHERE run_id IN (SELECT unnest($pinned::VARCHAR[])) AND kind = '{kind}'))"""
"""Whether a run is one of those pinned, where any of these is of the kind."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """Which maps are meant; None is any, or what is pinned (`atlas.query.pins`). concept "*": the map over every
    concept of a run. run: a prefix of its id. mentioned: other names that are not left open, with spaces between."""

    concept: str | None = None
    method: str | None = None
    source: str | None = None
    target: str | None = None
    reduce: str | None = None
    model: str | None = None
    dataset: str | None = None
    run: str | None = None
    fingerprint: str | None = None
    tap: str | None = None
    supercategory: str | None = None
    mentioned: str | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        columns = {"concept": "c.name", "method": "m.method", "source": "m.source", "target": "m.target"}
        columns |= {"reduce": "m.reduce", "model": "mo.name", "dataset": "d.name", "fingerprint": "mo.fingerprint"}
        columns |= {"tap": "m.tap", "supercategory": "c.supercategory"}
        parts, values = ["r.status = 'done'"], {}
        pinned = held(self)
        for name, column in columns.items():
            value = getattr(self, name) or getattr(pinned, name, None)
            if name == "concept" and value == "*":
                parts.append("m.concept_id IS NULL")
            elif value is not None:
                parts.append(f"{column} = ${name}")
                values[name] = value
        if self.method is None:  # those of swapped answers are asked for by name
            parts.append(f"m.method NOT LIKE '%.{ANSWER}' AND m.method NOT LIKE '%.{ANSWER}.%'")
        if self.run is not None:
            parts.append("starts_with(m.run_id, $run)")
            values["run"] = self.run
        if pinned.runs:
            parts.append(OF_PINNED.format(kind="ingest"))
            values["pinned"] = list(pinned.runs)
        return " AND ".join(parts), values


def held(which: MapSpec) -> Pins:
    """The pins that hold for a question: see above."""
    pins = current()
    if pins == NOTHING or _said(which, "run"):
        return NOTHING
    model = None if _said(which, "model") or _said(which, "fingerprint") else pins.model
    dataset = None if _said(which, "dataset") else pins.dataset
    others = any(
        None not in (said, pinned) and said != pinned
        for said, pinned in ((which.model, pins.model), (which.dataset, pins.dataset))
    )
    return Pins(model, dataset, () if others else pins.runs)


def _said(which: MapSpec, name: str) -> bool:
    return getattr(which, name) is not None or name in (which.mentioned or "").split()


def pin_notes(which: MapSpec) -> tuple[str, ...]:
    """What the pins filled in, to be said with the answer."""
    found = held(which)
    said = [f"{n}={v}" for n, v in (("model", found.model), ("dataset", found.dataset)) if v is not None]
    said += [f"run={','.join(run[:8] for run in found.runs)}"] if found.runs else []
    return tuple(f"{text} (pinned; `atlas use`)" for text in said)
