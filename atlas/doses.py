"""Dose-response: what is left of the answers as more of a method's best neurons are ablated, beside random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from atlas.compare import size
from atlas.leaderboard import surveyed
from atlas.queries import Query, Which

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SIZES = """
SELECT DISTINCT m.layers * m.width AS neurons FROM runs r JOIN models m USING (model_id)
WHERE r.kind = 'evaluate' AND r.status = 'done' AND ($model IS NULL OR m.name = $model)"""

SCHEMA = pa.schema(
    [("source", pa.string()), ("method", pa.string()), ("reduce", pa.string()), ("dose", pa.string())]
    + [("neurons", pa.int64()), ("share", pa.float64())]
    + [(name, pa.float64()) for name in ("own", "own_error", "others", "random_own", "random_own_error")]
    + [(name, pa.float64()) for name in ("random_others", "own_before", "others_before")]
    + [("concepts", pa.int64())]
)


def doses(connection: Connection, which: Which) -> pa.Table:
    """One row for every source, method and number of neurons: see `Atlas.doses`. which: of one model."""
    sizes = Query(SIZES.strip(), {"model": which.model}).run(connection)["neurons"].to_pylist()
    rows = []
    for found in surveyed(which).run(connection).to_pylist():
        if which.method is not None and found["method"] != which.method:
            continue
        dose, total = str(found["top"]), sizes[0]
        if dose.endswith("%"):
            share = float(dose.removesuffix("%")) / 100
            neurons = size(share, total)
        else:
            neurons = int(dose)
            share = neurons / total
        rows.append({**found, "dose": dose, "neurons": neurons, "share": share})
    rows.sort(key=lambda r: (r["source"], r["method"], r["reduce"], r["neurons"]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)
