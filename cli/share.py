"""`atlas export`, `import`, `push`, `pull`: an atlas, or a part of it, handed on; nothing here loads torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, resolve, say, tell, words
from cli.groups import grouped
from cli.render import Output, show

if TYPE_CHECKING:
    from atlas.share.choice import Choice
    from atlas.share.export import Exported
    from atlas.share.listing import ImportOutcome

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A dataset repository on the HuggingFace Hub.")]


@dataclass(frozen=True)
class Part:
    """The part of an atlas that is handed on."""

    run: Annotated[
        str | None, typer.Option("--run", help="Only these runs, by the beginnings of their ids: 298a,f815.")
    ] = None
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only runs of these models (`atlas models`).")] = (
        None
    )
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="Only runs of these datasets.")] = None
    kind: Annotated[str | None, typer.Option("--kind", help="Only runs of these kinds: ingest,evaluate.")] = None
    concept: Annotated[
        str | None,
        typer.Option("--concept", "-c", help="Only maps of these concepts: dog,cat or 'd*'; * alone is all."),
    ] = None
    method: Annotated[str | None, typer.Option("--method", help="Only maps of these methods.")] = None
    source: Annotated[str | None, typer.Option("--source", help="Only maps of these sources: image,text.")] = None
    target: Annotated[str | None, typer.Option("--target", help="Only maps of these targets.")] = None
    reduce: Annotated[str | None, typer.Option("--reduce", help="Only maps of these reductions.")] = None
    no_edits: Annotated[bool, typer.Option("--no-edits", help="Neither edits nor selections.")] = False

    def choice(self) -> Choice:
        from atlas.share.choice import Choice

        given = asdict(self)
        given.pop("no_edits")
        return Choice(**{name: words(text) for name, text in given.items()}, edits=not self.no_edits)


BUNDLE, EMBEDDING_ATLAS = "bundle", "embedding-atlas"


@grouped
def export(
    *,
    folder: Annotated[Path, typer.Argument(help="The bundle: a folder that is not there yet; of a map, a file.")],
    part: Part,
    output: Output,
    as_: Annotated[
        str, typer.Option("--as", help="bundle, or embedding-atlas: a map of neurons as Parquet (x, y, label, image).")
    ] = BUNDLE,
    space: Annotated[str, typer.Option("--space", help="Of a map: decoded, direction or profile.")] = "profile",
    images: Annotated[int, typer.Option("--images", help="Of a map: how many neurons have a picture.", min=0)] = 1000,
    atlas: AtlasPath = None,
) -> None:
    """Write the atlas, or what is chosen of it, as a bundle to hand on: Parquet and JSON with sums, licences, a card.

    Of a choice of maps each run is written as an extract, a run of its own. No path of this machine goes along.

    Example: atlas export my-bundle

    Example: atlas export dogs --concept dog --method contribution

    Example: atlas export neurons.parquet --as embedding-atlas --space profile
    """
    if as_ == EMBEDDING_ATLAS:
        _export_map(resolve(atlas), folder, part, space, images)
        return
    if as_ != BUNDLE:
        raise UsageError(f"[[as]] is {BUNDLE} or {EMBEDDING_ATLAS}, not '{as_}'")
    from atlas.share.export import export as write

    chosen = output.chosen()
    exported = write(resolve(atlas), folder, part.choice())
    show(_listed(exported), chosen)
    say(
        f"{exported.bytes / 1e6:,.1f} MB in {folder}; `atlas import {folder}` reads it, "
        "`atlas push OWNER/NAME` sends one"
    )


def _export_map(path: Path, file: Path, part: Part, space: str, images: int) -> None:
    """The map of neurons of one model."""
    given = [name for name, value in asdict(part).items() if value and name != "model"]
    if given:
        raise UsageError(f"a map has all neurons of a model; leave out [[{given[0]}]]")
    from cli.neuron_map import write

    about = write(path, file, space, part.model, images)
    for note in about["notes"]:
        say(f"using {note}")
    shares = " and ".join(f"{100 * share:.0f} %" for share in about["explained"])
    say(
        f"labels: the best concept by {about['method']} from {about['source']}; x and y: the first principal "
        f"components of the space '{about['space']}', {shares} of its variance"
    )
    tell(f"{file}: {about['neurons']:,} neurons of {about['model']}, {about['images']:,} with a picture")
    say(f"`embedding-atlas {file} --x x --y y --text text --image image` opens it (pip install embedding-atlas)")


@grouped
def import_(
    *,
    folder: Annotated[Path, typer.Argument(help="A bundle that `atlas export` wrote.")],
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Store a bundle in the atlas, after checking all of it; one row for each run, edit and selection it has.

    What is there already is skipped. A run that is there with other content stays as it is (exit code 4), an edit or
    a selection of a taken name gets the next one. Interrupted, the same command stores the rest.

    Example: atlas import my-bundle --atlas mine.atlas
    """
    from atlas.share.import_bundle import import_bundle

    chosen = output.chosen()
    _report(import_bundle(folder, resolve(atlas)), chosen)


