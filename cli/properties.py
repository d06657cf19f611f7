"""`atlas properties`: what the papers claim of the neurons a method finds, measured beside chance."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from atlas.query.option import described, option
from cli.common import AtlasPath, existing, note_model, pairs, say, words
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.render import Output, show
from ingest.requests.left_out import left_out
from ingest.requests.options import EXECUTION, ExampleOptions, InpaintingOptions, LoadOptions, ModelOptions


@described
class JobOptions(LoadOptions, InpaintingOptions, ExampleOptions, ModelOptions):
    """What is measured."""

    batch_size: int = option("Examples in one forward pass.", default=16, of=EXECUTION, least=1)


@grouped
def properties(
    *,
    method: Annotated[str, typer.Option("--method", help="The attribution method.")] = "contribution",
    only: Annotated[str | None, typer.Option("--only", "-c", help="Print only this concept.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="KEY=VALUE of the method; repeatable.")] = None,
    top: Annotated[str, typer.Option("--top", "-n", help="How many of the best neurons: one or several numbers.")] = (
        "10,50"
    ),
    job_options: JobOptions,
    no_progress: NoProgress = False,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Sensitivity, invariance to shuffled image tokens and to other pictures, and exclusivity of the best neurons of a
    method, beside as many random ones. Stored as measures; --concepts says which are compared with each other.

    Example: atlas properties --method contribution --concepts dog,cat,bird --per-concept 8
    """
    chosen = output.chosen()
    path = existing(atlas)
    try:
        ks = sorted({int(k) for k in words(top)})
    except ValueError:
        raise UsageError(f"--top {top} are not numbers; write 10, or 10,50,100") from None
    from ingest.analyse.properties import measure
    from ingest.job import make_job

    job = make_job({"methods": {method: pairs(param or [])}} | job_options.content())
    if only is not None and job.concepts and only not in job.concepts:
        raise UsageError(f"--only {only} is not among --concepts {','.join(job.concepts)}; add it there")
    note_model(job_options, job.model)
    with progressing(no_progress) as progress:
        done = measure(path, job, job_options.execution(), ks, progress)
    for line in left_out(dict(done.skipped), path, done.run_id):
        say(line)
    if not done.fresh:
        say(f"run {done.run_id[:8]} was done before; these are its stored measures")
    rows = [r for r in done.rows.to_pylist() if only is None or r["concept"] == only]
    if chosen == "table":
        show(pa.Table.from_pylist(_brief(rows)), chosen)
        return
    show(pa.Table.from_pylist(rows, schema=done.rows.schema), chosen, more={"run": done.run_id})


def _brief(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a source, concept, measure and k: the value with its interval, then what others and chance give."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["source"], row["concept"], row["name"], row["first"])
        line = lines.setdefault(key, dict(zip(("source", "concept", "property", "of"), key, strict=True)))
        shown = f"{row['value']:.2f}"
        if row["low"] is not None and row["condition"] == "before":
            shown += f" [{row['low']:.2f}, {row['high']:.2f}]"
        line[{"before": "value", "others": "other_concepts", "random": "chance"}[row["condition"]]] = shown
    names = ("source", "concept", "property", "of", "value", "other_concepts", "chance")
    return [{name: line.get(name) for name in names} for line in lines.values()]
