"""`atlas geometry`: how the kinds of token lie and flow through a model's layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer

from atlas.errors import UsageError
from atlas.query.option import described, option
from cli.common import AtlasPath, existing, note_model, say, words
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.render import Output, show
from ingest.requests.left_out import left_out
from ingest.requests.options import EXECUTION, JOB, ExampleOptions, LoadOptions, ModelOptions

if TYPE_CHECKING:
    from ingest.analyse.geometry import AblatedNeurons


@described
class JobOptions(LoadOptions, ExampleOptions, ModelOptions):
    """What is looked at."""

    layers: str | None = option("Only these layers: 3, 8-15.", default=None, of=JOB)
    batch_size: int = option("Examples in one forward pass.", default=16, of=EXECUTION, least=1)


@grouped
def geometry(
    *,
    job_options: JobOptions,
    edit: Annotated[str | None, typer.Option("--edit", help="Look also with this stored edit applied.")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Look also without the neurons of a run of labels: RUN or RUN:LABEL.")
    ] = None,
    of: Annotated[
        str | None, typer.Option("--of", help="Look also without saved neurons: 'dog & cat' (`atlas select ls`).")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="Print only these measures, separated by commas.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Tokens of each role, and examples, to keep.")] = 200,
    neighbours: Annotated[int, typer.Option("--neighbours", min=1, help="Nearest neighbours of a token.")] = 10,
    projections: Annotated[str, typer.Option("--projections", help="pca, tsne or both; '' for none.")] = "pca,tsne",
    points: Annotated[int, typer.Option("--points", min=1, help="Tokens of each role to lay out.")] = 100,
    no_progress: NoProgress = False,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """How text, image and special tokens lie in each layer, and what the last one takes from each, with and without
    some neurons. Stored as measures and points.

    Example: atlas geometry --model tiny-llava --dataset scenes --only centroid_distance
    """
    chosen = output.chosen()
    path = existing(atlas)
    from ingest.analyse.geometry import GeometrySettings, measure
    from ingest.job import make_job

    settings = GeometrySettings(sample, neighbours, words(projections), points)
    ablated = _ablated(path, edit, labels, of)
    job = make_job(job_options.content())
    note_model(job_options, job.model)
    with progressing(no_progress) as progress:
        done = measure(path, job, job_options.execution(), settings, ablated, progress)
    for line in left_out(dict(done.skipped), path, done.run_id):
        say(line)
    if not done.fresh:
        say(f"run {done.run_id[:8]} was done before; these are its stored measures")
    show(_shown(done.rows, words(only)), chosen, more={"run": done.run_id})


def _ablated(path: Path, edit: str | None, labels: str | None, of: str | None = None) -> AblatedNeurons | None:
    """The neurons to look without."""
    if (edit, labels, of).count(None) < 2:
        raise UsageError("look without the neurons of an --edit, of --labels or of --of, not both")
    from atlas.api.atlas import Atlas
    from atlas.edits.edit import Intervention
    from atlas.edits.kinds import ablate, make_changes
    from atlas.edits.library import read
    from atlas.query.labels import labelled
    from atlas.query.provenance import fingerprint_of
    from ingest.analyse.geometry import AblatedNeurons

    if edit is not None:
        data = read(path, edit).data
        return AblatedNeurons(data.label, data.intervention, data.fingerprint)
    if labels is None and of is None:
        return None
    run, _, label = (labels or "").partition(":")
    removed = labelled(path, run, label or None) if of is None else Atlas(path).selection(of)
    neurons = sorted(set(removed.neurons))
    name = str(labels if of is None else of)
    return AblatedNeurons(name, Intervention(make_changes(neurons, ablate())), fingerprint_of(removed.provenance))


def _shown(rows: pa.Table, only: tuple[str, ...]) -> pa.Table:
    known = sorted(set(rows["name"].to_pylist()))
    for name in only:
        if name not in known:
            raise UsageError(f"no measure called '{name}'; there are: {', '.join(known)}")
    if only:
        rows = rows.filter(pc.is_in(rows["name"], pa.array(only)))
    return rows.drop_columns(["run_id", "method", "concept"])
