"""`atlas select`: neurons saved under a name, to ask and to edit with; nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atlas.errors import UsageError
from cli.ask import Dataset, Layers, Model, Run, Supercategory
from cli.common import AtlasPath, Method, Of, Reduce, Select, Source, Target, note_assumed, resolve, say
from cli.filters import (
    ConceptPattern,
    Effect,
    Inside,
    Label,
    Percentile,
    Rank,
    Score,
    Sort,
    Token,
    Top,
    WhereText,
    Z,
    asked,
)
from cli.render import Csv, Format, Json, chosen_format, show

app = typer.Typer(no_args_is_help=True, help="Save neurons under a name, list them, and combine them: 'dog & cat'.")


@app.command()
def save(
    name: Annotated[str, typer.Argument(help="A name for the selection, for example dog.")],
    of: Of = None,
    concept: ConceptPattern = None,
    method: Method = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Dataset = None,
    run: Run = None,
    supercategory: Supercategory = None,
    layers: Layers = None,
    token: Token = None,
    label: Label = None,
    inside: Inside = None,
    effect: Effect = None,
    score: Score = None,
    rank: Rank = None,
    percentile: Percentile = None,
    z: Z = None,
    where: WhereText = None,
    select: Select = None,
    sort: Sort = None,
    top: Top = None,
    note: Annotated[str | None, typer.Option("--note", help="Your own words about it.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one of that name.")] = False,
    atlas: AtlasPath = None,
) -> None:
    """Save what a question finds (the options are those of `atlas query`), or what other selections have in common.

    Example: atlas select save dog --concept dog --source text --top 40

    Example: atlas select save pets --of 'dog & cat'
    """
    from atlas.api import Atlas

    names = {"concept": concept, "method": method, "source": source, "target": target, "reduce": reduce}
    names |= {"model": model, "dataset": dataset, "run": run, "supercategory": supercategory}
    neurons: dict[str, Any] = {"layers": layers, "token": token, "label": label, "selection": inside, "effect": effect}
    neurons |= {"score": score, "rank": rank, "percentile": percentile, "z": z, "where": where}
    there = Atlas(resolve(atlas))
    given = any(v is not None for v in (*names.values(), *neurons.values(), select, sort, top))
    if given == (of is not None):
        raise UsageError("choose neurons by a question (--concept dog --top 40) or by --of 'dog & cat': one of the two")
    if of is not None:
        found = there.selection(of)
    else:
        found, _ = there.ask(asked(names, neurons, select, sort, top, None))
        note_assumed(found.provenance)
    made = there.save_selection(name, found, note=note, replace=replace)
    print(f"{made.name}: {len(made.neurons)} neurons")


@app.command()
def ls(form: Format = None, as_json: Json = False, as_csv: Csv = False, atlas: AtlasPath = None) -> None:
    """The saved selections.

    Example: atlas select ls
    """
    from atlas.api import Atlas

    show(Atlas(resolve(atlas)).selections(), chosen_format(form, as_json, as_csv))


@app.command("show")
def show_(
    expression: Annotated[str, typer.Argument(help="A selection's name, or several joined: 'dog & cat'.")],
    form: Format = None,
    as_json: Json = False,
    as_csv: Csv = False,
    atlas: AtlasPath = None,
) -> None:
    """The neurons of a selection, or of several joined by & | - and parentheses; with --json where they came from.

    Example: atlas select show 'dog & cat'
    """
    from atlas.api import Atlas

    chosen = chosen_format(form, as_json, as_csv)
    found = Atlas(resolve(atlas)).selection(expression)
    show(found.to_arrow(), chosen, more={"provenance": found.provenance})
    say(f"{len(found)} neurons")


@app.command()
def rm(
    name: Annotated[str, typer.Argument(help="The selection's name.")],
    atlas: AtlasPath = None,
) -> None:
    """Remove a saved selection; edits made from it stay.

    Example: atlas select rm dog
    """
    from atlas.api import Atlas

    Atlas(resolve(atlas)).remove_selection(name)
    print(f"removed {name}")
