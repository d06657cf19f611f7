"""`atlas select`: neurons saved under a name, to ask and to edit with; nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atlas.errors import UsageError
from atlas.questions.query import Query
from cli.common import AtlasPath, Of, note_defaults, resolve, say, tell
from cli.groups import grouped
from cli.options import filled
from cli.questions import print_answer, with_options
from cli.render import Output, show

app = typer.Typer(no_args_is_help=True, help="Save neurons under a name, list them, and combine them: 'dog & cat'.")


def save(
    *,
    name: Annotated[str, typer.Argument(help="A name for the selection, for example dog.")],
    of: Of = None,
    note: Annotated[str | None, typer.Option("--note", help="Your own words about it.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one of that name.")] = False,
    atlas: AtlasPath = None,
    **given: Any,
) -> None:
    """Save what a question finds (the options are those of `atlas query`), or what other selections have in common.

    Example: atlas select save dog --concept dog --source text --top 40

    Example: atlas select save pets --of 'dog & cat'
    """
    from atlas.api.atlas import Atlas

    opened = Atlas(resolve(atlas))
    asking = any(value not in (None, False) for value in given.values())
    if asking == (of is not None):
        raise UsageError("choose neurons by a question (--concept dog --top 40) or by --of 'dog & cat': one of the two")
    chosen = opened.ask(filled(Query, given)) if of is None else opened.selection(of)
    if of is None:
        note_defaults(chosen)
    saved = opened.save_selection(name, chosen, note=note, replace=replace)
    tell(f"{saved.name}: {len(saved.neurons)} neurons")


app.command("save")(with_options(save, Query))


@app.command()
@grouped
def ls(*, output: Output, atlas: AtlasPath = None) -> None:
    """The saved selections.

    Example: atlas select ls
    """
    from atlas.api.atlas import Atlas

    print_answer(Atlas(resolve(atlas)).selections(), output.chosen())


@app.command("show")
@grouped
def show_(
    *,
    expression: Annotated[str, typer.Argument(help="A selection's name, or several joined: 'dog & cat'.")],
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """The neurons of a selection, or of several joined by & | - and parentheses; with --json where they came from.

    Example: atlas select show 'dog & cat'
    """
    from atlas.api.atlas import Atlas

    chosen = output.chosen()
    neurons = Atlas(resolve(atlas)).selection(expression)
    show(neurons.to_arrow(), chosen, more={"provenance": neurons.provenance})
    say(f"{len(neurons)} neurons")


@app.command()
def rm(
    name: Annotated[str, typer.Argument(help="The selection's name.")],
    atlas: AtlasPath = None,
) -> None:
    """Remove a saved selection; edits made from it stay.

    Example: atlas select rm dog
    """
    from atlas.api.atlas import Atlas

    Atlas(resolve(atlas)).remove_selection(name)
    tell(f"removed {name}")
