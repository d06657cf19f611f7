"""`atlas edit bake` and `unbake`: an edit as weights, and the weights without it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas.query.option import described
from cli.common import AtlasPath, resolve, say, tell
from cli.groups import grouped
from ingest.requests.options import MachineOptions, ModelOptions, load


@described
class BakeOptions(MachineOptions, ModelOptions):
    """The model whose weights are changed, in its checkpoint's own precision."""


@grouped
def bake(
    *,
    name: Annotated[str, typer.Argument(help="The edit: name, or name@version.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    model_options: BakeOptions,
    atlas: AtlasPath = None,
) -> None:
    """Write a HuggingFace checkpoint with an edit in its weights, for programs that know nothing of hooks.

    It has the checkpoint's own precision, a model card, and what `atlas edit unbake` needs.

    Example: atlas edit bake no-dog --out no-dog-model
    """
    from atlas.edits.library import read

    edit = read(resolve(atlas), name).data  # read, and the database closed, before the model is loaded
    from atlas.live.bake.checkpoint import check_free, save_baked

    check_free(out)
    live = load(model_options, str(edit.model["name"]), edit.model["revision"], dtype="auto")
    baked = save_baked(live, edit, out)
    say(f"{edit.label}: {baked.neurons:,} neurons, {baked.numbers:,} numbers of {live.dtype} weights changed")
    tell(out)


def unbake(
    folder: Annotated[Path, typer.Argument(help="A folder that `atlas edit bake` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
) -> None:
    """Write the original checkpoint again from a baked one, bit for bit, which is verified.

    Example: atlas edit unbake no-dog-model --out original
    """
    from atlas.live.bake.checkpoint import unbake as restore

    label = restore(folder, out)
    say(f"{label} was taken out of {folder}")
    tell(out)
