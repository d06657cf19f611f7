"""From what the user said to one stored map: names checked, what was left open filled in and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query.map_spec import COORDINATES, MapSpec, pin_notes
from atlas.query.no_such_map import nothing, require_one_run
from atlas.query.statements import find_maps

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection

OPEN = tuple(name for name, about in COORDINATES.items() if about.filled)
"""The names that a question may leave open, in the order in which they are filled in."""

SETTING = ("model", "dataset", "fingerprint")
"""What numbers that stand side by side must have in common."""

EVERYTHING = (*OPEN, "fingerprint")
"""All but the concept that maps which are compared must have in common."""


@dataclass(frozen=True, slots=True)
class StoredMap:
    """One map: the row of `find_maps`. assumed: what was left open, as `name=value (also stored: ...)`."""

    row: dict[str, Any]
    assumed: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        return self.row[name]

    def summary(self) -> dict[str, Any]:
        """What identifies the map, for a provenance record."""
        keys = ("run_id", "model", "fingerprint", "dataset", "concept", "method", "source", "target", "reduce", "tap")
        more = ("parameters", "examples", "neurons")
        return {key: self.row[key] for key in (*keys, *more)}


def provenance(chosen: Sequence[StoredMap], rule: Mapping[str, Any]) -> dict[str, Any]:
    """What a set of neurons came from: its maps, the rule, and what was left open."""
    assumed = list(dict.fromkeys(a for c in chosen for a in c.assumed))
    maps = [c.summary() for c in chosen]
    weights = {c["fingerprint"] for c in chosen}
    fingerprint = weights.pop() if len(weights) == 1 else None  # neurons of several models are no one set
    return {"fingerprint": fingerprint, "maps": maps, "selection": dict(rule), "assumed": assumed}


def choose_map(connection: Connection, which: MapSpec) -> StoredMap:
    """The one map that is meant.

    Raises:
        UsageError: nothing matches; the message says which name does not, and the nearest one that does.
    """
    if which.run is not None:
        require_one_run(connection, which.run)
    rows = find_maps(which).run(connection).to_pylist()
    if not rows:
        raise nothing(connection, which)
    # One model's name may stand for several weights: those of the newest map count.
    rows, assumed = narrowed(rows, EVERYTHING)
    return StoredMap(rows[0], (*pin_notes(which), *assumed, *versions_of(rows[:1])))


def choose_several(connection: Connection, which: MapSpec, name: str, values: Sequence[str]) -> list[StoredMap]:
    """One map for each of several methods, sources or targets (`name`), alike in all the rest.

    What `which` leaves open is taken from what all of them have. Methods may read different taps.

    Raises:
        UsageError: one of them has no such map, or they have nothing in common.
    """
    if which.run is not None:
        require_one_run(connection, which.run)
    groups = []
    for value in values:
        asked = replace(which, **{name: value})
        groups.append(find_maps(asked).run(connection).to_pylist())
        if not groups[-1]:
            raise nothing(connection, asked)
    alike = [n for n in ("concept", *EVERYTHING) if n != name and (n, name) != ("tap", "method")]
    assumed = []
    for part in alike:
        each = [dict.fromkeys(str(r[part]) for r in group) for group in groups]
        common = [v for v in each[0] if all(v in others for others in each)]
        if not common:
            had = "; ".join(f"{value} has {', '.join(theirs)}" for value, theirs in zip(values, each, strict=True))
            raise UsageError(f"the {name}s {' and '.join(values)} have no {part} in common: {had}")
        taken, note = _preferred(part, common)
        assumed += note
        groups = [[r for r in group if str(r[part]) == taken] for group in groups]
    said = (*pin_notes(which), *assumed)
    return [StoredMap(group[0], (*said, *versions_of(group[:1]))) for group in groups]


def choose_concepts(connection: Connection, which: MapSpec, names: Sequence[str] = ()) -> list[StoredMap]:
    """One map for each concept of these names (of all), and of the supercategory if one is meant, alike in all else.

    What is left open is filled in as for one concept; concepts that have no such map are left out.

    Raises:
        UsageError: no concept has one, or a name that no map has.
    """
    if which.run is not None:
        require_one_run(connection, which.run)
    there = find_maps(which).run(connection).to_pylist()
    rows = [r for r in there if r["concept"] != "*"]
    if there and not rows:
        raise UsageError("these maps are of no single concept; `atlas query --concept '*'` asks such a map")
    for name in names:
        if name not in {r["concept"] for r in rows}:
            raise nothing(connection, replace(which, concept=name))
    rows = [r for r in rows if not names or r["concept"] in names]
    if not rows:
        raise nothing(connection, which)
    rows, assumed = narrowed(rows, EVERYTHING)
    said = (*pin_notes(which), *assumed, *versions_of(rows))
    return [StoredMap(r, said) for r in sorted(rows, key=lambda r: str(r["concept"]))]


def first_answer(
    connection: Connection, which: MapSpec, ask: Callable[[MapSpec], pa.Table]
) -> tuple[pa.Table, tuple[str, ...]]:
    """A question's answer about one model and dataset, and what was taken: the newest of which it has one.

    Raises:
        UsageError: no map is meant; the message says which name is wrong.
    """
    rows = find_maps(which).run(connection).to_pylist()
    if not rows:
        raise nothing(connection, which)
    settings = list(dict.fromkeys(tuple(r[name] for name in SETTING) for r in rows))
    for setting in settings:
        found = ask(replace(which, **dict(zip(SETTING, setting, strict=True))))
        if found.num_rows:
            break
    else:
        return found, ()
    assumed = list(pin_notes(which))
    for name, taken in zip(SETTING, setting, strict=True):
        assumed += _noted(name, str(taken), dict.fromkeys(str(r[name]) for r in rows))
        rows = [r for r in rows if r[name] == taken]
    return found, tuple(assumed)


def voters(connection: Connection, which: MapSpec, methods: Sequence[str]) -> tuple[list[StoredMap], list[str]]:
    """The maps that vote, and their names: a concept's by several methods, or those of a supercategory's concepts.

    Raises:
        UsageError: neither, or both.
    """
    if which.supercategory is not None:
        if methods or which.concept is not None:
            raise UsageError(
                "[[supercategory]] asks all of its concepts by one [[method]]; leave out [[concept]] and [[methods]]"
            )
        chosen = choose_concepts(connection, which)
        return chosen, [str(c["concept"]) for c in chosen]
    if which.concept is None or which.method is not None or len(methods) < 2 or len(set(methods)) < len(methods):
        raise UsageError(
            "give one [[concept]] and two or more different [[methods]], for example contribution,activation"
        )
    return choose_several(connection, which, "method", methods), list(methods)


def null_map(connection: Connection, chosen: StoredMap, names: Mapping[str, str]) -> StoredMap:
    """The map that the rule z measures `chosen` against: the same but for `names`, or itself.

    Raises:
        UsageError: there is none.
    """
    if not names:
        return chosen
    same = same_but(chosen, names)
    try:
        return choose_map(connection, MapSpec(**same, run=chosen["run_id"]))
    except UsageError:  # of another run, then
        return choose_map(connection, MapSpec(**same))


def same_but(row: Mapping[str, Any] | StoredMap, names: Mapping[str, str | None]) -> dict[str, Any]:
    """The names of the map that is like this one but for `names`."""
    return {name: row[name] for name in ("concept", *EVERYTHING) if name != "component"} | dict(names)


def narrowed(rows: list[dict[str, Any]], names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The maps with one value of each name, and what was taken where there are several."""
    assumed = []
    for name in names:
        there = list(dict.fromkeys(str(r[name]) for r in rows))
        value, note = _preferred(name, there)
        assumed += note
        rows = [r for r in rows if str(r[name]) == value]
    return rows, assumed


