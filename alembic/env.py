"""Runs the migrations on the connection it is given, in that connection's transaction."""

from alembic.ddl.impl import DefaultImpl

from alembic import context


class DuckDBImpl(DefaultImpl):
    """Tells alembic that DuckDB exists, and that it rolls back its DDL."""

    __dialect__ = "duckdb"
    transactional_ddl = True


connection = context.config.attributes.get("connection")
if connection is None:
    # The one who opened the file also closes it, so the program passes its connection (`atlas db upgrade`).
    raise RuntimeError("these migrations run through `atlas db upgrade`, not through the alembic command")

context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
