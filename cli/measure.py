"""What an edit, or a method's best neurons, do to a model: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, BatchSize, DatasetSpec, Device, Dtype, Method, ModelName, Reduce, resolve, say, words
from cli.make import Concepts, NoProgress, Options, PerConcept, Seed, Sources, Tasks, pairs, progressing
from cli.render import Csv, Format, Json, chosen_format, show


def evaluate(
    name: Annotated[str | None, typer.Argument(help="The edit: name, or name@version.")] = None,
    method: Method = None,
    reduce: Reduce = None,
    top: Annotated[
        int, typer.Option("--top", "-n", min=1, help="With --method: how many neurons of each concept.")
    ] = 40,
    model: ModelName = None,
    dataset: DatasetSpec = "scenes",
    option: Options = None,
    concepts: Concepts = None,
    sources: Sources = None,
    tasks: Tasks = None,
    per_concept: PerConcept = None,
    seed: Seed = None,
    seeds: Annotated[int, typer.Option("--seeds", min=0, help="How many draws of random neurons.")] = 5,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    no_progress: NoProgress = False,
    form: Format = None,
    as_json: Json = False,
    as_csv: Csv = False,
    atlas: AtlasPath = None,
) -> None:
    """What an edit does on held-out examples, to its concept and to the others, beside as many random neurons.

    Without a name: the same for a method, every concept's --top neurons ablated in turn, averaged over the concepts.

    Example: atlas evaluate no-dog, or atlas evaluate --method contribution --top 41
    """
    chosen = chosen_format(form, as_json, as_csv)
    if (name is None) == (method is None):
        raise UsageError("name an edit, or a --method: atlas evaluate no-dog, atlas evaluate --method contribution")
    path = resolve(atlas)
    content: dict[str, Any] = {"dataset": dataset, "split": "held_out", "dtype": dtype, "options": pairs(option or [])}
    content |= {k: words(v) for k, v in {"concepts": concepts, "sources": sources, "tasks": tasks}.items() if v}
    content |= {k: v for k, v in {"model": model, "per_concept": per_concept, "seed": seed}.items() if v is not None}
    where = {"device": device, "batch_size": batch_size}
    if name is not None:
        done, shown = _edit(path, name, content, where, seeds)
    else:
        done, shown = _method(
            path, content, where, no_progress, method=str(method), reduce=reduce, top=top, seeds=seeds
        )
    if not done.fresh:
        say(f"run {done.run_id[:8]} was done before; these are its stored effects")
    show(shown if chosen == "table" else pa.Table.from_pylist(list(done.rows)), chosen)


def _edit(path: Path, name: str, content: dict[str, Any], where: dict[str, Any], seeds: int) -> tuple[Any, pa.Table]:
    from atlas.api import Atlas

    edit = Atlas(path).edit(name).data
    from ingest.evaluate import evaluate as start
    from ingest.evaluate import table
    from ingest.job import Execution, make_job

    job = make_job({"model": str(edit.model["name"])} | content)
    done = start(path, edit, job, Execution(**where), seeds=seeds)
    return done, table(done.rows)


def _method(
    path: Path, content: dict[str, Any], where: dict[str, Any], no_progress: bool, **options: Any
) -> tuple[Any, pa.Table]:
    from ingest.job import Execution, make_job
    from ingest.suppression import averages, survey

    with progressing(no_progress) as progress:
        done = survey(path, make_job(content), Execution(**where), progress=progress, **options)
    return done, averages(done.rows)
