"""`atlas edit`: list, show, compare, remove, apply and hand on stored edits; `edit_make` and `edit_solve` make them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from atlas.errors import AtlasError
from cli.common import AtlasPath, resolve, say, tell
from cli.edit_bake import bake, unbake
from cli.edit_make import compose, create
from cli.edit_solve import solve
from cli.groups import grouped
from cli.questions import ask
from cli.render import Output, show
from ingest.requests.generate import Generate

app = typer.Typer(no_args_is_help=True, help="Make, list, compare, apply and hand on edits of a model's neurons.")

Name = Annotated[str, typer.Argument(help="The edit: name, or name@version.")]

app.command()(create)
app.command()(solve)
app.command()(compose)


app.command("ls")(ask("edits"))
app.command("diff")(ask("edit_diff"))


@app.command("show")
@grouped
def show_edit(*, name: Name, output: Output, atlas: AtlasPath = None) -> None:
    """An edit's changes, and with --json where they came from.

    Example: atlas edit show no-dog
    """
    from atlas.edits.library import read

    chosen = output.chosen()
    stored = read(resolve(atlas), name)
    edit = stored.data
    facts: dict[str, object] = {"edit": edit.label, "concept": edit.concept, "tap": edit.tap, "model": dict(edit.model)}
    facts |= {"created_at": edit.created_at, "note": edit.note, "seed": edit.intervention.seed}
    facts |= {"provenance": dict(edit.provenance)}
    say(
        f"{edit.label} of {edit.model['name']} (weights {edit.fingerprint[:12]}), concept {edit.concept}, "
        f"tap {edit.tap}{f', by {edit.solver}' if edit.solver else ''}{f': {edit.note}' if edit.note else ''}"
    )
    show(stored.changes(), chosen, more=facts)


@app.command()
def rm(name: Name, atlas: AtlasPath = None) -> None:
    """Remove an edit: one version (name@version), or all of them. Effects measured with it stay.

    Example: atlas edit rm no-dog@1
    """
    from atlas.api.atlas import Atlas

    for label in Atlas(resolve(atlas)).remove_edit(name):
        tell(f"removed {label}")


@app.command()
@grouped
def apply(
    *,
    name: Name,
    request: Generate,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """The live model's answer without and with an edit, side by side. The model's weights are not touched.

    Example: atlas edit apply no-dog --image dog.jpg --prompt "what does this animal do?"
    """
    from atlas.edits.library import read

    chosen = output.chosen()
    stored = read(resolve(atlas), name)  # read, and the database closed, before the model is loaded
    without, edited = request.compare(stored)
    rows = [{"edit": "(none)", "answer": without.text}, {"edit": stored.label, "answer": edited.text}]
    show(pa.Table.from_pylist(rows), chosen)
    if request.draw is not None:
        for label, answer in (("the model", without), (stored.label, edited)):
            if answer.picture is None:
                say(f"the answer of {label} has no picture")
        if without.picture is None and edited.picture is None:
            raise AtlasError("nothing was drawn; ask for a picture (`draw a red dog.`), or leave out --draw")
        say(f"drawn: {request.draw}")


@app.command()
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The file to write, for example no-dog.safetensors.")],
    atlas: AtlasPath = None,
) -> None:
    """Write an edit to one file, to hand on: everything it does, and where it came from.

    Example: atlas edit export no-dog no-dog.safetensors
    """
    from atlas.edits.library import read
    from atlas.edits.single_file import write_bundle

    write_bundle(read(resolve(atlas), name).data, file)
    tell(file)


@app.command("import")
def import_edit(
    file: Annotated[Path, typer.Argument(help="A file that `atlas edit export` wrote.")],
    name: Annotated[str | None, typer.Option("--name", help="Another name for it here.")] = None,
    atlas: AtlasPath = None,
) -> None:
    """Store an edit that someone shared, as the next version of its name; its sums and numbers are checked.

    Example: atlas edit import no-dog.safetensors
    """
    from atlas.api.atlas import Atlas

    edit = Atlas(resolve(atlas)).import_edit(file, name=name).data
    tell(f"{edit.label}: {len(edit.neurons)} neurons of {edit.model['name']} (weights {edit.fingerprint[:12]})")


app.command()(bake)
app.command()(unbake)
