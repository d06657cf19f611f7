"""An edit's rows: into the database and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Connection

from atlas.store.arrow_types import arrow_schema
from atlas.store.insert import insert, model_id, next_id
from atlas.store.schema import changes, edits


def load_edit(connection: Connection, row: Mapping[str, Any], rows: pa.Table) -> int:
    """Store an edit and its changes; an earlier one of that name and version is replaced.

    row: the columns of `edits`, with `model` (the columns of `models` but the id) in place of `model_id`, and
        without `edit_id` and `changes`, which follow from the rest.
    rows: the columns of `changes` but `edit_id`, one row a changed neuron.

    Returns:
        The edit's id.
    """
    old = connection.execute(
        sa.select(edits.c.edit_id).where(edits.c.name == row["name"], edits.c.version == row["version"])
    ).scalar()
    if old is not None:
        forget_edit(connection, int(old))
    new = int(old) if old is not None else next_id(connection, edits.c.edit_id)
    edit_row = {name: value for name, value in row.items() if name != "model"}
    edit_row |= {"edit_id": new, "model_id": model_id(connection, row["model"]), "changes": rows.num_rows}
    insert(connection, edits, pa.Table.from_pylist([edit_row], schema=arrow_schema(edits)))
    insert(connection, changes, rows.add_column(0, "edit_id", pa.array([new] * rows.num_rows, pa.int32())))
    return new


def forget_edit(connection: Connection, edit_id: int) -> None:
    """Remove an edit's rows; its file is the caller's to remove."""
    connection.execute(sa.delete(changes).where(changes.c.edit_id == edit_id))
    connection.execute(sa.delete(edits).where(edits.c.edit_id == edit_id))
