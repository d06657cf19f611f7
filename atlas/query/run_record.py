"""Everything that determined a run's numbers, as facts by name; and the facts in which two runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from atlas.errors import UsageError, unknown
from atlas.query.statements import Query
from atlas.store.database import open_readonly

_RUN = """
SELECT r.run_id, r.kind, r.status, r.started_at, r.finished_at, r.job, r.environment, r.outcome,
       m.name AS model_name, m.revision AS model_revision, m.fingerprint, m.model_type, m.layers, m.width, m.d_model,
       d.name AS dataset_name, d.revision AS dataset_revision, d.licence, d.path AS dataset_path
FROM runs r LEFT JOIN models m USING (model_id) LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
WHERE r.run_id = $run"""
_MAPS = """
SELECT method, source, target, reduce, tap, parameters, count(*) AS maps, count(DISTINCT concept_id) AS concepts,
       min(neurons) AS neurons, min(kept) AS kept, min(examples) AS fewest_examples, max(examples) AS most_examples
FROM maps WHERE run_id = $run
GROUP BY method, source, target, reduce, tap, parameters, concept_id IS NULL ORDER BY ALL"""
_COUNTED = ("exemplars", "labels", "effects", "measures", "points", "vectors")
LONGEST = 2000
"""Characters of a value shown in the table; the JSON form has all."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is recorded of a run. facts: as plain objects."""

    facts: Mapping[str, Any]

    def flat(self) -> Iterator[tuple[str, Any]]:
        """Every fact with its name; maps of one kind together are one fact."""
        for name, value in self.facts.items():
            if name == "maps":
                yield from ((f"maps.{kind}", about) for kind, about in value.items())
            else:
                yield from flat({name: value})

    def table(self) -> pa.Table:
        """One row a fact: its name (`job.seed`) and its value as text."""
        rows = [{"fact": name, "value": _short(value)} for name, value in self.flat()]
        return pa.Table.from_pylist(rows, schema=pa.schema([("fact", pa.string()), ("value", pa.string())]))


def facts(path: Path, run: str) -> RunRecord:
    """Everything recorded of a run.

    run: a prefix of its id.

    Raises:
        UsageError: no run has this prefix, or several have.
    """
    with open_readonly(path) as connection:
        return _facts(connection, run_named(connection, run))


def _facts(connection: Connection, run_id: str) -> RunRecord:
    values = {"run": run_id}
    (row,) = Query(_RUN.strip(), values).run(connection).to_pylist()
    record: dict[str, Any] = {name: row.pop(name) for name in ("run_id", "kind", "status", "started_at", "finished_at")}
    read = {name: json.loads(row.pop(name)) for name in ("job", "environment", "outcome")}
    names = ("model_name", "model_revision", "fingerprint", "model_type", "layers", "width", "d_model")
    record["model"] = {name.removeprefix("model_"): row[name] for name in names}
    of_dataset = ("dataset_name", "dataset_revision", "licence", "dataset_path")
    record["dataset"] = {name.removeprefix("dataset_"): row[name] for name in of_dataset}
    record |= read
    record["maps"] = {}
    for maps_row in Query(_MAPS.strip(), values).run(connection).to_pylist():
        kind = " ".join(maps_row.pop(name) for name in ("method", "source", "target", "reduce", "tap"))
        of_kind = {**maps_row, "parameters": json.loads(maps_row["parameters"])}
        record["maps"][kind if maps_row["concepts"] else f"{kind} *"] = of_kind
    counts = {}
    for table in _COUNTED:
        query = f"SELECT count(*) FROM {table} WHERE run_id = $run"
        counts[table] = connection.execute(query, values).fetchall()[0][0]
    record["rows"] = {name: count for name, count in counts.items() if count}
    return RunRecord(record)


def difference(path: Path, first: str, second: str) -> pa.Table:
    """The facts in which two runs differ: fact, first, second (text; null where a run has no such fact)."""
    with open_readonly(path) as connection:
        first_facts, second_facts = (
            dict(_facts(connection, run_named(connection, run)).flat()) for run in (first, second)
        )
    rows = [
        {"fact": name, "first": _short(first_facts.get(name)), "second": _short(second_facts.get(name))}
        for name in dict.fromkeys([*first_facts, *second_facts])
        if first_facts.get(name) != second_facts.get(name) or (name in first_facts) != (name in second_facts)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([(n, pa.string()) for n in ("fact", "first", "second")]))


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of plain objects with its path: `job.methods.contribution.norm`. Lists of plain values are leaves."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
        for i, part in enumerate(value):
            yield from flat(part, f"{name}[{i}]")
    elif name:
        yield name, value


def _short(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters; the JSON form has all)"


def run_named(connection: Connection, prefix: str) -> str:
    """The id of the one run, of any kind and status, with this prefix.

    Raises:
        UsageError: no run has this prefix, or several have.
    """
    ids = [str(r[0]) for r in connection.execute("SELECT run_id FROM runs ORDER BY started_at").fetchall()]
    matching = [i for i in ids if i.startswith(prefix)] if prefix else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        several = ", ".join(i[: max(8, len(prefix) + 4)] for i in matching[:5])
        raise UsageError(f"several runs begin with '{prefix}': {several}; give more characters (`atlas runs`)")
    raise unknown("run", prefix, [i[:8] for i in ids], "atlas runs")
