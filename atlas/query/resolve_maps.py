"""From a request to one stored map: names checked, what was left open filled in and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from atlas.errors import UsageError
from atlas.query.amount import count_of
from atlas.query.map_spec import COORDINATES, NULL, MapSpec, pin_notes
from atlas.query.no_such_map import no_such_map, require_one_run
from atlas.query.provenance import MapOrigin, Provenance
from atlas.query.statements import find_maps

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection

OPEN = tuple(name for name, about in COORDINATES.items() if about.filled)
"""The names that a question may leave open, in the order in which they are filled in."""

SETTING = ("model", "dataset", "fingerprint")
"""What maps whose numbers are shown side by side must have in common."""

EVERYTHING = (*OPEN, "fingerprint")
"""What maps that are compared must have in common, besides the concept."""


@dataclass(frozen=True, slots=True)
class StoredMap:
    """One map: the row of `find_maps`. defaults: what was left open, as `name=value (also stored: ...)`."""

    row: dict[str, Any]
    defaults: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        return self.row[name]

    def summary(self) -> MapOrigin:
        """What identifies the map, for a provenance record."""
        return cast(MapOrigin, {key: self.row[key] for key in MapOrigin.__annotations__})


def provenance_of(chosen: Sequence[StoredMap], rule: Mapping[str, Any]) -> Provenance:
    """What a set of neurons came from: its maps, the rule, and what was left open."""
    defaults = list(dict.fromkeys(a for c in chosen for a in c.defaults))
    maps = [c.summary() for c in chosen]
    weights = {c["fingerprint"] for c in chosen}
    fingerprint = weights.pop() if len(weights) == 1 else None  # neurons of several models are not one set
    return {"fingerprint": fingerprint, "maps": maps, "selection": dict(rule), "assumed": defaults}


def choose_map(connection: Connection, spec: MapSpec) -> StoredMap:
    """The one map that the request matches, with what it leaves open filled in.

    Raises:
        UsageError: nothing matches; the message says which name does not, and the nearest one that does.
    """
    if spec.run is not None:
        require_one_run(connection, spec.run)
    rows = find_maps(spec).run(connection).to_pylist()
    if not rows:
        raise no_such_map(connection, spec)
    # One model's name may stand for several weights: the newest map's are used.
    rows, defaults = narrow(rows, EVERYTHING)
    return StoredMap(rows[0], (*pin_notes(spec), *defaults, *versions_of(rows[:1])))


def choose_several(connection: Connection, spec: MapSpec, name: str, values: Sequence[str]) -> list[StoredMap]:
    """One map for each of several methods, sources or targets (`name`), alike in everything else.

    What `spec` leaves open is filled in with what all of them have. Methods may read different taps.

    Raises:
        UsageError: one of them has no such map, or they have nothing in common.
    """
    if spec.run is not None:
        require_one_run(connection, spec.run)
    groups = []
    for value in values:
        value_spec = replace(spec, **{name: value})
        groups.append(find_maps(value_spec).run(connection).to_pylist())
        if not groups[-1]:
            raise no_such_map(connection, value_spec)
    alike = [n for n in ("concept", *EVERYTHING) if n != name and (n, name) != ("tap", "method")]
    defaults = []
    for part in alike:
        group_values = [dict.fromkeys(str(r[part]) for r in group) for group in groups]
        common = [v for v in group_values[0] if all(v in others for others in group_values)]
        if not common:
            stored = "; ".join(
                f"{value} has {', '.join(of_value)}" for value, of_value in zip(values, group_values, strict=True)
            )
            raise UsageError(f"the {name}s {' and '.join(values)} have no {part} in common: {stored}")
        common_value, note = _preferred(part, common)
        defaults += note
        groups = [[r for r in group if str(r[part]) == common_value] for group in groups]
    notes = (*pin_notes(spec), *defaults)
    return [StoredMap(group[0], (*notes, *versions_of(group[:1]))) for group in groups]


def choose_concepts(connection: Connection, spec: MapSpec, names: Sequence[str] = ()) -> list[StoredMap]:
    """One map for each concept of these names (by default all), or of a requested supercategory, alike in all else.

    What is left open is filled in as for one concept; concepts that have no such map are left out.

    Raises:
        UsageError: no concept has one, or a name that no map has.
    """
    if spec.run is not None:
        require_one_run(connection, spec.run)
    stored = find_maps(spec).run(connection).to_pylist()
    rows = [r for r in stored if r["concept"] != "*"]
    if stored and not rows:
        raise UsageError(
            "these maps are over all concepts, not of single ones; `atlas query --concept '*'` reads such a map"
        )
    for name in names:
        if name not in {r["concept"] for r in rows}:
            raise no_such_map(connection, replace(spec, concept=name))
    rows = [r for r in rows if not names or r["concept"] in names]
    if not rows:
        raise no_such_map(connection, spec)
    rows, defaults = narrow(rows, EVERYTHING)
    notes = (*pin_notes(spec), *defaults, *versions_of(rows))
    return [StoredMap(r, notes) for r in sorted(rows, key=lambda r: str(r["concept"]))]


def top_of(chosen: Sequence[StoredMap], amount: int | str) -> int:
    """How many of the best neurons of each map that is: all, where there are fewer.

    amount: a number, or a share: see `atlas.query.amount`.

    Raises:
        UsageError: neither, or a map keeps fewer than these.
    """
    neurons = int(chosen[0]["neurons"])
    top = min(count_of(amount, neurons), neurons)
    if short := next((c for c in chosen if c["kept"] < min(top, c["neurons"])), None):
        raise UsageError(
            f"the map of {short['concept']} by {short['method']} has only its best {short['kept']} of "
            f"{short['neurons']} neurons; use a smaller [[top]]"
        )
    return top


def first_answer(
    connection: Connection, spec: MapSpec, ask: Callable[[MapSpec], pa.Table]
) -> tuple[pa.Table, tuple[str, ...]]:
    """The answer for the newest model and dataset that have one, and the defaults that were used.

    Raises:
        UsageError: no map matches; the message says which name is wrong.
    """
    rows = find_maps(spec).run(connection).to_pylist()
    if not rows:
        raise no_such_map(connection, spec)
    settings = list(dict.fromkeys(tuple(r[name] for name in SETTING) for r in rows))
    for setting in settings:
        table = ask(replace(spec, **dict(zip(SETTING, setting, strict=True))))
        if table.num_rows:
            break
    else:
        return table, ()
    defaults = list(pin_notes(spec))
    for name, value in zip(SETTING, setting, strict=True):
        defaults += describe_default(name, str(value), dict.fromkeys(str(r[name]) for r in rows))
        rows = [r for r in rows if r[name] == value]
    return table, tuple(defaults)


def voters(connection: Connection, spec: MapSpec, methods: Sequence[str]) -> tuple[list[StoredMap], list[str]]:
    """The maps that vote, and their names: a concept's by several methods, or those of a supercategory's concepts.

    Raises:
        UsageError: neither, or both.
    """
    if spec.supercategory is not None:
        if methods or spec.concept is not None:
            raise UsageError(
                "[[supercategory]] asks all of its concepts by one [[method]]; leave out [[concept]] and [[methods]]"
            )
        chosen = choose_concepts(connection, spec)
        return chosen, [str(c["concept"]) for c in chosen]
    if spec.concept is None or spec.method is not None or len(methods) < 2 or len(set(methods)) < len(methods):
        raise UsageError(
            "give one [[concept]] and two or more different [[methods]], for example contribution,activation"
        )
    return choose_several(connection, spec, "method", methods), list(methods)


def null_map(connection: Connection, chosen: StoredMap, names: Mapping[str, str]) -> StoredMap:
    """The map that the rule z measures `chosen` against: one that differs in `names` only, or itself.

    Raises:
        UsageError: there is none.
    """
    if not names:
        return chosen
    same = same_but(chosen, names)
    try:
        return choose_map(connection, MapSpec(**same, run=chosen["run_id"]))
    except UsageError:  # look in other runs
        return choose_map(connection, MapSpec(**same))


def same_but(row: Mapping[str, Any] | StoredMap, names: Mapping[str, str | None]) -> dict[str, Any]:
    """The names of the map that differs from this one in `names` only."""
    return {name: row[name] for name in ("concept", *EVERYTHING) if name != "component"} | dict(names)


def narrow(rows: list[dict[str, Any]], names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The maps with one value of each name, and the defaults used where there are several values."""
    defaults = []
    for name in names:
        stored_values = list(dict.fromkeys(str(r[name]) for r in rows))
        value, note = _preferred(name, stored_values)
        defaults += note
        rows = [r for r in rows if str(r[name]) == value]
    return rows, defaults


