"""`atlas edit solve`: edits that are computed, of what a model says or draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import (
    AtlasPath,
    BatchSize,
    Images,
    Method,
    Of,
    Select,
    Source,
    existing,
    pairs,
    say,
    tell,
    words,
)
from cli.edit_make import ConceptName, Labels, Layers, Note, Seed, Top, neurons_of
from cli.groups import grouped
from cli.jobs import DataOptions, LoadOptions, ModelOptions
from cli.progress import NoProgress, progressing


@grouped
def solve(
    *,
    name: Annotated[str, typer.Argument(help="A name for the edit, for example dog-to-cat.")],
    said: Annotated[str, typer.Option("--from", help="The word that the model says.")],
    wanted: Annotated[
        str | None, typer.Option("--to", help="The word it is to say there. [default: never say the first]")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            "--solver",
            help="word_swap, minimal_norm, rank_one, fine_tune. [default: word_swap; of pictures minimal_norm]",
        ),
    ] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="KEY=VALUE for the solver; repeatable.")] = None,
    goal: Annotated[
        str | None, typer.Option("--to-concept", help="minimal_norm: the concept to move to. [default: --to]")
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=0, help="Answers of other concepts that must stay. [64]")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="text: what is said; image: what is drawn (minimal_norm, by concepts).")
    ] = "text",
    image: Images = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Solve on this one question instead of a dataset.")
    ] = None,
    concept: ConceptName = None,
    method: Method = None,
    source: Source = None,
    select: Select = None,
    top: Top = None,
    layers: Layers = None,
    labels: Labels = None,
    of: Of = None,
    data: DataOptions,
    which: ModelOptions,
    how: LoadOptions,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    note: Note = None,
    no_progress: NoProgress = False,
    atlas: AtlasPath = None,
) -> None:
    """Compute an edit: one word becomes another, or is never said, on a dataset's examples or on one question.

    The neurons are those that contribute most to what the model says, found on the spot, or a map's (--method), a
    run's labels, other edits'.

    With --target image, requests for one concept draw another; the neurons are a map's or saved ones.

    Example: atlas edit solve dog-to-cat --from dog --to cat --tasks caption --sources image

    Example: atlas edit solve draw-cat --from dog --to cat --target image --method nam_image --model tiny-gill
    """
    from atlas.api.atlas import Atlas
    from atlas.query.map_spec import MapSpec

    path = existing(atlas)
    neurons = None
    if source and not (method or select or top or layers):
        raise UsageError("--source is of a map: give its --method too; --sources chooses the examples to solve on")
    others = {"--prompt": prompt, "--image": image, "--param": param, "--keep": keep}
    solver = _check(target, said, goal, wanted, solver, others)
    if method or select or top or layers or labels or of:
        about = None if labels or of else concept or said
        of_map = {"target": target, "model": which.model} if about else {}
        maps = MapSpec(about, method, source=source, **of_map)
        best = top if about is None or select else top or 20
        neurons = neurons_of(Atlas(path), maps, select=select, top=best, layers=layers, labels=labels, of=of)
    from ingest.job import ModelSpec, make_job
    from ingest.solve.solve import PromptDataset, SolveSpec
    from ingest.solve.solve import solve as start
    from ingest.solve.swaps import Swap

    named = concept if neurons is None else None
    asks = _asked(prompt, image, said, data.tasks or data.sources or data.dataset or named)
    which.tell(ModelSpec.model)
    content = {"seed": seed, **which.content(), **data.content(), **how.content(), "concepts": words(concept)}
    execution = how.execution(batch_size=batch_size)
    if target == "image":
        _draw(path, name, said, str(goal or wanted), content, execution, neurons, note)
        return
    goal = goal if goal or solver != "minimal_norm" else wanted
    what = SolveSpec(solver, Swap(said, wanted), pairs(param or []), goal, 64 if keep is None else keep)
    with progressing(no_progress) as progress:
        edit, solution = start(
            path,
            name,
            what,
            make_job(content),
            execution,
            prompt_dataset=PromptDataset(*asks, said) if asks else None,
            neurons=neurons,
            note=note,
            progress=progress,
        )
    _say_if_not_reached(solution.report)
    _report(solution.report)
    tell(f"{edit.label}: {len(edit.neurons)} neurons of {edit.model['name']}")


def _check(
    target: str, said: str, goal: str | None, wanted: str | None, solver: str | None, others: dict[str, Any]
) -> str:
    """The solver. others: what is asked for besides, by the name of its option; edits of pictures take none of it."""
    if target not in ("text", "image"):
        raise UsageError(f"an edit changes what is said or drawn: --target text or image, not '{target}'")
    if target == "text":
        solver = solver or "word_swap"
        if goal is not None and solver != "minimal_norm":
            raise UsageError(f"--to-concept is for minimal_norm; {solver} goes by --to")
        return solver
    if (to := goal or wanted) is None:
        raise UsageError("--target image makes one concept of another: --from dog --to cat")
    if to == said:
        raise UsageError(f"'{said}' is to become itself; give another --to")
    if solver not in (None, "minimal_norm"):
        raise UsageError(f"{solver} changes what is said; with --target image leave out --solver, or say minimal_norm")
    if given := [name for name, value in others.items() if value is not None]:
        raise UsageError(f"{' and '.join(given)}: of edits of what is said; with --target image leave it out")
    return "minimal_norm"


def _draw(
    path: Path, name: str, said: str, goal: str, content: dict[str, Any], execution: Any, neurons: Any, note: Any
) -> None:
    """An edit of what is drawn."""
    from ingest.job import make_job
    from ingest.solve.drawing import solve_drawing

    if neurons is None:
        raise UsageError(
            "--target image needs neurons: a map's (--method nam_image --top 20) or saved ones (--of NAME)"
        )
    job = make_job({"tasks": ["draw"], **content, "concepts": []})
    edit, report = solve_drawing(path, name, said, goal, job, execution, neurons, note=note)
    _report(report)
    tell(f"{edit.label}: {len(edit.neurons)} neurons of {edit.model['name']}")


def _say_if_not_reached(report: Any) -> None:
    if report.get("reached") is False:
        say(
            f"not reached: the worst token still has a probability of {report['worst_after']:.3g} after "
            f"{report['epochs']} epochs; more neurons (--param per_token=20), epochs or a larger lr may help"
        )


def _report(report: Any) -> None:
    for key, value in report.items():
        if not isinstance(value, list | bool):
            say(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")


def _asked(
    prompt: str | None, image: list[str] | None, said: str, of_dataset: str | None
) -> tuple[str, list[str]] | None:
    if prompt is None:
        if image:
            raise UsageError(
                f"--image needs the question about it: --prompt \"what is this?\" (its answer says '{said}')"
            )
        return None
    if of_dataset:
        raise UsageError("--prompt is one question; --dataset, --tasks, --sources and --concept are for many: choose")
    return prompt, [str(Path(i).resolve()) if Path(i).exists() else i for i in image or []]
