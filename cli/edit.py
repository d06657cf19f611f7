"""`atlas edit`: list, show, compare, remove, apply and hand on stored edits; `edit_make` and `edit_solve` make them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from atlas.errors import AtlasError
from cli.common import AtlasPath, Audios, Images, MaxNewTokens, PromptText, Videos, picture_file, resolve, say, tell
from cli.edit_bake import bake, unbake
from cli.edit_make import compose, create
from cli.edit_solve import solve
from cli.groups import grouped
from cli.jobs import LoadOptions, ModelOptions, live_model
from cli.questions import ask
from cli.render import Output, show

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
    import numpy as np

    from atlas.api.atlas import Atlas

    chosen = output.chosen()
    edit = Atlas(resolve(atlas)).edit(name).data
    rows = []
    for change in edit.changes:
        delta = edit.intervention.delta(change)
        row = {"neuron": str(change.neuron), "gain": change.gain, "bias": change.bias, "noise": change.noise}
        row |= {"where": str(change.where), "delta": None if delta is None else float(np.linalg.norm(delta))}
        rows.append(row)
    facts: dict[str, object] = {"edit": edit.label, "concept": edit.concept, "tap": edit.tap, "model": dict(edit.model)}
    facts |= {"created_at": edit.created_at, "note": edit.note, "seed": edit.intervention.seed}
    facts |= {"provenance": dict(edit.provenance)}
    say(
        f"{edit.label} of {edit.model['name']} (weights {edit.fingerprint[:12]}), concept {edit.concept}, "
        f"tap {edit.tap}{f', by {edit.solver}' if edit.solver else ''}{f': {edit.note}' if edit.note else ''}"
    )
    show(pa.Table.from_pylist(rows), chosen, more=facts)


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
    prompt: PromptText,
    image: Images = None,
    audio: Audios = None,
    video: Videos = None,
    which: ModelOptions,
    how: LoadOptions,
    max_new_tokens: MaxNewTokens = 50,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Save what is drawn without and with the edit, side by side.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the pictures' noise.")] = 0,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """The live model's answer without and with an edit, side by side. The model's weights are not touched.

    Example: atlas edit apply no-dog --image dog.jpg --prompt "what does this animal do?"
    """
    from atlas.api.atlas import Atlas

    chosen = output.chosen()
    stored = Atlas(resolve(atlas)).edit(name)  # read, and the database closed, before the model is loaded
    picture_file(draw)
    from ingest.run.generate import generate_answer, open_media, side_by_side

    media = open_media(image, audio, video)
    made_for = stored.data.model
    live = live_model(which, how, str(made_for["name"]), made_for["revision"])
    noise = seed if draw else None
    without, before = generate_answer(live, prompt, media, max_new_tokens=max_new_tokens, seed=noise)
    with stored.on(live):
        edited, after = generate_answer(live, prompt, media, max_new_tokens=max_new_tokens, seed=noise)
    rows = [{"edit": "(none)", "answer": without}, {"edit": stored.data.label, "answer": edited}]
    show(pa.Table.from_pylist(rows), chosen)
    if draw is not None:
        for label, picture in (("the model", before), (stored.data.label, after)):
            if picture is None:
                say(f"the answer of {label} has no picture")
        if before is None and after is None:
            raise AtlasError("nothing was drawn; ask for a picture (`draw a red dog.`), or leave out --draw")
        side_by_side([before, after]).save(draw)
        say(f"drawn: {draw}")


@app.command()
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The file to write, for example no-dog.safetensors.")],
    atlas: AtlasPath = None,
) -> None:
    """Write an edit to one file, to hand on: everything it does, and where it came from.

    Example: atlas edit export no-dog no-dog.safetensors
    """
    from atlas.api.atlas import Atlas
    from atlas.edits.single_file import write_bundle

    write_bundle(Atlas(resolve(atlas)).edit(name).data, file)
    tell(file)


@app.command("import")
def import_edit(
    file: Annotated[Path, typer.Argument(help="A file that `atlas edit export` wrote.")],
    name: Annotated[str | None, typer.Option("--name", help="Another name for it here.")] = None,
    atlas: AtlasPath = None,
) -> None:
    """Store an edit that someone handed on, as the next version of its name; its sums and numbers are checked.

    Example: atlas edit import no-dog.safetensors
    """
    from atlas.api.atlas import Atlas

    edit = Atlas(resolve(atlas)).import_edit(file, name=name)
    tell(f"{edit.label}: {len(edit.neurons)} neurons of {edit.model['name']} (weights {edit.fingerprint[:12]})")


app.command()(bake)
app.command()(unbake)