def preferred(name: str) -> tuple[str, ...]:
    """The values to prefer where a name is left open, best first."""
    return COORDINATES[name].preferred if name in COORDINATES else ()


def _preferred(name: str, stored_values: Sequence[str]) -> tuple[str, list[str]]:
    value = next((v for v in preferred(name) if v in stored_values), _fallback(name, stored_values))
    return value, describe_default(name, value, stored_values)


def describe_default(name: str, value: str, stored_values: Iterable[str]) -> list[str]:
    others = sorted(v for v in stored_values if v != value)
    if name == "fingerprint":
        value, others = value[:12], [v[:12] for v in others]
    return [f"{name}={value} (also stored: {', '.join(others)})"] if others else []


def versions_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which run was used where several have a map: the one with the most examples, of equals the newest; and whether a
    newer run has fewer."""
    several = [r for r in rows if r["versions"] > 1]
    if not several:
        return []
    smaller = next((r for r in several if r["newest_run"] != r["run_id"]), None)
    if len(rows) > 1:
        newer = f"; run={smaller['newest_run'][:8]} is newer but has fewer" if smaller else ""
        what = f"{len(several)} of {len(rows)} maps are in several runs; used are those of the most examples"
        return [f"{what}, of equals the newest{newer} (`atlas runs` lists them)"]
    row = several[0]
    if smaller is None:
        return [f"run={row['run_id'][:8]} (the newest of {row['versions']}; `atlas runs` lists them)"]
    return [
        f"run={row['run_id'][:8]} ({row['examples']} examples; run={row['newest_run'][:8]} is newer but has "
        f"{row['newest_examples']})"
    ]


def _fallback(name: str, stored_values: Sequence[str]) -> str:
    """The newest of models, datasets and weights; of other names the first alphabetically, a random control last."""
    if name in ("model", "dataset", "fingerprint"):
        return stored_values[0]
    return sorted(stored_values, key=lambda v: (v == "random", v))[0]


def peers(connection: Connection, chosen: StoredMap) -> list[int]:
    """The other methods' maps of the same concept, source, target and reduction.

    The random control is left out, and so are other parts of the same method, such as `two_stage.stage1`.
    """
    row = chosen.row
    same = MapSpec(**{name: row[name] for name in ("concept", "source", "target", "reduce", "model", "dataset")})
    candidates = find_maps(same).run(connection).to_pylist()
    others = [r for r in candidates if _method(r) not in (_method(row), "random")]
    return [r["map_id"] for r in others if r["model_id"] == row["model_id"]]


def null_part(connection: Connection, chosen: StoredMap) -> int | None:
    """The map of the method's part `null`, such as `iou.null`: its score by chance, of the same run; None without."""
    row = chosen.row
    same: dict[str, Any] = {name: row[name] for name in EVERYTHING if name != "method"} | {"run": row["run_id"]}
    spec = MapSpec(row["concept"], f"{row['method']}.{NULL}", **same)
    return next((found["map_id"] for found in find_maps(spec).run(connection).to_pylist()), None)


def _method(row: Mapping[str, Any]) -> str:
    return str(row["method"]).partition(".")[0]


def one_tap(maps: Sequence[Mapping[str, Any]]) -> str:
    """The tap that all of the maps were read at.

    Raises:
        UsageError: there are two, and values at one are not values at the other.
    """
    taps = sorted({str(m["tap"]) for m in maps})
    if len(taps) != 1:
        raise UsageError(
            f"these neurons were found at the taps {' and '.join(taps)}; an edit acts at one of them, chosen by [[tap]]"
        )
    return taps[0]
