"""The error where no stored map is meant: which name is wrong, and what there is instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError, unknown
from atlas.neurons import LANGUAGE
from atlas.query.filters import Filter, conjuncts, spans
from atlas.query.map_spec import COORDINATES, MapSpec, pin_notes
from atlas.query.statements import find_maps, mapping_runs, runs_beginning

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


def require_one_run(connection: Connection, prefix: str) -> None:
    ids = runs_beginning(prefix).run(connection)["run_id"].to_pylist()
    if len(ids) > 1:
        several = ", ".join(i[: max(8, len(prefix) + 4)] for i in ids[:5])
        raise UsageError(f"--run {prefix} is the beginning of several runs: {several}; give more of it (`atlas runs`)")


def require_stored(connection: Connection, tree: Filter, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what every neuron must have and none has: layers that no model of the maps has, labels that no run gave.
    The answer would be empty without a word.

    Raises:
        UsageError: such a layer or label; the message has what there is.
    """
    deep = max(r["layers"] for r in rows) if all(r["component"] == LANGUAGE for r in rows) else None
    for test in conjuncts(tree):
        if test.op not in ("=", "in"):
            continue
        values = test.value if test.op == "in" else (test.value,)
        if test.field == "layer" and deep is not None:
            first = min(low for low, _ in spans(values))
            if first >= deep:
                raise UsageError(f"no layer {first}; {rows[0]['model']} has layers 0-{deep - 1}")
        if test.field == "label":
            found = connection.execute("SELECT DISTINCT rule, label FROM labels").fetchall()
            given = {label for _, label in found} | {f"{rule}:{label}" for rule, label in found}
            if not any(_begun(name, value) for name in given for value in values):
                raise unknown("stored label", values[0], given, "atlas labels ls")


def _begun(label: str, asked: str) -> bool:
    """Whether a label is meant, of whose rule the beginning may be given: `min:image` of `miner:image`."""
    rule, colon, name = asked.partition(":")
    return label == asked or (bool(colon) and label.startswith(rule) and label.partition(":")[2] == name)


def nothing(connection: Connection, which: MapSpec) -> UsageError:
    """Name by name, from the most to the least general: the first that matches nothing is the one to correct."""
    error = _wrong(connection, which)
    pinned = "; ".join(pin_notes(which))
    return UsageError(f"{error}; only maps of {pinned} were looked at") if pinned else error


def _wrong(connection: Connection, which: MapSpec) -> UsageError:
    if not find_maps(MapSpec()).run(connection).num_rows:
        return UsageError("this atlas has no maps yet; `atlas ingest` makes some, `atlas demo` makes an example")
    sofar = MapSpec(mentioned=which.mentioned)
    for name in dict.fromkeys(("model", "dataset", "run", *COORDINATES)):
        value = getattr(which, name)
        if value is None:
            continue
        if name == "run":
            runs = mapping_runs(sofar).run(connection)["run_id"].to_pylist()
            if not any(r.startswith(value) for r in runs):
                return unknown(name, value, {r[:8] for r in runs}, "atlas runs")
        rows = find_maps(sofar).run(connection).to_pylist()
        there = {str(r[name]) for r in rows if r[name] is not None} if name != "run" else {value}
        if value not in there:
            there -= {"*"}  # the map over every concept is of none
            listed = f"atlas {name}s" if name in ("model", "dataset") else "atlas concepts"
            return _elsewhere(connection, sofar, name, value) or unknown(f"stored {name}", value, there, listed)
        sofar = replace(sofar, **{name: value})
    return UsageError("the atlas has no such map of these weights and this tap; `atlas runs` lists what was run")


def _elsewhere(connection: Connection, sofar: MapSpec, name: str, value: str) -> UsageError | None:
    """The error for a name that is stored, but for other concepts than the one that is meant."""
    if sofar.concept is None:
        return None
    rows = find_maps(replace(sofar, concept=None, **{name: value})).run(connection).to_pylist()
    if not rows:
        return None
    concepts = sorted({str(r["concept"]) for r in rows} - {"*"} or {"*"})
    shown = ", ".join(f"'{c}'" for c in concepts[:8]) + (", ..." if len(concepts) > 8 else "")
    given = {n: getattr(sofar, n) for n in ("concept", "method", "source", "target")}
    said = ", ".join(f"{n} '{v}'" for n, v in given.items() if v is not None)
    return UsageError(f"{name} '{value}' has no map of {said}; it has of: {shown} (`atlas concepts` lists all)")
