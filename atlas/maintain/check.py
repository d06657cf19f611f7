"""Checks that an atlas is consistent: no dangling references, maps in order, the database equal to runs/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import Connection

from atlas.maintain.finding import Finding
from atlas.store import schema
from atlas.store.engine import connect_readonly

_ROWS_AT_ONCE = 4_000_000  # about 200 MB of DuckDB's memory while they are sorted

_OWNER = {
    "model_id": "models",
    "dataset_id": "datasets",
    "concept_id": "concepts",
    "run_id": "runs",
    "map_id": "maps",
    "example_id": "examples",
    "edit_id": "edits",
}
"""Column name -> the table whose row it refers to."""

_UNIQUE: Mapping[str, tuple[str, ...]] = {
    "models": ("name", "revision", "fingerprint"),
    "datasets": ("name", "revision"),
    "concepts": ("dataset_id", "name"),
    "examples": ("dataset_id", "example_id"),
    "exemplars": ("run_id", "component", "layer", "neuron", "source", "rank"),
    "decodings": ("model_id", "component", "layer", "neuron", "projection", "side"),
    "labels": ("run_id", "component", "layer", "neuron", "label", "rule"),
    "responses": ("model_id", "example_id", "generation"),
    "edits": ("name", "version"),
    "measures": ("run_id", "name", "method", "concept", "source", "layer", "first", "second", "condition"),
    "points": ("run_id", "projection", "layer", "example_id", "position", "condition"),
    "sketches": ("map_id", "rank"),
    "vectors": ("run_id", "component", "layer", "neuron"),
    "indexes": ("run_id",),
    "changes": ("edit_id", "component", "layer", "neuron", "where"),
}
"""Columns that together are unique in a table, besides its key."""


def check(path: Path) -> list[Finding]:
    """Every inconsistency in an atlas; nothing is changed. Reads every row and every shard.

    Raises:
        StoreUnavailable: the database cannot be opened.
        IntegrityError: the database file itself is damaged.
    """
    from atlas.maintain.check_files import edits_agree, runs_agree, selections_agree

    with connect_readonly(path) as connection:
        return [
            *_orphans(connection),
            *_orphan_names(connection),
            *_duplicates(connection),
            *_maps(connection),
            *_score_order(connection),
            *_ranks(connection),
            *runs_agree(connection, path),
            *edits_agree(connection, path),
            *selections_agree(path),
        ]


def _orphans(connection: Connection) -> Iterator[Finding]:
    """Ids that refer to no row."""
    for table in schema.metadata.sorted_tables:
        for column in table.columns:
            owner = _OWNER.get(column.name, table.name)
            if owner == table.name:
                continue
            name = column.name
            query = (
                f"SELECT count(*), min({name}) FROM (SELECT DISTINCT {name} FROM {table.name} WHERE {name} IS NOT NULL)"
                f" ANTI JOIN {owner} USING ({name})"
            )
            count, first = connection.exec_driver_sql(query).one()
            if count:
                yield Finding(table.name, f"{count} {name} (the first is {first}) are not in {owner}")


def _orphan_names(connection: Connection) -> Iterator[Finding]:
    """Concepts that are referred to by name and do not exist."""
    of_dataset = (
        "SELECT count(*), min(name) FROM (SELECT DISTINCT dataset_id, unnest(concepts) AS name FROM examples)"
        " ANTI JOIN concepts USING (dataset_id, name)"
    )
    queries = {"examples": of_dataset}
    for table in ("effects", "measures"):  # an edit may come from another atlas
        queries[table] = (
            f"SELECT count(*), min(name) FROM (SELECT DISTINCT concept AS name FROM {table} WHERE concept IS NOT NULL)"
            " ANTI JOIN concepts USING (name)"
        )
    for table, query in queries.items():
        count, first = connection.exec_driver_sql(query).one()
        if count:
            yield Finding(table, f"{count} concepts (the first is '{first}') are not in concepts")


def _duplicates(connection: Connection) -> Iterator[Finding]:
    for table, names in _UNIQUE.items():
        same = ", ".join(f'"{name}"' for name in names)
        query = f"SELECT count(*) FROM (SELECT 1 FROM {table} GROUP BY {same} HAVING count(*) > 1)"
        count = connection.exec_driver_sql(query).scalar_one()
        if count:
            yield Finding(table, f"{count} groups of rows have the same {', '.join(names)}")


def _maps(connection: Connection) -> Iterator[Finding]:
    """Maps with another number of scores than recorded, or with neurons that the model does not have."""
    query = """
        SELECT map_id, kept, coalesce(n, 0), neurons,
               component = 'language' AND (least(low_layer, low) < 0 OR top_layer >= layers OR top >= width)
        FROM maps JOIN models USING (model_id) LEFT JOIN (
            SELECT map_id, count(*) AS n, min(layer) AS low_layer, max(layer) AS top_layer,
                   min(neuron) AS low, max(neuron) AS top
            FROM scores GROUP BY map_id) USING (map_id)
        ORDER BY map_id"""
    for number, kept, count, neurons, outside in connection.exec_driver_sql(query):
        if kept != count:
            yield Finding(f"map {number}", f"has {count} scores, its row says {kept}")
        if kept > neurons:
            yield Finding(f"map {number}", f"keeps {kept} scores of {neurons} neurons")
        if outside:
            yield Finding(f"map {number}", "has neurons beyond the model's layers or width")


def _score_order(connection: Connection) -> Iterator[Finding]:
    """Maps that are not stored in one piece, each in the order of layers and neurons.

    `lag() OVER ()` follows the order of storage, so that one pass without sorting sees every pair of neighbours.
    """
    query = """
        SELECT map_id,
               count(*) FILTER (map_id IS DISTINCT FROM last_map),
               count(*) FILTER (map_id = last_map AND (layer < last_layer OR layer = last_layer AND neuron <= last)),
               count(*) FILTER (NOT isfinite(score))
        FROM (SELECT *, lag(map_id) OVER () AS last_map, lag(layer) OVER () AS last_layer,
                     lag(neuron) OVER () AS last FROM scores)
        GROUP BY map_id ORDER BY map_id"""
    for number, pieces, order, infinite in connection.exec_driver_sql(query):
        where = f"map {number}"
        if pieces > 1:
            yield Finding(where, f"is stored in {pieces} pieces")
        if order:
            yield Finding(where, f"{order} neurons are out of order or duplicated")
        if infinite:
            yield Finding(where, f"{infinite} scores are not finite")


def _ranks(connection: Connection) -> Iterator[Finding]:
    """Ranks that do not count up as scores go down. Some maps at a time, as sorting all would need too much memory."""
    counts = connection.exec_driver_sql("SELECT map_id, count(*) FROM scores GROUP BY map_id ORDER BY map_id").all()
    for low, high in _ranges([(int(number), int(count)) for number, count in counts]):
        query = f"""
            SELECT map_id, count(*) FILTER (rank <> place), count(*) FILTER (score > last_score) FROM (
                SELECT map_id, rank, score, row_number() OVER best AS place, lag(score) OVER best AS last_score
                FROM scores WHERE map_id BETWEEN {low} AND {high}
                WINDOW best AS (PARTITION BY map_id ORDER BY rank))
            GROUP BY map_id ORDER BY map_id"""
        for number, ranks, order in connection.exec_driver_sql(query):
            if ranks:
                yield Finding(f"map {number}", f"{ranks} ranks do not count 1, 2, 3, ...")
            if order:
                yield Finding(f"map {number}", f"{order} scores are larger than one of a better rank")


def _ranges(counts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """First and last map of runs of maps that together have about `_ROWS_AT_ONCE` rows."""
    first, rows = None, 0
    for number, count in counts:
        first = number if first is None else first
        rows += count
        if rows >= _ROWS_AT_ONCE or number == counts[-1][0]:
            yield first, number
            first, rows = None, 0
