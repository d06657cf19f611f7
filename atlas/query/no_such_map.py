"""The error where no stored map matches: which name is wrong, and what is stored instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError, unknown
from atlas.neurons import LANGUAGE
from atlas.query.filters import IOU, Filter, conjuncts, spans, tests
from atlas.query.map_spec import COORDINATES, MapSpec, pin_notes
from atlas.query.statements import find_maps, mapping_runs, runs_beginning

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


def require_one_run(connection: Connection, prefix: str) -> None:
    """Raise UsageError where several runs with maps have this prefix."""
    ids = runs_beginning(prefix).run(connection)["run_id"].to_pylist()
    if len(ids) > 1:
        several = ", ".join(i[: max(8, len(prefix) + 4)] for i in ids[:5])
        raise UsageError(
            f"several runs begin with '{prefix}': {several}; give more characters as [[run]] (`atlas runs`)"
        )


def require_stored(connection: Connection, tree: Filter, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a test that no neuron can pass: layers that no model of the maps has, labels that no run gave. The answer
    would be empty without an explanation.

    Raises:
        UsageError: such a layer or label; the message has what is stored.
    """
    layer_count = max(r["layers"] for r in rows) if all(r["component"] == LANGUAGE for r in rows) else None
    for test in conjuncts(tree):
        if test.op not in ("=", "in"):
            continue
        values = test.value if test.op == "in" else (test.value,)
        if test.field == "layer" and layer_count is not None:
            first = min(low for low, _ in spans(values))
            if first >= layer_count:
                raise UsageError(f"no layer {first}; {rows[0]['model']} has layers 0-{layer_count - 1}")
        if test.field == "label":
            label_rows = connection.execute("SELECT DISTINCT rule, label FROM labels").fetchall()
            known_labels = {label for _, label in label_rows} | {f"{rule}:{label}" for rule, label in label_rows}
            if not any(_label_matches(name, value) for name in known_labels for value in values):
                raise unknown("stored label", values[0], known_labels, "atlas labels ls")


def require_iou(connection: Connection, tree: Filter, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a test of IoU where a concept of the maps has none: its neurons would be left out without a word.

    Raises:
        UsageError: with the concepts.
    """
    if all(test.field != IOU for test in tests(tree)):
        return
    query = "SELECT DISTINCT model_id, concept_id FROM maps WHERE method = 'iou'"
    having = set(connection.execute(query).fetchall())
    ids = [row["map_id"] for row in rows]
    query = "SELECT map_id, model_id, concept_id FROM maps WHERE list_contains($ids, map_id)"
    lacking = {map_id for map_id, *of in connection.execute(query, {"ids": ids}).fetchall() if tuple(of) not in having}
    if lacking:
        names = sorted({str(row["concept"]) for row in rows if row["map_id"] in lacking})
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UsageError(f"no IoU of neurons is stored for {shown}; `atlas ingest --methods iou` measures it")


def _label_matches(label: str, prefix: str) -> bool:
    """Whether a label matches; the rule may be given by its prefix: `min:image` matches `miner:image`."""
    rule, colon, name = prefix.partition(":")
    return label == prefix or (bool(colon) and label.startswith(rule) and label.partition(":")[2] == name)


def no_such_map(connection: Connection, spec: MapSpec) -> UsageError:
    """The error for a request that no stored map matches; it names the coordinate to correct."""
    error = _first_mismatch(connection, spec)
    pinned = "; ".join(pin_notes(spec))
    return UsageError(f"{error}; only maps of {pinned} were searched") if pinned else error


def _first_mismatch(connection: Connection, spec: MapSpec) -> UsageError:
    if not find_maps(MapSpec()).run(connection).num_rows:
        return UsageError("this atlas has no maps yet; `atlas ingest` makes some, `atlas demo` makes an example")
    matched = MapSpec(mentioned=spec.mentioned)
    for name in dict.fromkeys(("model", "dataset", "run", *COORDINATES)):
        value = getattr(spec, name)
        if value is None:
            continue
        if name == "run":
            runs = mapping_runs(matched).run(connection)["run_id"].to_pylist()
            if not any(r.startswith(value) for r in runs):
                return unknown(name, value, {r[:8] for r in runs}, "atlas runs")
        rows = find_maps(matched).run(connection).to_pylist()
        stored_names = {str(r[name]) for r in rows if r[name] is not None} if name != "run" else {value}
        if value not in stored_names:
            stored_names -= {"*"}  # a map over all concepts is of no single one
            listed = f"atlas {name}s" if name in ("model", "dataset") else "atlas concepts"
            return _other_concepts(connection, matched, name, value) or unknown(
                f"stored {name}", value, stored_names, listed
            )
        matched = replace(matched, **{name: value})
    return UsageError("the atlas has no such map of these weights and this tap; `atlas runs` lists its runs")


def _other_concepts(connection: Connection, matched: MapSpec, name: str, value: str) -> UsageError | None:
    """The error for a name that is stored, but for other concepts than the requested one."""
    if matched.concept is None:
        return None
    rows = find_maps(replace(matched, concept=None, **{name: value})).run(connection).to_pylist()
    if not rows:
        return None
    concepts = sorted({str(r["concept"]) for r in rows} - {"*"} or {"*"})
    shown = ", ".join(f"'{c}'" for c in concepts[:8]) + (", ..." if len(concepts) > 8 else "")
    coordinates = {n: getattr(matched, n) for n in ("concept", "method", "source", "target")}
    described = ", ".join(f"{n} '{v}'" for n, v in coordinates.items() if v is not None)
    return UsageError(f"{name} '{value}' has no map of {described}, only of: {shown} (`atlas concepts` lists all)")
