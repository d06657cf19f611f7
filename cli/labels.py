"""`atlas labels`: neurons with a name for what they serve, by a stated rule."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.common import AtlasPath, existing, pairs, resolve, say, tell, words
from cli.groups import grouped
from cli.questions import ask, print_answer
from cli.render import Output

app = typer.Typer(no_args_is_help=True, help="Label neurons by what they serve; list and show the labels.")


@app.command()
def make(
    rule: Annotated[str, typer.Option("--rule", help="miner or lape: whose stored maps are read, and how.")] = "miner",
    runs: Annotated[
        str | None, typer.Option("--runs", help="Runs to pool, by the beginnings of their ids. [the newest with maps]")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="LA_MU (default), adaptive, LU_MA, uniform or random.")
    ] = None,
    ratio: Annotated[float | None, typer.Option("--ratio", help="The share of all neurons to choose. [0.02]")] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="prob,mean,max,attn_k,attn_q: five numbers, or a preset.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="special_text_separate (default), special_text_as_one or prompt."),
    ] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="KEY=VALUE for the rule; repeatable.")] = None,
    atlas: AtlasPath = None,
) -> None:
    """Label neurons from the maps that runs with --methods miner or lape stored; no model is loaded.

    Example: atlas labels make --rule miner --strategy LA_MU --ratio 0.02
    """
    from ingest.analyse.labelling import make as start

    plain = {"strategy": strategy, "ratio": ratio, "weights": weights, "split": split}
    given: dict[str, Any] = pairs(param or []) | {k: v for k, v in plain.items() if v is not None}
    path = existing(atlas)
    done = start(path, rule, words(runs), given)
    if not runs:
        say(f"using runs={done.runs[0][:8]}")
    if not done.fresh:
        say(f"run {done.run_id[:8]} was done before; nothing to do")
    tell(done.run_id)


@app.command()
@grouped
def ls(*, output: Output, atlas: AtlasPath = None) -> None:
    """Every label: the rule that gave it, and how many neurons have it.

    Example: atlas labels ls
    """
    from atlas.questions.labels import Labels

    print_answer(Labels().answer(resolve(atlas)), output.chosen())


app.command("show")(ask("labels"))
