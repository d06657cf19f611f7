"""Dose-response: what remains as more of a method's best neurons are ablated, with random ones as control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.query.amount import count_of
from atlas.query.map_spec import MapSpec
from atlas.stats.intervals import UNBOUNDED, of_values
from atlas.stats.leaderboard import ACCURACY, of_metric, over_concepts, surveyed

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

LESS_RANDOM = ("own_less_random", "others_less_random")
"""Means over concepts of the paired differences from random neurons."""

SCHEMA = pa.schema(
    [("source", pa.string()), ("method", pa.string()), ("reduce", pa.string()), ("metric", pa.string())]
    + [("dose", pa.string())]
    + [("neurons", pa.int64()), ("share", pa.float64())]
    + [(name, pa.float64()) for name in ("own", "own_low", "own_high", "others")]
    + [(name, pa.float64()) for name in ("random_own", "random_own_low", "random_own_high")]
    + [(name, pa.float64()) for name in ("random_others", "own_before", "others_before")]
    + [(f"{name}{end}", pa.float64()) for name in LESS_RANDOM for end in ("", "_low", "_high")]
    + [("concepts", pa.int64()), ("run_id", pa.string())]
)


def doses(connection: Connection, spec: MapSpec, metric: str | None, notes: list[str]) -> pa.Table:
    """One row for every source, method and dose: see `atlas.questions.dose_response`. spec: of one model. metric: None:
    see `of_metric`, whose notes are added to `notes`."""
    measured, chosen = of_metric(surveyed(spec).run(connection).to_pylist(), metric)
    notes += chosen
    rows = []
    for row in measured:
        if spec.method not in (None, row["method"]) or spec.target not in (None, row["target"]):
            continue
        dose, total = str(row["top"]), int(row["neurons"])
        neurons = count_of(dose, total)
        share = float(dose.removesuffix("%")) / 100 if dose.endswith("%") else neurons / total
        rows.append(
            {**row, **over_concepts(row), **_less_random(row), "dose": dose, "neurons": neurons, "share": share}
        )
    rows.sort(key=lambda r: (r["source"], r["method"], r["reduce"], r["neurons"]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _less_random(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The differences of a row of `surveyed` from random neurons: their means over concepts, with 95 % intervals."""
    bounds = (-1.0, 1.0) if row["metric"] == ACCURACY else UNBOUNDED
    found: dict[str, float | None] = {}
    for name in LESS_RANDOM:
        values = row[f"{name}_each"] or []
        interval = of_values(values, bounds)
        found[name] = sum(values) / len(values) if values else None
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found
