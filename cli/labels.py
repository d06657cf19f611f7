"""`atlas labels`: neurons with a name for what they serve, by a stated rule."""

from __future__ import annotations

import typer

from cli.common import AtlasPath, existing, resolve, say, tell
from cli.groups import grouped
from cli.questions import ask, print_answer
from cli.render import Output
from ingest.requests.make_labels import MakeLabels

app = typer.Typer(no_args_is_help=True, help="Label neurons by what they serve; list and show the labels.")


@app.command()
@grouped
def make(*, request: MakeLabels, atlas: AtlasPath = None) -> None:
    """Label neurons from the maps that runs with --methods miner or lape stored; no model is loaded.

    Example: atlas labels make --rule miner --strategy LA_MU --ratio 0.02
    """
    labelled = request.perform(existing(atlas)).facts
    if not request.runs:
        say(f"using runs={labelled['runs'][0][:8]}")
    if not labelled["fresh"]:
        say(f"run {labelled['run_id'][:8]} was done before; nothing to do")
    tell(labelled["run_id"])


@app.command()
@grouped
def ls(*, output: Output, atlas: AtlasPath = None) -> None:
    """Every label: the rule that gave it, and how many neurons have it.

    Example: atlas labels ls
    """
    from atlas.questions.labels import Labels

    print_answer(Labels().answer(resolve(atlas)), output.chosen())


app.command("show")(ask("labels"))
