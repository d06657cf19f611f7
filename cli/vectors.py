"""Neurons by their vectors: `atlas index build|status`, `similar`, `search`, `match`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.errors import Unsupported, UsageError
from cli.common import AtlasPath, Method, Reduce, Source, Target, existing, pairs, resolve, say
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.questions import print_answer
from cli.render import Output, show
from ingest.requests.options import LoadOptions

if TYPE_CHECKING:
    import pyarrow as pa


app = typer.Typer(no_args_is_help=True, help="Vectors of neurons, and the indexes that search them.")

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="The model's name, or the beginning of its fingerprint.")
]
Encoder = Annotated[
    str | None,
    typer.Option("--encoder", help="minilm (extra `search`), hf:, clip: or clap:ID_OR_FOLDER. [default: minilm]"),
]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="KEY=VALUE for the encoder, such as prefix='a photo of '.")
]
Top = Annotated[int, typer.Option("--top", "-n", "--limit", min=1, help="How many neurons.")]


@app.command()
@grouped
def build(
    *,
    space: Annotated[str, typer.Option("--space", help="decoded, direction, profile or all.")] = "all",
    model: Model = None,
    encoder: Encoder = None,
    option: Options = None,
    method: Method = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Decoded tokens in a neuron's text.")] = 10,
    concepts: Annotated[int, typer.Option("--concepts", min=0, help="Best concepts in a neuron's text.")] = 3,
    share: Annotated[float, typer.Option("--share", help="A concept counts for this best share of its map.")] = 0.01,
    kind: Annotated[
        str | None, typer.Option("--kind", help="flat, fp16 or ivf. [default: flat to 1 GiB, fp16 to 8 GiB, then ivf]")
    ] = None,
    how: LoadOptions,
    no_progress: NoProgress = False,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Give every neuron a vector in a space, and make the index that searches them.

    decoded: the sentence embedding of its decoded tokens and best concepts. direction: its write vector, from the live
    model. profile: its scores over concepts. Vectors are stored as a run and not made twice; the index is a cache.

    Example: atlas index build --space profile --method contribution --source image
    """
    chosen = output.chosen()
    path = existing(atlas)
    from atlas.query.map_spec import MapSpec
    from atlas.vectors.faiss_files import KINDS
    from atlas.vectors.neuron_text import TextOptions
    from atlas.vectors.spaces import DIRECTION, SPACES, require_space

    chosen_spaces = SPACES if space == "all" else (require_space(space),)
    if kind not in (None, *KINDS):
        raise UsageError(f"no kind of index called '{kind}'; there are: {', '.join(KINDS)}")
    if DIRECTION not in chosen_spaces:
        how.refuse(f"none is needed for --space {space}")
    wording = TextOptions(tokens, concepts, share)
    which = MapSpec(None, method, source=source, target=target, reduce=reduce, model=model)
    from ingest.embed.embed import EmbedSpec, embed
    from ingest.embed.encoder import DEFAULT

    spec = EmbedSpec(
        "", which, encoder or DEFAULT, pairs(option or [], "option"), wording, how.execution(), how.content()
    )
    ids, told_defaults = [], set()
    for name in chosen_spaces:
        try:
            with progressing(no_progress) as progress:
                done = embed(path, replace(spec, space=name), progress)
        except Unsupported as error:
            if space != "all":
                raise
            say(f"{name} is left out: {error}")
            continue
        for assumed in done.assumed:
            if assumed not in told_defaults:
                told_defaults.add(assumed)
                say(f"using {assumed}")
        if not done.fresh:
            say(f"{name}: run {done.run_id[:8]} was done before; its index is made again")
        _index(path, done.run_id, kind)
        ids.append(done.run_id)
    show(_states(path, ids), chosen)


def _index(path: Path, run_id: str, kind: str | None) -> None:
    from atlas.vectors.faiss_files import build_index

    build_index(path, run_id, kind)


@app.command()
@grouped
def status(*, output: Output, atlas: AtlasPath = None) -> None:
    """Every run of vectors, and what its index is: fresh, stale (it will not be used), missing or none.

    Example: atlas index status
    """
    show(_states(resolve(atlas)), output.chosen())


