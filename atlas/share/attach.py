"""A bundle queried in place, in a folder or at a URL: its Parquet files as the tables of an atlas, without a copy.

Ids that are local to a run's folder become those that `atlas import` into an empty atlas would give, so that a
statement has the same answer either way. Edits are JSON and have no table here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from atlas.errors import AtlasError, IntegrityError, UsageError
from atlas.share.listing import (
    LARGEST_JSON,
    NAME,
    REVISION,
    Listing,
    parse_listing,
    plain_file,
    plain_json,
    read_listing,
    small_file,
)
from atlas.store.database import READER_CONFIG, literal, lock_down, require_plain
from atlas.store.run_manifest import NAME as MANIFEST
from atlas.store.run_manifest import OBJECTS, SHARDS, require_head, shard_rows

_URL = re.compile(r"(https?|s3)://[^\s?#]+")

_HTTPFS = """reading {location} needs DuckDB's extension httpfs, which is not installed and is never \
downloaded automatically; type once: python -c "import duckdb; duckdb.sql('INSTALL httpfs')", \
or use `atlas pull` or `atlas import` instead"""


@contextmanager
def attach_bundle(location: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a bundle for questions: a DuckDB connection that can read the bundle's Parquet files and nothing else.

    (It could also overwrite these files: DuckDB has no finer setting, but `answered` accepts only reading statements.)

    It has the tables of `atlas.store.schema` (models, datasets, concepts, runs, and every table of a run's folder,
    empty where no run has it) except edits, changes and indexes. Settings are locked and were read back; the caller
    must limit the statements (`atlas.api.user_sql.answered`). Only bundle.json and the manifests are checked by their
    checksums.

    location: a folder, or its URL: http://, https:// or s3:// (credentials are those of DuckDB's httpfs).

    Raises:
        UsageError: no bundle there.
        StoreUnavailable: a newer program wrote it.
        AtlasError: a URL, and httpfs is not installed, or it cannot be reached.
        IntegrityError: bundle.json or a manifest is damaged.
    """
    remote = bool(_URL.fullmatch(location))
    if not remote and "://" in location:
        raise UsageError(f"'{location}' is neither a folder nor an http://, https:// or s3:// URL without a query")
    with (
        tempfile.TemporaryDirectory(prefix="neuron-atlas-") as spill,
        duckdb.connect(config={**READER_CONFIG, "temp_directory": spill}) as connection,
    ):
        try:
            _open(location, connection, remote)
        except duckdb.HTTPException as error:
            raise AtlasError(f"cannot read {location}: {_first(error)}") from error
        except (duckdb.Error, pa.ArrowException) as error:
            raise IntegrityError(f"the bundle {location} is damaged: {_first(error)}") from error
        yield connection


def _open(location: str, connection: duckdb.DuckDBPyConnection, remote: bool) -> None:
    bundle = _Remote(location.rstrip("/"), connection) if remote else _Local(Path(location))
    manifests = [(run, bundle.manifest(run)) for run in bundle.listing.runs]
    files = {n: bundle.place(n) for n in bundle.listing.files if n.endswith(".parquet")}
    _create(connection, sorted(manifests, key=lambda m: (m[1]["run"]["finished_at"], m[0])), files)
    lock_down(connection, files=sorted(files.values()))


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Local:
    """A folder; links in it are not followed."""

    def __init__(self, folder: Path):
        require_plain(folder)
        self.folder = folder
        self.listing = read_listing(folder)

    def place(self, name: str) -> str:
        return str(plain_file(self.folder, name).resolve())

    def manifest(self, run: str) -> dict[str, Any]:
        return _manifest(self.listing, run, small_file(plain_file(self.folder, f"runs/{run}/{MANIFEST}")))


class _Remote:
    """A URL, read by DuckDB itself."""

    def __init__(self, location: str, connection: duckdb.DuckDBPyConnection):
        self.location = location
        try:
            connection.execute("LOAD httpfs")
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise AtlasError(_HTTPFS.format(location=location)) from error
        self.listing = parse_listing(self._texts(connection, [NAME])[NAME], location)
        names = [f"runs/{run}/{MANIFEST}" for run in self.listing.runs]
        self._manifests = self._texts(connection, names) if names else {}

    def _texts(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> dict[str, bytes]:
        places = {self.place(name): name for name in names}
        query = (
            f"SELECT filename, content FROM read_blob([{', '.join(map(literal, places))}]) WHERE size <= {LARGEST_JSON}"
        )
        try:
            contents = {places[place]: bytes(content) for place, content in connection.execute(query).fetchall()}
        except duckdb.HTTPException:
            raise
        except duckdb.IOException as error:
            raise UsageError(f"there is no bundle at {self.location}: {_first(error)}") from error
        if NAME in names and not contents:
            raise UsageError(f"there is no bundle at {self.location}: {NAME} is missing or too large")
        if set(contents) != set(names):
            raise IntegrityError(f"{self.location} lacks files that its {NAME} names, or they are too large")
        return contents

    def place(self, name: str) -> str:
        return f"{self.location}/{name}"

    def manifest(self, run: str) -> dict[str, Any]:
        return _manifest(self.listing, run, self._manifests[f"runs/{run}/{MANIFEST}"])


def _manifest(listing: Listing, run: str, content: bytes) -> dict[str, Any]:
    import hashlib

    name = f"runs/{run}/{MANIFEST}"
    if (len(content), hashlib.sha256(content).hexdigest()) != listing.files[name]:
        raise IntegrityError(f"{name} does not match {NAME} (sha256): it was changed or cut; fetch it again")
    manifest = plain_json(content, name)
    try:
        require_head(manifest)
        if manifest["run"]["run_id"] != run or not REVISION.fullmatch(manifest["schema"]):
            raise IntegrityError(f"{name} belongs to another run, or does not name a schema")
        maps = manifest["files"].get("maps.parquet", {"rows": 0})["rows"]
        if type(maps) is not int or not 0 <= maps < 1 << 31:
            raise IntegrityError(f"{name} has an impossible number of maps")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{name} is damaged: {error}") from error
    return manifest


class _Ids:
    """Ids of models, datasets and concepts as an import would assign them: in the order in which the runs finished."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {"models": {}, "datasets": {}, "concepts": {}}

    def of(self, table: str, key: tuple[Any, ...], row: Mapping[str, Any]) -> int:
        """The id of a row by its key; a new one where the key is new."""
        known = self.rows[table]
        name = f"{table[:-1]}_id"
        return int(known.setdefault(key, {name: len(known) + 1, **row})[name])


def _create(
    connection: duckdb.DuckDBPyConnection, manifests: Sequence[tuple[str, dict[str, Any]]], files: Mapping[str, str]
) -> None:
    """Make the small tables, and a view of every table that runs have."""
    from atlas.store.ledger import DONE, json_text
    from atlas.store.run_loader import SHARED_TABLES

    ids, runs, first = _Ids(), [], 1
    parts: dict[str, list[str]] = {name: [] for name in SHARDS}
    for place, (run, manifest) in enumerate(manifests):
        model, dataset = manifest["model"], manifest["dataset"]
        ids_of_run: dict[str, Any] = {"model_id": None, "dataset_id": None}
        if model:
            ids_of_run["model_id"] = ids.of("models", (model["name"], model["revision"], model["fingerprint"]), model)
        if dataset:
            ids_of_run["dataset_id"] = ids.of("datasets", (dataset["name"], dataset["revision"]), dataset)
        owner = {"dataset_id": ids_of_run["dataset_id"]}
        concepts = [ids.of("concepts", (owner["dataset_id"], c["name"]), owner | c) for c in manifest["concepts"]]
        run_row = manifest["run"]
        runs.append({**run_row, **ids_of_run, "status": DONE, **{name: json_text(run_row[name]) for name in OBJECTS}})
        id_sql = {name: str(value) if value else "NULL" for name, value in ids_of_run.items()}
        id_sql |= {"map_id": f"map_id + {first}", "concept_id": f"{concepts or '[NULL]'}[concept_id + 1]"}
        for name, table in SHARDS.items():
            file = files.get(f"runs/{run}/{name}.parquet")
            if file is not None:
                values = [
                    f'({id_sql[c.name]})::INTEGER AS "{c.name}"' if c.name in id_sql else f'"{c.name}"'
                    for c in table.columns
                ]
                rows = shard_rows(table, file, manifest["schema"])
                order = f", {place} AS place" if name in SHARED_TABLES else ""
                parts[name].append(f"SELECT {', '.join(values)}{order} FROM ({rows})")
        first += int(manifest["files"].get("maps.parquet", {"rows": 0})["rows"])
    for name, known in ids.rows.items():
        _table(connection, name, list(known.values()))
    _table(connection, "runs", runs)
    for name, queries in parts.items():
        if queries:
            connection.execute(f'CREATE VIEW "{name}" AS {_view(name, queries, SHARED_TABLES)}')
        else:
            _table(connection, name, [])


def _view(name: str, queries: Sequence[str], shared: Mapping[str, tuple[str, ...]]) -> str:
    union = " UNION ALL ".join(queries)
    if name not in shared:
        return union
    if len(queries) == 1:
        return f"SELECT * EXCLUDE (place) FROM ({union})"
    key = ", ".join(shared[name])  # the first row is kept
    return f"SELECT * EXCLUDE (place) FROM ({union}) QUALIFY place = min(place) OVER (PARTITION BY {key})"


def _table(connection: duckdb.DuckDBPyConnection, name: str, rows: list[dict[str, Any]]) -> None:
    from atlas.store import arrow_types, schema

    table = pa.Table.from_pylist(rows, schema=arrow_types.arrow_schema(schema.metadata.tables[name]))
    connection.register("given", table)
    connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM given')
    connection.unregister("given")
