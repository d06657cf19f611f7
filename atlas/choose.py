"""From what the user said to one stored map: names checked, what was left open filled in and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError, unknown
from atlas.queries import Which, find_maps, runs_beginning

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

PREFERRED: dict[str, tuple[str, ...]] = {
    "method": ("contribution", "gradient_x_activation", "activation"),
    "source": ("image", "text"),
    "target": ("text",),
    "reduce": ("contrast", "mean"),
}
"""What is taken when the user leaves it open and the atlas has several."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One map: the row of `find_maps`. assumed: what was left open, as `name=value (others: ...)`."""

    row: dict[str, Any]
    assumed: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        return self.row[name]

    def summary(self) -> dict[str, Any]:
        """What identifies the map, for a provenance record."""
        keys = ("run_id", "model", "fingerprint", "dataset", "concept", "method", "source", "target", "reduce", "tap")
        more = ("parameters", "examples", "neurons")
        return {key: self.row[key] for key in (*keys, *more)}


def choose_map(connection: Connection, which: Which) -> Chosen:
    """The one map that is meant.

    Raises:
        UsageError: nothing matches; the message says which name does not, and the nearest one that does.
    """
    if which.run is not None:
        _require_one_run(connection, which.run)
    rows = find_maps(which).run(connection).to_pylist()
    if not rows:
        raise _nothing(connection, which)
    assumed = []
    for name in ("model", "dataset", "method", "source", "target", "reduce"):
        there = list(dict.fromkeys(str(r[name]) for r in rows))
        value = next((v for v in PREFERRED.get(name, ()) if v in there), _plain(name, there))
        if len(there) > 1:
            others = ", ".join(sorted(v for v in there if v != value))
            assumed.append(f"{name}={value} (others: {others})")
        rows = [r for r in rows if str(r[name]) == value]
    # One model's name may stand for several weights: the newest map counts.
    if rows[0]["versions"] > 1:
        assumed.append(f"run={rows[0]['run_id'][:8]} (the newest of {rows[0]['versions']}; `atlas runs` lists them)")
    return Chosen(rows[0], tuple(assumed))


def _require_one_run(connection: Connection, prefix: str) -> None:
    ids = runs_beginning(prefix).run(connection)["run_id"].to_pylist()
    if len(ids) > 1:
        several = ", ".join(i[: max(8, len(prefix) + 4)] for i in ids[:5])
        raise UsageError(f"--run {prefix} is the beginning of several runs: {several}; give more of it (`atlas runs`)")


def _plain(name: str, there: Sequence[str]) -> str:
    """Models and datasets: the newest. Else the first by name, a random control last."""
    return there[0] if name in ("model", "dataset") else sorted(there, key=lambda v: (v == "random", v))[0]


def _nothing(connection: Connection, which: Which) -> UsageError:
    """Name by name, from the most to the least general: the first that matches nothing is the one to correct."""
    sofar = Which()
    for name in ("model", "dataset", "run", "concept", "method", "source", "target", "reduce"):
        value = getattr(which, name)
        if value is None:
            continue
        rows = find_maps(sofar).run(connection).to_pylist()
        key = "run_id" if name == "run" else name
        there = {str(r[key]) for r in rows}
        if not there:
            break
        if name == "run" and not any(t.startswith(value) for t in there):
            return unknown(name, value, {t[:8] for t in there}, "atlas runs")
        if name != "run" and value not in there:
            listed = f"atlas {name}s" if name in ("model", "dataset") else "atlas concepts"
            return unknown(f"stored {name}", value, there, listed)
        sofar = replace(sofar, **{name: value})
    return UsageError("this atlas has no maps yet; `atlas ingest` makes some, `atlas demo` makes an example")


def peers(connection: Connection, chosen: Chosen) -> list[int]:
    """The other methods' maps of the same concept, source, target and reduction; the random control is none."""
    row = chosen.row
    same = Which(row["concept"], None, row["source"], row["target"], row["reduce"], row["model"], row["dataset"])
    found = find_maps(same).run(connection).to_pylist()
    others = [r for r in found if r["method"] not in (row["method"], "random")]
    return [r["map_id"] for r in others if r["model_id"] == row["model_id"]]


def one_tap(maps: Sequence[Mapping[str, Any]]) -> str:
    """The tap that all of the maps were read at.

    Raises:
        UsageError: there are two, and values at one are not values at the other.
    """
    taps = sorted({str(m["tap"]) for m in maps})
    if len(taps) != 1:
        raise UsageError(f"these neurons were found at the taps {' and '.join(taps)}; an edit acts at one of them")
    return taps[0]
