"""Upgrade a database of an older schema, after a backup."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from atlas.store.backup import backup
from atlas.store.database import VERSION, require_current, revision
from atlas.store.engine import connect_any_version, fold_log, raw
from atlas.store.migrations import migrate


def upgrade(path: Path) -> Path | None:
    """Upgrade the database to the current schema, after a backup.

    Returns:
        The backup, or None where there was nothing to do.

    Raises:
        StoreUnavailable: the schema is newer than this program, or the database is in use or not an atlas.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=True) as connection:
        schema_revision = revision(raw(connection))
        if schema_revision is None or schema_revision >= VERSION:
            require_current(raw(connection), path)
            return None
    copy = backup(path)
    with connect_any_version(path, read_only=False) as connection:
        with connection.begin():
            migrate(connection)
            if schema_revision < "0003":
                _reload_edits(connection, path)
        fold_log(connection, path)
    return copy


def _reload_edits(connection: Connection, path: Path) -> None:
    """Write the edits' files in the current format, and store them again with their new checksums."""
    from atlas.edits.files import convert_old, read_stored
    from atlas.edits.rows import load_edit

    convert_old(path)
    for file in sorted((path / "edits").glob("*@*.json")):
        load_edit(connection, *read_stored(file))
