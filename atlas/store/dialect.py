"""A SQLAlchemy dialect of DuckDB, as far as needed here: Core statements, and the DDL of hand-written migrations.

Bulk rows go through Arrow, and questions through DuckDB itself. Only whether a table exists is reflected, which alembic
needs. docs/architecture.md says why no published dialect is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql.compiler import GenericTypeCompiler, IdentifierPreparer


class Driver:
    """A DuckDB connection in the form that SQLAlchemy expects of a driver.

    DuckDB's own `cursor()` is another session, with a separate transaction; here every cursor is this session. So the
    rows of a statement must be read before the next one is executed.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self.connection = connection

    def cursor(self) -> Cursor:
        """A cursor of this session."""
        return Cursor(self.connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


class Cursor:
    """A cursor that is the session itself: closing it closes nothing."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self.connection = connection

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Execute one statement."""
        self.connection.execute(statement, list(parameters) or None)

    def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Execute one statement with each row of parameters."""
        self.connection.executemany(statement, [list(row) for row in parameters])

    def close(self) -> None:
        """Do nothing: the session stays open."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


class DuckDBTypes(GenericTypeCompiler):
    """SQL names of column types."""

    def visit_ARRAY(self, type_: sa.ARRAY[Any], **keywords: Any) -> str:  # noqa: N802 - SQLAlchemy's name
        return f"{self.process(type_.item_type, **keywords)}[]"


class Quoted(IdentifierPreparer):
    """Quotes every name, as reserved words differ between versions of DuckDB."""

    def _requires_quotes(self, value: str) -> bool:
        return True


class DuckDBDialect(DefaultDialect):
    """What SQLAlchemy needs to know of DuckDB."""

    name = "duckdb"
    driver = "duckdb"
    default_paramstyle = "qmark"
    supports_statement_cache = True
    supports_comments = True
    supports_sane_rowcount = False
    supports_native_boolean = True
    postfetch_lastrowid = False
    type_compiler_cls = DuckDBTypes
    preparer = Quoted

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        return duckdb

    def connect(self, *arguments: Any, **options: Any) -> Any:
        return Driver(duckdb.connect(*arguments, **options))

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.begin()

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back, unless an error has already ended the transaction."""
        try:
            dbapi_connection.rollback()
        except duckdb.TransactionException as error:
            if "no transaction is active" not in str(error):
                raise

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **keywords: Any) -> bool:
        query = "SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database() AND table_name = ?"
        return bool(connection.exec_driver_sql(query, (table_name,)).scalar_one())
