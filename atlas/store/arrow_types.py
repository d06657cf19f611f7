"""Arrow schemas of the tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Float, Integer, SmallInteger, String, Table

_ARROW: dict[type[Any], pa.DataType] = {Integer: pa.int32(), SmallInteger: pa.int16(), BigInteger: pa.int64()}
_ARROW |= {String: pa.string(), Float: pa.float32(), Boolean: pa.bool_()}


def _arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    if isinstance(kind, sa.ARRAY):
        return pa.list_(_arrow_type(kind.item_type))
    return _ARROW[type(kind)]


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow schema that rows of a table must have."""
    return pa.schema([pa.field(c.name, _arrow_type(c.type), nullable=bool(c.nullable)) for c in table.columns])
