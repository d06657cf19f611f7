"""Run the migrations up to a revision, on an open connection.

They are hand-written files of `alembic/versions/`, found beside the packages in a checkout and inside the package once
installed. alembic itself is imported only where a migration runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from atlas.errors import StoreUnavailable

if TYPE_CHECKING:
    from alembic.config import Config


def scripts() -> Path:
    """The folder of the migrations, in a checkout or in an installed package.

    Raises:
        StoreUnavailable: it is in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_alembic", package.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreUnavailable(f"the migrations are not installed beside {package}; install neuron-atlas again")


def migrate(connection: Connection, target: str = "head") -> None:
    """Run the migrations up to a revision, in the transaction that the connection is in: all of them or none."""
    from alembic import command

    command.upgrade(config(connection), target)


def config(connection: Connection) -> Config:
    """alembic's configuration, built here as there is no alembic.ini; `env.py` uses the connection."""
    from alembic.config import Config

    options = Config()
    # A percent sign in the path would be read as interpolation.
    options.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    options.set_main_option("path_separator", "os")
    options.attributes["connection"] = connection
    return options
