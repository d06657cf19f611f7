"""`atlas site`: the pages of an atlas as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import AtlasPath, resolve, say, tell, words
from cli.groups import grouped

Out = Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an empty one.")]
Concepts = Annotated[str | None, typer.Option("--concepts", help="Only these concepts: dog,cat. [default: all]")]
Top = Annotated[int, typer.Option("--top", "-n", help="Pages for so many neurons of each concept and source.", min=1)]


@grouped
def site(*, out: Out, concepts: Concepts = None, top: Top = 12, atlas: AtlasPath = None) -> None:
    """Write the pages of `atlas serve` as files, for any static host or to be opened from the folder: concepts, their
    best neurons with small pictures, methods, edits and runs, with the rows behind them as CSV and JSON.

    Example: atlas site --out dogs --concepts dog
    """
    from cli.web.site import write

    written = write(resolve(atlas), out, concepts=words(concepts), top=top)
    counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(written.files.items()))
    for address, why in written.missing.items():
        say(f"left out: {address} ({why})")
    tell(f"{out / 'index.html'}: {counts}")
