"""`atlas use`: which model, dataset and runs are meant where a question leaves them open."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, existing, say, words
from cli.groups import grouped
from cli.render import Output, show


@grouped
def use(
    *,
    model: Annotated[str | None, typer.Argument(help="The model (`atlas models`).")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="The dataset (`atlas datasets`).")] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Only these runs, by the beginnings of their ids: 298a,f815.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Pin nothing.")] = False,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Pin a model, a dataset and runs for all questions that leave them open; without any, show what is pinned.

    An atlas without pins answers from its newest model and dataset, and of each map from the run with the most
    examples, so that a later ingest can change what is answered. Pins are kept in the atlas.

    Example: atlas use tiny-llava --dataset scenes

    Example: atlas use --run 298a,f815

    Example: atlas use --clear
    """
    from atlas.api.atlas import Atlas
    from atlas.query.pins import as_row

    form = output.chosen()
    opened = Atlas(existing(atlas))
    if clear:
        if model or dataset or run:
            raise UsageError("--clear unpins everything; give what is to be pinned without it")
        opened.use_nothing()
        say("nothing is pinned")
        return
    pinned = as_row(opened.use(model, dataset=dataset, runs=words(run)))
    types = pa.schema([("model", pa.string()), ("dataset", pa.string()), ("runs", pa.list_(pa.string()))])
    show(pa.Table.from_pylist([pinned], schema=types), form)
