"""`atlas edit`: store, list, show, remove and apply edits of a model's neurons."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
import typer

from cli.common import (
    AtlasPath,
    Concept,
    Device,
    Dtype,
    MaxNewTokens,
    Method,
    ModelName,
    Reduce,
    Select,
    Source,
    Target,
    note_assumed,
    resolve,
    say,
)
from cli.render import Csv, Format, Json, chosen_format, show

app = typer.Typer(no_args_is_help=True, help="Store, list, show, remove and apply edits of a model's neurons.")

Name = Annotated[str, typer.Argument(help="The edit: name, or name@version.")]
Images = Annotated[list[str] | None, typer.Option("--image", "-i", help="A picture: a file, or DATASET:POINTER.")]
PromptText = Annotated[str, typer.Option("--prompt", "-p", help="What to ask the model.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for the edit, for example no-dog.")],
    concept: Concept,
    method: Method = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    model: ModelName = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="The dataset's name.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="The run, by the beginning of its id.")] = None,
    layers: Annotated[str | None, typer.Option("--layers", help="Only neurons of these layers: 3, 8-15.")] = None,
    select: Select = None,
    top: Annotated[
        int | None,
        typer.Option("--top", "-n", min=1, help="How many neurons. [default: 40, or all that --select does]"),
    ] = None,
    set_to: Annotated[
        float | None, typer.Option("--set", help="Replace the values by this constant; 0 ablates.")
    ] = None,
    scale: Annotated[float | None, typer.Option("--scale", help="Multiply the values by this.")] = None,
    shift: Annotated[float | None, typer.Option("--shift", help="Add this to the values.")] = None,
    mean: Annotated[bool, typer.Option("--mean", help="Replace each value by the neuron's stored mean.")] = False,
    atlas: AtlasPath = None,
) -> None:
    """Choose a concept's best neurons and store what becomes of them; a name given again gets the next version.

    Example: atlas edit create no-dog --concept dog --method contribution --source text --top 40 --set 0
    """
    from atlas.api import Atlas
    from atlas.neurons import parse_layers
    from atlas.queries import Which
    from atlas.rules import Rule

    there = Atlas(resolve(atlas))
    which = Which(concept, method, source, target, reduce, model, dataset, run)
    rule = Rule.parse(select) if select else None
    found, _ = there.query_sql(
        which, rule=rule, layers=parse_layers(layers) if layers else (), top=top if rule or top else 40
    )
    note_assumed(found.provenance)
    edit = there.create_edit(name, found, set_to=set_to, scale=scale, shift=shift, mean=mean)
    print(f"{edit.label}: {len(edit.changes)} neurons of {edit.model['name']}")


@app.command()
def ls(form: Format = None, as_json: Json = False, as_csv: Csv = False, atlas: AtlasPath = None) -> None:
    """The stored edits.

    Example: atlas edit ls
    """
    from atlas.api import Atlas

    show(Atlas(resolve(atlas)).listing("edits"), chosen_format(form, as_json, as_csv))


@app.command("show")
def show_edit(
    name: Name, form: Format = None, as_json: Json = False, as_csv: Csv = False, atlas: AtlasPath = None
) -> None:
    """An edit's changes, and with --json where they came from.

    Example: atlas edit show no-dog
    """
    from atlas.api import Atlas

    chosen = chosen_format(form, as_json, as_csv)
    edit = Atlas(resolve(atlas)).edit(name).data
    rows = [{"neuron": str(c.neuron), "gain": c.gain, "bias": c.bias} for c in edit.changes]
    facts = {"edit": edit.label, "concept": edit.concept, "tap": edit.tap, "model": dict(edit.model)}
    facts |= {"created_at": edit.created_at, "provenance": dict(edit.provenance)}
    say(
        f"{edit.label} of {edit.model['name']} (weights {edit.fingerprint[:12]}), "
        f"concept {edit.concept}, tap {edit.tap}"
    )
    show(pa.Table.from_pylist(rows), chosen, more=facts)


@app.command()
def rm(name: Name, atlas: AtlasPath = None) -> None:
    """Remove an edit: one version (name@version), or all of them. Effects measured with it stay.

    Example: atlas edit rm no-dog@1
    """
    from atlas.api import Atlas

    for label in Atlas(resolve(atlas)).remove_edit(name):
        print(f"removed {label}")


@app.command()
def apply(
    name: Name,
    prompt: PromptText,
    image: Images = None,
    model: ModelName = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    max_new_tokens: MaxNewTokens = 50,
    form: Format = None,
    as_json: Json = False,
    atlas: AtlasPath = None,
) -> None:
    """The live model's answer without and with an edit, side by side. The model's weights are not touched.

    Example: atlas edit apply no-dog --image dog.jpg --prompt "what does this animal do?"
    """
    from atlas.api import Atlas

    chosen = chosen_format(form, as_json)
    stored = Atlas(resolve(atlas)).edit(name)  # read, and the database closed, before the model is loaded
    from ingest.asking import load_for, open_pictures

    pictures = open_pictures(image or [])
    made_for = stored.data.model
    revision = None if model else made_for["revision"]
    live = load_for(model or str(made_for["name"]), revision=revision, device=device, dtype=dtype)
    without = live.ask(prompt, pictures, max_new_tokens=max_new_tokens)
    with stored.on(live):
        edited = live.ask(prompt, pictures, max_new_tokens=max_new_tokens)
    rows = [{"edit": "(none)", "answer": without}, {"edit": stored.data.label, "answer": edited}]
    show(pa.Table.from_pylist(rows), chosen)
