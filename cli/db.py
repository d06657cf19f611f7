"""`atlas db`: the care of the database behind an atlas."""

from __future__ import annotations

import sys

import typer

from atlas.errors import IntegrityError
from cli.common import AtlasPath, resolve

app = typer.Typer(no_args_is_help=True, help="Upgrade, check, back up or rebuild the atlas's database.")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@app.command()
def upgrade(atlas: AtlasPath = None) -> None:
    """Bring the database to this program's schema, after a backup; prints the backup's path.

    Example: atlas db upgrade
    """
    from atlas import migrate
    from atlas.schema import VERSION

    kept = migrate.upgrade(resolve(atlas))
    if kept is None:
        _say(f"the schema is {VERSION} already")
        return
    _say(f"the schema is {VERSION} now; the database as it was:")
    print(kept)


@app.command()
def check(atlas: AtlasPath = None) -> None:
    """Prove that the database, runs/ and edits/ agree; prints one line for each thing that does not (exit code 4).

    Example: atlas db check
    """
    from atlas.check import check as find

    path = resolve(atlas)
    findings = find(path)
    for finding in findings:
        print(finding)
    if findings:
        raise IntegrityError(
            f"{len(findings)} things in the atlas at {path} do not agree; "
            "`atlas db rebuild` makes the database again from runs/ and edits/"
        )
    _say(f"the atlas at {path} agrees with itself")


@app.command()
def backup(atlas: AtlasPath = None) -> None:
    """Copy the database, and its log where there is one, to backups/; prints the copy's path.

    Example: atlas db backup
    """
    from atlas import migrate

    print(migrate.backup(resolve(atlas)))


@app.command()
def path(atlas: AtlasPath = None) -> None:
    """Print where the database file is, whether or not it exists.

    Example: atlas db path
    """
    from atlas.store import database

    print(database(resolve(atlas)))


@app.command()
def rebuild(atlas: AtlasPath = None) -> None:
    """Make the database again from runs/ and edits/; the old one is moved to backups/.

    Runs that are damaged or were never finished are left out, named, and make the exit code 4.

    Example: atlas db rebuild
    """
    from atlas.edits import read_stored
    from atlas.rebuild import rebuild as make

    done = make(resolve(atlas), read_edit=read_stored)
    _say(f"stored {done.runs} runs and {done.edits} edits")
    if done.old is not None:
        _say(f"the old database is {done.old}")
    for reason in done.skipped:
        print(reason)
    if done.skipped:
        raise IntegrityError(f"{len(done.skipped)} of the runs and edits were left out; start their jobs again")
