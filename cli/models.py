"""`atlas models`: what there is, and what works with which family."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import typer

from cli.common import AtlasPath, listing
from cli.render import Csv, Format, Json, chosen_format, show

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, form: Format = None, as_json: Json = False, as_csv: Csv = False, atlas: AtlasPath = None
) -> None:
    """The models in the atlas, and the embedded ones that `--model` knows by name.

    Example: atlas models
    """
    if context.invoked_subcommand is not None:
        return
    from atlas.errors import StoreUnavailable
    from ingest import zoo

    try:
        rows: list[dict[str, Any]] = listing("models", atlas).to_pylist()
    except StoreUnavailable:
        rows = []
    have = {row["name"] for row in rows}
    rows = [{"status": "in the atlas", **row} for row in rows]
    rows += [{"status": "embedded", "name": name} for name in zoo.names() if name not in have]
    show(pa.Table.from_pylist(rows), chosen_format(form, as_json, as_csv))


@app.command()
def capabilities(form: Format = None, as_json: Json = False, as_csv: Csv = False) -> None:
    """What was found to work with each model family, on tiny random models of the real classes (docs/models.md).

    "-": the family has no such thing; "no": refused, and the notes say why.

    Example: atlas models capabilities
    """
    from atlas.capabilities import table

    show(table(), chosen_format(form, as_json, as_csv))