@grouped
def push(
    *,
    repository: Repository,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. [default: private]")] = False,
    message: Annotated[str | None, typer.Option("--message", help="The commit's message.")] = None,
    part: Part,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Send the atlas, or what is chosen of it, to a dataset repository on the HuggingFace Hub, as a bundle.

    The token is HF_TOKEN's, or that of `hf auth login`. What the repository had of another bundle is removed from its
    newest revision.

    Example: atlas push me/my-atlas --message "the contribution maps" --method contribution
    """
    from atlas.share.export import export as write
    from atlas.share.hub import push as send
    from atlas.share.hub import require_online, temporary_folder

    chosen = output.chosen()
    require_online(repository)
    with temporary_folder() as place:
        exported = write(resolve(atlas), place, part.choice())
        done = send(place, repository, public=public, message=message)
    show(_listed(exported), chosen)
    say(f"pushed {repository}@{done.commit}: {done.url}")


@grouped
def pull(
    *,
    repository: Repository,
    revision: Annotated[str | None, typer.Option("--revision", help="A branch, a tag or a commit.")] = None,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Fetch a bundle from the HuggingFace Hub and store it in the atlas, as `atlas import` does.

    Example: atlas pull me/my-atlas --revision main
    """
    from atlas.share.hub import fetched_bundle
    from atlas.share.import_bundle import import_bundle

    chosen = output.chosen()
    path = resolve(atlas)
    with fetched_bundle(repository, path, revision) as (folder, commit):
        say(f"fetched {repository}@{commit}")
        outcomes = import_bundle(folder, path)
    _report(outcomes, chosen)


def _listed(exported: Exported) -> pa.Table:
    """One row for each run, edit and selection of a bundle."""
    names = ("model", "dataset", "maps", "scores", "examples")
    rows: list[dict[str, Any]] = [
        {"name": r["run_id"][:8], "kind": r["kind"], **{n: r[n] for n in names}} for r in exported.runs
    ]
    rows += [{"name": label, "kind": "edit"} for label in exported.edits]
    rows += [{"name": name, "kind": "selection"} for name in exported.selections]
    types = [*((n, pa.string()) for n in ("name", "kind", *names[:2])), *((n, pa.int64()) for n in names[2:])]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


def _report(outcomes: list[ImportOutcome], form: str) -> None:
    from atlas.share.import_bundle import require_all

    rows = [
        {
            "kind": c.kind,
            "name": c.name[:8] if c.kind == "run" else c.name,
            "outcome": c.outcome,
            "note": c.note or None,
        }
        for c in outcomes
    ]
    columns = pa.schema([(name, pa.string()) for name in ("name", "kind", "outcome", "note")])
    show(pa.Table.from_pylist(rows, schema=columns), form)
    require_all(outcomes)