def _states(path: Path, ids: list[str] | None = None) -> pa.Table:
    import pyarrow as pa

    from atlas.store.database import open_readonly
    from atlas.vectors.faiss_files import NONE, state_of
    from atlas.vectors.spaces import SPACES, find_spaces

    rows: list[dict[str, Any]] = []
    with open_readonly(path) as connection:
        for s in find_spaces(connection):
            if ids is None or s.run_id in ids:
                about = {"run": s.run_id[:8], "space": s.space, "model": s.model["name"], "rows": s.rows}
                about |= {"dimension": s.dimension, "encoder": s.encoder}
                rows.append({**about, **state_of(connection, path, s.run_id)})
    if ids is None:
        rows += [{"space": s, "state": NONE} for s in SPACES if s not in {r["space"] for r in rows}]
    text, number = pa.string(), pa.int64()
    columns = {"run": text, "space": text, "model": text, "rows": number, "dimension": number, "encoder": text}
    columns |= {"kind": text, "state": text, "bytes": number}
    rows.sort(key=lambda r: SPACES.index(r["space"]))
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


@grouped
def search(
    *,
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[
        str | None, typer.Option("--image", "-i", help="A picture: a file, or DATASET:POINTER (scenes:held_out/3).")
    ] = None,
    audio: Annotated[str | None, typer.Option("--audio", help="A recording: a file, or DATASET:POINTER.")] = None,
    video: Annotated[
        str | None, typer.Option("--video", help="A video: a file, a folder of frames, or DATASET:POINTER.")
    ] = None,
    model: Model = None,
    positions: Annotated[
        str, typer.Option("--positions", help="Of the live model: those of the medium (media), or the last (last).")
    ] = "media",
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="What the live model is asked about it. [default: describe the ...]"),
    ] = None,
    encoder: Encoder = None,
    option: Options = None,
    top: Top = 10,
    how: LoadOptions,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Neurons by what they stand for: near a text in the space `decoded`, or active on a picture, sound or video.

    The live model sees or hears it once, and z says how far a neuron's mean value over its positions lies above the
    usual one. With --encoder clip: or clap: a picture or a recording is searched in the space that the same
    encoder made. Without the extra `search`, or before `atlas index build`, a text's words are matched as they are:
    `match` is by how rare the words are and how early the neuron's tokens have them, 1 where all come first.

    Example: atlas search "an animal that barks" --top 5

    Example: atlas search --image scenes:held_out/0 --top 5
    """
    chosen = output.chosen()
    media = [[name] if name is not None else [] for name in (image, audio, video)]
    if (text is not None) + sum(map(len, media)) != 1:
        raise UsageError('give a text ("an animal that barks"), --image, --audio or --video: one of them')
    if text is not None or encoder is not None:
        how.refuse("the encoder searches here")
    path = existing(atlas)
    why = _only_words(path, model) if text and text.strip() and encoder is None else ""
    if text is not None and why:
        from atlas.questions.search import Search

        say(f"matching words, not meanings: {why}")
        matches = Search(text, top=top, model=model).answer(path)
    else:
        from ingest.embed.search import SearchSpec, by_medium, by_text
        from ingest.run.generate import open_media

        sought = SearchSpec(
            model, encoder, pairs(option or [], "option"), how.execution(), how.content(), top, positions, prompt
        )
        matches = by_text(path, text, sought) if text is not None else by_medium(path, open_media(*media)[0], sought)
    print_answer(matches, chosen)


def _only_words(path: Path, model: str | None) -> str:
    """Why a text can be looked for by its words only; nothing where its meaning can be embedded. Without torch."""
    from atlas.store.database import open_readonly
    from atlas.vectors.spaces import DECODED, find_spaces, pick_model

    with open_readonly(path) as connection:
        fingerprint = None if model is None else str(pick_model(connection, model)[0]["fingerprint"])
        built = find_spaces(connection, DECODED, fingerprint)
    if not built:
        return f"the space '{DECODED}' was never built; `atlas index build --space {DECODED}` builds it"
    if built[0].encoder == "minilm":
        from ingest.encoders import minilm

        try:
            minilm.folder()
        except Unsupported as error:
            return str(error)
    return ""
