"""`atlas runs`: what was done, with what, what became of it; two runs compared; one removed."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, resolve, say, tell
from cli.groups import grouped
from cli.render import Output, show

app = typer.Typer(invoke_without_command=True, help="The runs of the atlas: list, show, compare, remove.")
RunId = Annotated[str, typer.Argument(help="The run, by the beginning of its id.")]


@app.callback()
@grouped
def runs(
    *,
    context: typer.Context,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """The runs of the atlas: what was done, with what, and what became of it.

    Example: atlas runs

    Example: atlas runs show 298a
    """
    if context.invoked_subcommand is None:
        from atlas.api.atlas import Atlas

        show(Atlas(resolve(atlas)).listing("runs"), output.chosen())


@app.command("show")
@grouped
def show_(*, run: RunId, output: Output, atlas: AtlasPath = None) -> None:
    """Everything that made a run's numbers: model, weights, dataset, job with all parameters, versions, machine, cost.

    Example: atlas runs show 298a
    """
    from atlas.query.run_record import facts

    chosen = output.chosen()
    found = facts(resolve(atlas), run)
    show(found.table(), chosen, more={"run": found.whole})


@app.command()
@grouped
def diff(
    *,
    first: RunId,
    second: Annotated[str, typer.Argument(help="The other run.")],
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """What two runs differ in, one row a fact: the job, the weights, the dataset, the versions, the outcome.

    Example: atlas runs diff 298a f815
    """
    from atlas.query.run_record import difference

    chosen = output.chosen()
    found = difference(resolve(atlas), first, second)
    show(found, chosen)
    say(f"{found.num_rows} facts differ" if found.num_rows else "the runs do not differ in anything that is recorded")


@app.command()
def rm(
    run: Annotated[list[str], typer.Argument(help="Runs, by the beginnings of their ids.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    atlas: AtlasPath = None,
) -> None:
    """Remove runs: their rows and their folders. What other runs share with them stays, edits made from them too.

    Example: atlas runs rm 298a --yes
    """
    from atlas.maintain.remove_runs import remove_runs, resolved

    path = resolve(atlas)
    ids = resolved(path, run)
    if not yes:
        try:
            yes = typer.confirm(f"remove {', '.join(i[:8] for i in ids)} from {path} for good?", err=True)
        except typer.Abort:
            raise UsageError("nobody answered; --yes removes without asking") from None
        if not yes:
            say("nothing was removed")
            raise typer.Exit(1)
    for done in remove_runs(path, ids):
        tell(f"removed {done.run_id[:8]}: {done.maps} maps, {done.bytes / 1e6:,.1f} MB of files")
    say("`atlas db compact` gives the room in the database back to the disk")


@app.command()
@grouped
def ls(*, output: Output, atlas: AtlasPath = None) -> None:
    """The same as `atlas runs`.

    Example: atlas runs ls
    """
    from atlas.api.atlas import Atlas

    table: pa.Table = Atlas(resolve(atlas)).listing("runs")
    show(table, output.chosen())
