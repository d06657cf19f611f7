"""`atlas runs`: what was done, with what, what became of it; two runs compared; one removed."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, resolve, say, tell
from cli.groups import grouped
from cli.questions import ask, print_answer
from cli.render import Output

app = typer.Typer(invoke_without_command=True)


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
        from atlas.questions.runs import Runs

        print_answer(Runs().answer(resolve(atlas)), output.chosen())


app.command("show")(ask("run"))
app.command("diff")(ask("run_diff"))


@app.command()
def rm(
    run: Annotated[list[str], typer.Argument(help="Runs, by the beginnings of their ids.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    atlas: AtlasPath = None,
) -> None:
    """Remove runs: their rows and their folders. What other runs share with them stays, edits made from them too.

    Example: atlas runs rm 298a --yes
    """
    from atlas.maintain.remove_runs import full_ids, remove_runs

    path = resolve(atlas)
    ids = full_ids(path, run)
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


app.command("ls")(ask("runs"))
