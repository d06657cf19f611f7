"""`atlas db`: the care of the database behind an atlas."""

from __future__ import annotations

import typer

from atlas.errors import IntegrityError
from cli.common import AtlasPath, resolve, say, tell

app = typer.Typer(no_args_is_help=True, help="Upgrade, check, back up, compact or rebuild the atlas's database.")


@app.command()
def upgrade(atlas: AtlasPath = None) -> None:
    """Bring the database to this program's schema, after a backup; prints the backup's path.

    Example: atlas db upgrade
    """
    from atlas.maintain import upgrade as maintain_upgrade
    from atlas.store.database import VERSION

    backup = maintain_upgrade.upgrade(resolve(atlas))
    if backup is None:
        say(f"the schema is {VERSION} already")
        return
    say(f"the schema is {VERSION} now; the database as it was:")
    tell(backup)


@app.command()
def check(atlas: AtlasPath = None) -> None:
    """Prove that the database, runs/ and edits/ agree; prints one line for each thing that does not (exit code 4).

    Example: atlas db check
    """
    from atlas.maintain.check import check as find

    path = resolve(atlas)
    findings = find(path)
    for finding in findings:
        tell(finding)
    if findings:
        raise IntegrityError(
            f"the atlas at {path} does not agree with itself ({_count(len(findings), 'finding')}); "
            "`atlas db rebuild` makes the database again from runs/ and edits/"
        )
    say(f"the atlas at {path} agrees with itself")


@app.command()
def backup(atlas: AtlasPath = None) -> None:
    """Copy the database, and its log where there is one, to backups/; prints the copy's path.

    Example: atlas db backup
    """
    from atlas.store import backup as store_backup

    tell(store_backup.backup(resolve(atlas)))


@app.command()
def path(atlas: AtlasPath = None) -> None:
    """Print where the database file is, whether or not it exists.

    Example: atlas db path
    """
    from atlas.store.database import database_file

    tell(database_file(resolve(atlas)))


@app.command()
def rebuild(atlas: AtlasPath = None) -> None:
    """Make the database again from runs/ and edits/; the old one is moved to backups/.

    Runs that are damaged or were never finished are left out, named, and make the exit code 4.

    Example: atlas db rebuild
    """
    from atlas.maintain.rebuild import rebuild as make

    done = make(resolve(atlas))
    say(f"stored {_count(done.runs, 'run')} and {_count(done.edits, 'edit')}")
    if done.old is not None:
        say(f"the old database is {done.old}")
    for reason in done.skipped:
        tell(reason)
    if done.skipped:
        raise IntegrityError(
            f"{_count(len(done.skipped), 'run or edit', 'runs or edits')} left out; start their jobs again"
        )


@app.command()
def compact(atlas: AtlasPath = None) -> None:
    """Give the room that removed rows left in the database back to the disk; needs as much free disk as it takes.

    Example: atlas db compact
    """
    from atlas.maintain.compact import compact as make

    done = make(resolve(atlas))
    say(f"{done.before / 1e6:,.1f} MB before, {done.after / 1e6:,.1f} MB now")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
