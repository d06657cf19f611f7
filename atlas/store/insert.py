"""Insert rows into tables: in bulk through Arrow, and the ids of models, datasets and concepts.

Everything here runs inside the transaction of the given connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Column, Connection, Table

from atlas.errors import IntegrityError
from atlas.store.arrow_types import arrow_schema
from atlas.store.engine import raw
from atlas.store.schema import concepts, datasets, models


def insert(connection: Connection, table: Table, data: pa.Table | pa.RecordBatchReader) -> int:
    """Put Arrow rows into a table, inside the connection's transaction (millions of rows a second).

    Returns:
        The number of rows.

    Raises:
        IntegrityError: the columns are not exactly those of `arrow_schema(table)`, or a row violates a constraint.
    """
    require_schema(table, data.schema)
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    view = f"arrow_{table.name}"
    raw(connection).register(view, data)
    try:
        count = connection.exec_driver_sql(f'INSERT INTO "{table.name}" ({columns}) SELECT {columns} FROM {view}')
        rows = int(count.scalar_one())
    except sa.exc.IntegrityError as error:
        # The view stays, as only a rollback is possible after an error.
        raise IntegrityError(f"table {table.name} refuses the rows: {error.orig}") from error
    raw(connection).unregister(view)
    return rows


def require_schema(table: Table, columns: pa.Schema, expected: pa.Schema | None = None) -> None:
    """Refuse Arrow columns that differ from the table's (or from `expected`) in name, order or type.

    Raises:
        IntegrityError: with the first difference.
    """
    expected = arrow_schema(table) if expected is None else expected
    if columns.names != expected.names:
        raise IntegrityError(f"table {table.name} has columns {expected.names}, not {columns.names}")
    for expected_field, given_field in zip(expected, columns, strict=True):
        if expected_field.type != given_field.type:
            raise IntegrityError(
                f"column {table.name}.{expected_field.name} is {expected_field.type}, not {given_field.type}"
            )


def next_id(connection: Connection, column: Column[int]) -> int:
    """One more than the largest id of a column; ids start at 1."""
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1)).scalar_one())


def model_id(connection: Connection, row: Mapping[str, object]) -> int:
    """The id of a model, which is added if it is new. The same name, revision and weights are the same model.

    row: the columns of `models` without `model_id`.
    """
    same = sa.and_(
        models.c.name == row["name"],
        models.c.revision.is_not_distinct_from(row["revision"]),
        models.c.fingerprint == row["fingerprint"],
    )
    stored_id = connection.execute(sa.select(models.c.model_id).where(same)).scalar()
    if stored_id is not None:
        return int(stored_id)
    return _add(connection, models, models.c.model_id, row)


def dataset_id(connection: Connection, row: Mapping[str, object]) -> int:
    """The id of a dataset, which is added if it is new. The same name and revision are the same dataset.

    A new `path` replaces the stored one; a run from elsewhere has none, and leaves it unchanged.

    row: the columns of `datasets` without `dataset_id`.
    """
    same = sa.and_(datasets.c.name == row["name"], datasets.c.revision == row["revision"])
    stored = connection.execute(sa.select(datasets.c.dataset_id, datasets.c.path).where(same)).one_or_none()
    if stored is None:
        return _add(connection, datasets, datasets.c.dataset_id, row)
    if row["path"] is not None and stored.path != row["path"]:
        connection.execute(sa.update(datasets).where(same).values(path=row["path"]))
    return int(stored.dataset_id)


def _add(connection: Connection, table: Table, key: Column[int], row: Mapping[str, object]) -> int:
    new = next_id(connection, key)
    insert(connection, table, pa.Table.from_pylist([{**row, key.name: new}], schema=arrow_schema(table)))
    return new


def concept_ids(connection: Connection, dataset: int, rows: Sequence[Mapping[str, object]]) -> dict[str, int]:
    """The ids of a dataset's concepts by name; new ones are added.

    rows: the columns of `concepts` without the two ids.

    Raises:
        IntegrityError: a concept is stored with other surface forms or another category, although the dataset's
            revision is the same.
    """
    query = sa.select(concepts).where(concepts.c.dataset_id == dataset)
    stored = {row.name: row for row in connection.execute(query)}
    for row in rows:
        old = stored.get(str(row["name"]))
        if old is not None and any(_plain(getattr(old, name)) != _plain(value) for name, value in row.items()):
            raise IntegrityError(
                f"concept '{old.name}' of dataset {dataset} has forms {list(old.forms)}, not {row['forms']}: "
                "a dataset whose concepts change needs a new revision"
            )
    names = dict.fromkeys(str(row["name"]) for row in rows)
    if len(names) != len(rows):
        raise IntegrityError("two concepts of one dataset have the same name")
    first = next_id(connection, concepts.c.concept_id)
    new = [
        {**row, "concept_id": first + offset, "dataset_id": dataset}
        for offset, row in enumerate(row for row in rows if str(row["name"]) not in stored)
    ]
    if new:
        insert(connection, concepts, pa.Table.from_pylist(new, schema=arrow_schema(concepts)))
    ids = {name: int(row.concept_id) for name, row in stored.items()} | {
        str(r["name"]): int(str(r["concept_id"])) for r in new
    }
    return {name: ids[name] for name in names}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
