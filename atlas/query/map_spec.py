"""Which stored maps a question is about: the coordinates of a map, and what pins fill in of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, dataclass_transform

from atlas.neurons import LANGUAGE
from atlas.query.option import OPTION, Described
from atlas.store.pins_file import NO_PINS, Pins, current

ANSWER = "answer"
"""The part of a method's maps that are of answers after other concepts' prompts (`ingest.run.swapped_answers`)."""

NULL = "null"
"""The part of a method's maps that are what its score would be by chance; shown beside it (`atlas.questions.query`)."""

OF_PINNED = """(r.run_id IN (SELECT unnest($pinned::VARCHAR[]))
    OR NOT EXISTS (FROM runs WHERE run_id IN (SELECT unnest($pinned::VARCHAR[])) AND kind = '{kind}'))"""
"""Whether a run is one of those pinned, where any of these is of the kind."""

COORDINATE = "coordinate"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """How one coordinate of a map is stored and shown.

    sql: its column in `atlas.query.statements.find_maps`. filled: what a question leaves open is filled in, with the
    first of `preferred` that is stored. shown: a column of an answer whose maps differ in it.
    """

    sql: str
    filled: bool = False
    shown: bool = False
    preferred: tuple[str, ...] = ()


def coordinate(
    help: str,
    *flags: str,
    sql: str,
    filled: bool = False,
    shown: bool = False,
    preferred: tuple[str, ...] = (),
    default: Any,
) -> Any:
    """A field of `Coordinates`."""
    about = {OPTION: Described(help, flags), COORDINATE: Coordinate(sql, filled, shown, preferred)}
    return field(default=default, metadata=about, kw_only=True)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(coordinate,))
def _coordinates(cls: type[Any]) -> type[Any]:
    return dataclass(frozen=True)(cls)


@_coordinates
class Coordinates:
    """The coordinates of a map, from the broadest to the narrowest; None is any, or what is pinned.

    The only list of them: filters, columns, orders, options and parameters derive from it. concept "*": the map over
    every concept of a run. run: a prefix of its id.
    """

    model: str | None = coordinate(
        "The model's name (`atlas models` lists them).",
        "--model",
        "-m",
        default=None,
        sql="mo.name",
        filled=True,
        shown=True,
    )
    dataset: str | None = coordinate(
        "The dataset's name (`atlas datasets`).", "--dataset", "-d", default=None, sql="d.name", filled=True, shown=True
    )
    supercategory: str | None = coordinate(
        "All concepts of it (`atlas concepts`).", default=None, sql="c.supercategory"
    )
    concept: str | None = coordinate(
        "The concept: its name, another word for it, or a pattern: 'd*'.",
        "--concept",
        "-c",
        default=None,
        sql="c.name",
        shown=True,
    )
    method: str | None = coordinate(
        "The attribution method (`atlas methods`).",
        default=None,
        sql="m.method",
        filled=True,
        shown=True,
        preferred=("contribution", "gradient_x_activation", "activation"),
    )
    source: str | None = coordinate(
        "The modality that carries the concept in: image, text, audio or video.",
        default=None,
        sql="m.source",
        filled=True,
        shown=True,
        preferred=("image", "text"),
    )
    target: str | None = coordinate(
        "The modality of the output that is explained: text or image.",
        default=None,
        sql="m.target",
        filled=True,
        shown=True,
        preferred=("text",),
    )
    reduce: str | None = coordinate(
        "mean over the concept's examples, or contrast with others.",
        default=None,
        sql="m.reduce",
        filled=True,
        shown=True,
        preferred=("contrast", "mean"),
    )
    component: str | None = coordinate(
        "The part of the model: language, or vision.",
        default=None,
        sql="m.component",
        filled=True,
        preferred=(LANGUAGE,),
    )
    tap: str | None = coordinate(
        "Where neurons were read: product, or gate.",
        default=None,
        sql="m.tap",
        filled=True,
        shown=True,
        preferred=("product",),
    )
    run: str | None = coordinate("The run, by the beginning of its id.", default=None, sql="m.run_id", shown=True)