def preferred(name: str) -> tuple[str, ...]:
    """What is taken first where a name is left open."""
    return COORDINATES[name].preferred if name in COORDINATES else ()


def _preferred(name: str, there: Sequence[str]) -> tuple[str, list[str]]:
    value = next((v for v in preferred(name) if v in there), _plain(name, there))
    return value, _noted(name, value, there)


def _noted(name: str, value: str, there: Iterable[str]) -> list[str]:
    others = sorted(v for v in there if v != value)
    if name == "fingerprint":
        value, others = value[:12], [v[:12] for v in others]
    return [f"{name}={value} (also stored: {', '.join(others)})"] if others else []


def versions_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was taken where maps are in several runs: of the most examples, or the newest; and a newer, smaller one."""
    several = [r for r in rows if r["versions"] > 1]
    if not several:
        return []
    smaller = next((r for r in several if r["newest_run"] != r["run_id"]), None)
    if len(rows) > 1:
        newer = f"; newer ones have fewer, --run {smaller['newest_run'][:8]} takes them" if smaller else ""
        what = f"{len(several)} of {len(rows)} maps are in several runs, those of the most examples count"
        return [f"{what}, of equals the newest{newer} (`atlas runs` lists them)"]
    row = several[0]
    if smaller is None:
        return [f"run={row['run_id'][:8]} (the newest of {row['versions']}; `atlas runs` lists them)"]
    return [
        f"run={row['run_id'][:8]} (of {row['examples']} examples; a newer one has {row['newest_examples']}, "
        f"--run {row['newest_run'][:8]} takes it)"
    ]


def _plain(name: str, there: Sequence[str]) -> str:
    """Models, datasets and weights: the newest. Else the first by name, a random control last."""
    if name in ("model", "dataset", "fingerprint"):
        return there[0]
    return sorted(there, key=lambda v: (v == "random", v))[0]


def peers(connection: Connection, chosen: StoredMap) -> list[int]:
    """The other methods' maps of the same concept, source, target and reduction.

    The random control is none of them, nor is another part of the same method, such as `two_stage.stage1`.
    """
    row = chosen.row
    same = MapSpec(**{name: row[name] for name in ("concept", "source", "target", "reduce", "model", "dataset")})
    found = find_maps(same).run(connection).to_pylist()
    others = [r for r in found if _method(r) not in (_method(row), "random")]
    return [r["map_id"] for r in others if r["model_id"] == row["model_id"]]


def _method(row: Mapping[str, Any]) -> str:
    return str(row["method"]).partition(".")[0]


def one_tap(maps: Sequence[Mapping[str, Any]]) -> str:
    """The tap that all of the maps were read at.

    Raises:
        UsageError: there are two, and values at one are not values at the other.
    """
    taps = sorted({str(m["tap"]) for m in maps})
    if len(taps) != 1:
        raise UsageError(f"these neurons were found at the taps {' and '.join(taps)}; an edit acts at one of them")
    return taps[0]
