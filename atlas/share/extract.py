"""Some maps of a run as a separate run, with everything they need, for a bundle that leaves the rest out.

An extract's run id is a hash of the run's id and the choice, its times are the run's, and its job has the run's whole
record: the same choice gives the same extract, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from atlas.store import arrow_types, schema
from atlas.store.database import READER_CONFIG, literal
from atlas.store.run_manifest import SHARDS, folder_of, shard_rows
from atlas.store.run_writer import write_run

KIND = "extract"
_BATCH = 1 << 17


def extract_id(run_id: str, chosen: Mapping[str, Any]) -> str:
    """32 hex digits of a run's id and a choice of its maps."""
    text = json.dumps([run_id, chosen], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_extract(
    source: Path, target: Path, manifest: Mapping[str, Any], chosen: Mapping[str, Any], maps: Sequence[int]
) -> str:
    """Write some maps of a run as an extract, with their scores and sketches, the exemplars of their sources, the
    examples that these name, the model's decoded tokens, and its answers to these examples.

    source: the run's folder. target: the folder above `runs/`. manifest: the run's, as a bundle has it. chosen: the
    choice as plain JSON, which determines the id. maps: local ids, at least one.

    Returns:
        The extract's run id.
    """
    with _Reader(source, manifest, maps) as reader:
        run = extract_id(manifest["run"]["run_id"], chosen)
        exemplars = (
            f"SELECT * REPLACE ({literal(run)} AS run_id) FROM {{exemplars}} WHERE source IN (SELECT source FROM maps)"
        )
        reader.keep("shown", f"SELECT DISTINCT example_id FROM ({exemplars})")
        reader.keep("pictured", "SELECT * FROM {examples} WHERE example_id IN (SELECT example_id FROM shown)")
        names = set(reader.column("SELECT DISTINCT unnest(concepts) FROM pictured"))
        names |= {
            manifest["concepts"][i]["name"] for i in reader.column("SELECT concept_id FROM maps") if i is not None
        }
        concepts = [concept for concept in manifest["concepts"] if concept["name"] in names]
        places = {concept["name"]: place for place, concept in enumerate(concepts)}
        new_places = [places.get(concept["name"]) for concept in manifest["concepts"]]
        of_maps = f"* REPLACE (row_number() OVER (ORDER BY map_id) - 1 AS map_id, {literal(run)} AS run_id"
        if new_places:
            of_maps += f", {_list(new_places)}[concept_id + 1] AS concept_id"
        tables = {
            "maps": pa.Table.from_batches(
                list(reader.rows("maps", f"SELECT {of_maps}) FROM maps ORDER BY map_id")),
                arrow_types.arrow_schema(schema.maps),
            ),
            "exemplars": reader.rows("exemplars", exemplars),
            "examples": reader.rows("examples", "SELECT * FROM pictured"),
            "decodings": reader.rows("decodings", "SELECT * FROM {decodings}"),
            "responses": reader.rows("responses", "SELECT * FROM {responses} SEMI JOIN shown USING (example_id)"),
        }
        for name in ("scores", "sketches"):
            order = "map_id, layer, neuron" if name == "scores" else "map_id, rank"
            query = f"SELECT * REPLACE (new AS map_id) FROM {{{name}}} JOIN chosen USING (map_id) ORDER BY {order}"
            tables[name] = reader.rows(name, query.replace("* REPLACE", "* EXCLUDE (new) REPLACE"))
        tables = {name: rows for name, rows in tables.items() if name in reader.has}
        write_run(folder_of(target, run), _head(manifest, run, chosen, concepts, len(maps)), tables)
    return run


def write_companion(
    source: Path, target: Path, manifest: Mapping[str, Any], chosen: Mapping[str, Any], examples: pa.Table
) -> str:
    """Write what other runs of the model left out because this one has it: decoded tokens, and answers to examples.

    examples: a column `example_id`. Otherwise as `write_extract`.
    """
    run = extract_id(manifest["run"]["run_id"], chosen)
    with _Reader(source, manifest, []) as reader:
        reader.put("shown", examples)
        queries = {
            "decodings": "SELECT * FROM {decodings}",
            "responses": "SELECT * FROM {responses} SEMI JOIN shown USING (example_id)",
        }
        tables = {name: reader.rows(name, queries[name]) for name in chosen["tables"]}
        head = _head({**manifest, "dataset": None}, run, chosen, [], 0)
        write_run(folder_of(target, run), head, tables)
    return run


def _head(
    manifest: Mapping[str, Any], run: str, chosen: Mapping[str, Any], concepts: Sequence[Any], maps: int
) -> dict[str, Any]:
    origin = {"schema": manifest["schema"], **manifest["run"]}
    record = {"run_id": run, "kind": KIND, "job": {"of": origin, "filter": dict(chosen)}, "outcome": {"maps": maps}}
    record |= {name: manifest["run"][name] for name in ("environment", "started_at", "finished_at")}
    return {"run": record, "model": manifest["model"], "dataset": manifest["dataset"], "concepts": list(concepts)}


def _list(values: Sequence[int | None]) -> str:
    return "[" + ", ".join("NULL" if v is None else str(v) for v in values) + "]"


class _Reader:
    """The shards of a run as SQL: `{scores}` in a query stands for the rows of scores.parquet; `maps` is a table of the
    chosen maps, `chosen` has their old and new ids."""

    def __init__(self, source: Path, manifest: Mapping[str, Any], maps: Sequence[int]):
        revision = str(manifest["schema"])
        files = {name: source / f"{name}.parquet" for name in SHARDS}
        self.has = {name for name, file in files.items() if file.name in manifest["files"]}
        self._rows = {name: f"({shard_rows(SHARDS[name], files[name], revision)})" for name in self.has}
        for name in set(SHARDS) - self.has:
            columns = arrow_types.arrow_schema(SHARDS[name]).names
            self._rows[name] = "(SELECT " + ", ".join(f'NULL AS "{c}"' for c in columns) + " WHERE false)"
        self.connection = duckdb.connect(config={"memory_limit": str(READER_CONFIG["memory_limit"])})
        old = sorted(maps)
        ids = pa.table({"map_id": pa.array(old, pa.int32()), "new": pa.array(range(len(old)), pa.int32())})
        self.put("chosen", ids)
        if maps:
            self.keep("maps", "SELECT * FROM {maps} SEMI JOIN chosen USING (map_id)")

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def keep(self, name: str, query: str) -> None:
        """Create a table of a query's rows."""
        self.connection.execute(f"CREATE TABLE {name} AS {query.format_map(self._rows)}")

    def put(self, name: str, rows: pa.Table) -> None:
        """Create a table of these rows; one that is only registered would not be visible to other cursors."""
        self.connection.register("given", rows)
        self.connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
        self.connection.unregister("given")

    def column(self, query: str) -> list[Any]:
        """The first column of a query's rows."""
        return [row[0] for row in self.connection.execute(query).fetchall()]

    def rows(self, table: str, query: str) -> Iterator[pa.RecordBatch]:
        """A query's rows, with exactly the columns of a table. One at a time: queries share the connection."""
        target = arrow_types.arrow_schema(SHARDS[table])
        names = ", ".join(f'"{name}"' for name in target.names)
        text = f"SELECT {names} FROM ({query.format_map(self._rows)})"
        for batch in self.connection.cursor().sql(text).to_arrow_reader(_BATCH):
            yield from pa.Table.from_batches([batch]).cast(target).to_batches()