COORDINATES: Mapping[str, Coordinate] = {f.name: f.metadata[COORDINATE] for f in fields(Coordinates)}


def by_place(name: str, *, default: Any, kw_only: bool = False) -> Any:
    """A coordinate declared once more, so that it can also be given by position."""
    [declared] = (f for f in fields(Coordinates) if f.name == name)
    return field(default=default, metadata=declared.metadata, kw_only=kw_only)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(by_place, field))
def _with_places(cls: type[Any]) -> type[Any]:
    return dataclass(frozen=True)(cls)


@_with_places
class OfConcept(Coordinates):
    """Coordinates whose concept and method may be given by position: `("dog", "contribution")`."""

    concept: str | None = by_place("concept", default=None, kw_only=False)
    method: str | None = by_place("method", default=None, kw_only=False)


@dataclass(frozen=True)
class MapSpec(OfConcept):
    """Which maps are requested. fingerprint: of the model's weights. mentioned: other names that are not left open,
    separated by spaces."""

    fingerprint: str | None = field(default=None, kw_only=True)
    mentioned: str | None = field(default=None, kw_only=True)

    def given(self) -> dict[str, str]:
        """The coordinates that are not left open."""
        return {name: value for name in COORDINATES if (value := getattr(self, name)) is not None}

    def where(self) -> tuple[str, dict[str, Any]]:
        """The condition on the tables of `find_maps`, and its parameters."""
        columns = {name: about.sql for name, about in COORDINATES.items() if name != "run"}
        columns["fingerprint"] = "mo.fingerprint"
        parts, values = ["r.status = 'done'"], {}
        pinned = active_pins(self)
        for name, column in columns.items():
            value = getattr(self, name) or getattr(pinned, name, None)
            if name == "concept" and value == "*":
                parts.append("m.concept_id IS NULL")
            elif value is not None:
                parts.append(f"{column} = ${name}")
                values[name] = value
        if self.method is None:  # maps of swapped answers, and of what chance gives, must be named
            parts += [f"m.method NOT LIKE '%.{ANSWER}'", f"m.method NOT LIKE '%.{ANSWER}.%'"]
            parts.append(f"m.method NOT LIKE '%.{NULL}'")
        if self.run is not None:
            parts.append("starts_with(m.run_id, $run)")
            values["run"] = self.run
        if pinned.runs:
            parts.append(OF_PINNED.format(kind="ingest"))
            values["pinned"] = list(pinned.runs)
        return " AND ".join(parts), values


def active_pins(spec: MapSpec) -> Pins:
    """The pins that apply to a question: none where it names a run; only pins of what it leaves open otherwise."""
    pins = current()
    if pins == NO_PINS or _is_named(spec, "run"):
        return NO_PINS
    model = None if _is_named(spec, "model") or _is_named(spec, "fingerprint") else pins.model
    dataset = None if _is_named(spec, "dataset") else pins.dataset
    other_setting = any(
        None not in (asked_name, pinned_name) and asked_name != pinned_name
        for asked_name, pinned_name in ((spec.model, pins.model), (spec.dataset, pins.dataset))
    )
    return Pins(model, dataset, () if other_setting else pins.runs)


def _is_named(spec: MapSpec, name: str) -> bool:
    return getattr(spec, name) is not None or name in (spec.mentioned or "").split()


def pin_notes(spec: MapSpec) -> tuple[str, ...]:
    """What the pins filled in, to be reported with the answer."""
    pins = active_pins(spec)
    notes = [f"{n}={v}" for n, v in (("model", pins.model), ("dataset", pins.dataset)) if v is not None]
    notes += [f"run={','.join(run[:8] for run in pins.runs)}"] if pins.runs else []
    return tuple(f"{text} (pinned; `atlas use`)" for text in notes)
