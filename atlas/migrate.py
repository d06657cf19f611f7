"""Schema versions: make a database, bring an old one up to date, keep a copy before.

The migrations are hand-written files of `alembic/versions/`, found beside the packages in a checkout and inside the
package once installed. alembic itself is imported only where a migration runs.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from atlas.database import VERSION, database, require_current, revision, wal
from atlas.errors import StoreUnavailable
from atlas.failures import unwritable
from atlas.store import connect_any_version, fold_log, raw
from atlas.workshop import alone

if TYPE_CHECKING:
    from alembic.config import Config


def scripts() -> Path:
    """The folder of the migrations, in a checkout or in an installed package.

    Raises:
        StoreUnavailable: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_alembic", package.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreUnavailable(f"the migrations are not installed beside {package}; install neuron-atlas again")


def migrate(connection: Connection, target: str = "head") -> None:
    """Run the migrations up to a revision, in the transaction that the connection is in: all of them or none."""
    from alembic import command

    command.upgrade(config(connection), target)


def config(connection: Connection) -> Config:
    """alembic's configuration, made here: there is no alembic.ini. `env.py` runs on the connection."""
    from alembic.config import Config

    made = Config()
    # A percent sign in the path would be read as interpolation.
    made.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def create(path: Path) -> bool:
    """Put an empty database of the current schema into an atlas folder.

    Returns:
        False where there was a database of the current schema already.

    Raises:
        StoreUnavailable: there is a database that is not an atlas, or of another schema version.
    """
    new = not database(path).exists()
    with connect_any_version(path, read_only=False, create=True) as connection:
        with connection.begin():
            if not new and not _empty(connection):
                require_current(raw(connection), path)
                return False
            migrate(connection)
        fold_log(connection, path)
    return True


def _empty(connection: Connection) -> bool:
    """True for a database without any table: what is left where making it was interrupted."""
    return not connection.exec_driver_sql("SELECT count(*) FROM duckdb_tables()").scalar()


def upgrade(path: Path) -> Path | None:
    """Bring the database to the current schema, after a backup.

    Returns:
        The backup, or None where there was nothing to do.

    Raises:
        StoreUnavailable: the schema is newer than this program, or the database is in use or not an atlas.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=True) as connection:
        found = revision(raw(connection))
        if found is None or found >= VERSION:
            require_current(raw(connection), path)
            return None
    kept = backup(path)
    with connect_any_version(path, read_only=False) as connection:
        with connection.begin():
            migrate(connection)
            if found < "0003":
                _reload_edits(connection, path)
        fold_log(connection, path)
    return kept


def _reload_edits(connection: Connection, path: Path) -> None:
    """Write the edits' files in today's form, and store them again: their sums are others."""
    from atlas.edit_files import convert_old, read_stored
    from atlas.rebuild import load_edit

    convert_old(path)
    for file in sorted((path / "edits").glob("*@*.json")):
        load_edit(connection, *read_stored(file))


def backup(path: Path) -> Path:
    """Copy the database, and its write-ahead log where there is one, to `backups/`.

    Returns:
        The copy; it opens like the original.

    Raises:
        StoreUnavailable: no database, another process is writing it, or no room.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=True) as connection:
        found = revision(raw(connection)) or "none"
    # Copied with the file closed: closing any handle of a file gives up this process's lock on it.
    return copy_aside(path, found)


def backup_name(folder: Path, label: str) -> str:
    """`atlas-<UTC>-<label>.duckdb`; names sort as time. One that is free, also where the clock went back."""
    moment = datetime.now(UTC)
    while (folder / (name := f"atlas-{moment:%Y%m%dT%H%M%S.%f}-{label}.duckdb")).exists():
        moment += timedelta(microseconds=1)
    return name


def copy_aside(path: Path, label: str) -> Path:
    """Copy the database file and its log as they are, readable or not, to `backups/`.

    Raises:
        StoreUnavailable: no room, or not to be written; nothing half is left.
    """
    folder = path / "backups"
    target = folder / backup_name(folder, label)
    copies = [(file, target.with_name(name)) for file, name in _backed_up(path, target.name) if file.exists()]
    try:
        folder.mkdir(exist_ok=True)
        with alone(folder):
            for left in folder.glob("*.partial"):  # of a copy that was killed: nobody else makes one now
                left.unlink()
            try:
                for file, copy in copies:
                    shutil.copyfile(file, copy.with_name(f"{copy.name}.partial"))
                for _file, copy in copies:
                    copy.with_name(f"{copy.name}.partial").replace(copy)
            finally:
                for _file, copy in copies:
                    copy.with_name(f"{copy.name}.partial").unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return target


def _backed_up(path: Path, name: str) -> list[tuple[Path, str]]:
    """The log first: a copy without its database is no backup, and nothing takes it for one."""
    return [(wal(path), f"{name}.wal"), (database(path), name)]
