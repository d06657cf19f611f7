"""What an edit, or a method's best neurons, do to a model: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, BatchSize, Reduce, existing, pairs, say, words
from cli.groups import grouped
from cli.jobs import DrawOptions, ExampleOptions, LoadOptions, ModelOptions
from cli.make import report
from cli.progress import NoProgress, progressing
from cli.render import Output, show

if TYPE_CHECKING:
    from ingest.job import Execution

DRAWN = ("drawn", "became", "region_overlap")
"""Of pictures, where any were drawn."""

SWAPPED = ("success", "whole_success", "wanted_probability", "said", "whole_unchanged", "kl")
SHOWN = ("accuracy", *DRAWN, *SWAPPED)
"""The metrics of the table; with --json all of them."""


@grouped
def evaluate(
    *,
    name: Annotated[str | None, typer.Argument(help="The edit: name, or name@version.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", "--methods", help="Attribution methods, separated by commas.")
    ] = None,
    reduce: Reduce = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="With --method: what its maps explain, text or image (what is drawn)."),
    ] = None,
    doses: Annotated[
        str | None,
        typer.Option("--doses", "--top", "-n", help="With --method: how many neurons: 40, or 0.5%,1%,2%. [40]"),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Of whole answers: bleu,rouge_l,cider,... or none. [those the dataset names]"),
    ] = None,
    metric_option: Annotated[
        list[str] | None, typer.Option("--metric-option", help="METRIC.KEY=VALUE; repeatable.")
    ] = None,
    bertscore_model: Annotated[
        str | None, typer.Option("--bertscore-model", help="The encoder of bertscore: a folder or HuggingFace id.")
    ] = None,
    clipscore_model: Annotated[
        str | None, typer.Option("--clipscore-model", help="The CLIP of clipscore: a folder or HuggingFace id.")
    ] = None,
    bleurt_model: Annotated[
        str | None, typer.Option("--bleurt-model", help="The BLEURT of bleurt: a folder or HuggingFace id.")
    ] = None,
    against: Annotated[
        str, typer.Option("--against", help="Judge answers by the dataset's references, or by those from before.")
    ] = "references",
    which: ModelOptions,
    examples: ExampleOptions,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Which examples: find, held_out or all. [default: held_out; all of a dataset that the neurons were "
            "not found on]",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=0, help="How many draws of random neurons.")] = 5,
    controls: Annotated[
        str | None,
        typer.Option(
            "--controls",
            help="Random neurons of the same layers, or layers and mean |activation|: layers or activation. "
            "[default: activation, where it is stored]",
        ),
    ] = None,
    how: LoadOptions,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Of drawn pictures: an image classifier or CLIP. [default: the model's own]"),
    ] = None,
    drawing: DrawOptions,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Save drawn pictures, before and with the edit, in this folder.")
    ] = None,
    batch_size: BatchSize = 64,
    no_progress: NoProgress = False,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """What an edit does on held-out examples, to its concept and to the others, beside as many random neurons.

    Without a name: the same for methods, every concept's best neurons ablated at every dose, averaged over the concepts
    (`atlas leaderboard` sets several methods side by side).

    Example: atlas evaluate no-dog

    Example: atlas evaluate --method contribution --doses 0.5%,1%,2%
    """
    chosen = output.chosen()
    if (name is None) == (method is None):
        raise UsageError("name an edit, or a --method: atlas evaluate no-dog, atlas evaluate --method contribution")
    if name is not None and (reduce or target or doses):
        raise UsageError(
            "--reduce, --target and --doses choose neurons for --method; the edit has its own: leave them out"
        )
    if name is None and pictures is not None:
        raise UsageError("--pictures are of one edit: store it (`atlas edit create`) and evaluate it by name")
    if name is None and (metrics is not None or metric_option or bertscore_model or clipscore_model or bleurt_model):
        raise UsageError("--metrics judge what an edit does: store one (`atlas edit create`) and evaluate it by name")
    path = existing(atlas)
    content: dict[str, Any] = {} if split is None else {"split": split}
    for group in (which, examples, how, drawing):
        content |= group.content()
    execution = how.execution(batch_size=batch_size)
    models = {"bertscore": bertscore_model, "clipscore": clipscore_model, "bleurt": bleurt_model}
    options = _metric_options(metric_option or [], models)
    named = None if metrics is None else words(metrics if metrics != "none" else "")
    if name is not None:
        judged = {"metrics": named, "options": options, "against": against, "judge": judge, "pictures": pictures}
        done, shown = _edit(path, name, content, execution, seeds, controls, judged)
    else:
        asked = {"methods": words(str(method)), "reduce": reduce, "tops": words(doses or "40"), "seeds": seeds}
        asked |= {"target": target, "judge": judge, "controls": controls}
        done, shown = _method(path, content, execution, no_progress, **asked)
    report(done.skipped, path / "runs" / done.run_id / "manifest.json")
    for note in done.notes:
        say(note)
    if not done.fresh:
        say(f"run {done.run_id[:8]} was done before; these are its stored effects")
    show(shown if chosen == "table" else pa.Table.from_pylist(list(done.rows)), chosen)


def _metric_options(texts: list[str], models: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs(texts).items():
        metric, dot, option = key.partition(".")
        if not dot:
            raise UsageError(f"--metric-option {key}=... needs a metric before a dot, as in rouge_l.stemmer=true")
        found.setdefault(metric, {})[option] = value
    for metric, model in models.items():
        if model is not None:
            found.setdefault(metric, {})["model"] = model
    return found


def _edit(
    path: Path,
    name: str,
    content: dict[str, Any],
    execution: Execution,
    seeds: int,
    controls: str | None,
    judged: dict[str, Any],
) -> tuple[Any, pa.Table]:
    from atlas.api.atlas import Atlas

    edit = Atlas(path).edit(name).data
    from ingest.evaluate.edit import Measures
    from ingest.evaluate.edit import evaluate as start
    from ingest.evaluate.effects import MODEL, table
    from ingest.evaluate.from_edit import own_examples
    from ingest.job import make_job

    own = {"model": str(edit.model["name"]), "split": _split(edit, content)}
    if "dataset" not in content:
        own |= {"dataset": _own(path, edit)} | own_examples(edit)
    if "model" not in content and edit.model["revision"]:
        own["revision"] = str(edit.model["revision"])
    job = make_job(own | content)
    done = start(path, edit, job, execution, seeds=seeds, controls=controls, measures=Measures(**judged))
    other = (*SHOWN, "log_probability", "unchanged", "said_probability")
    judging = [r["metric"] for r in done.rows if r["metric"] not in other and r["subset"] != MODEL]
    wanted = [m for m in SHOWN if edit.solver is not None or m in ("accuracy", *DRAWN)]
    told = {(r["condition"], r["metric"]): r["value"] for r in done.rows if r["subset"] == MODEL}
    say(
        f"{edit.label}: {told['edit', 'changed_parameters']:,.0f} parameters of {len(edit.neurons)} neurons; "
        f"asking took {told['before', 'seconds']:.1f} s before, {told['edit', 'seconds']:.1f} s with it"
    )
    return done, table(done.rows, tuple(dict.fromkeys([*wanted, *judging])))


def _split(edit: Any, content: dict[str, Any]) -> str:
    """What is asked of the dataset by default: what the edit was not made from."""
    from atlas.edits.reference_values import maps_of
    from ingest.data.examples import BOTH, HELD_OUT

    found_on = {str(m["dataset"]) for m in maps_of(edit.provenance)} | _solved_on(edit.provenance)
    names = {name.partition(":")[0] for name in found_on}
    asked = str(content.get("dataset", "")).partition(":")[0]
    return HELD_OUT if not asked or asked in names else BOTH


def _own(path: Path, edit: Any) -> str:
    """The dataset that an edit's neurons were found on, where the user has it now."""
    from atlas.api.atlas import Atlas
    from atlas.edits.reference_values import maps_of

    found = {str(m["dataset"]): str(m["dataset"]) for m in maps_of(edit.provenance)}
    found |= {name.partition(":")[0]: name for name in _solved_on(edit.provenance)}
    names = sorted(found.values()) or ["scenes"]
    if len(names) != 1:
        raise UsageError(f"the edit's neurons come from the datasets {' and '.join(names)}; choose one with --dataset")
    there = [d["path"] for d in Atlas(path).datasets().to_pylist() if d["name"] == names[0] and d["path"]]
    return f"{names[0]}:{there[-1]}" if there else names[0]


def _solved_on(provenance: dict[str, Any]) -> set[str]:
    """The datasets that an edit, or what it was composed of, was solved on."""
    found = {str(provenance["dataset"])} if "solver" in provenance else set()
    return found.union(*(_solved_on(part) for part in provenance.get("parts", ())))


def _method(
    path: Path, content: dict[str, Any], execution: Execution, no_progress: bool, **options: Any
) -> tuple[Any, pa.Table]:
    from ingest.evaluate.methods import ablate_tops, averages
    from ingest.job import make_job

    with progressing(no_progress) as progress:
        done = ablate_tops(path, make_job({"split": "held_out"} | content), execution, progress=progress, **options)
    return done, averages(done.rows)
