"""`atlas models`: what there is, and what works with which family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, resolve, tell
from cli.groups import grouped
from cli.render import Output, show

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@grouped
def models(*, context: typer.Context, output: Output, atlas: AtlasPath = None) -> None:
    """The models in the atlas, and the embedded ones that `--model` knows by name.

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
