"""`atlas edit solve`: edits that are computed, of what a model says or draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, Method, Of, Select, Source, existing, note_model, say, tell
from cli.edit_make import Labels, Layers, neurons_of
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from ingest.requests.generate import MODEL
from ingest.requests.solve import Solve

MAP_NEURONS = 20
"""How many of a map's neurons may change, by default."""

Best = Annotated[
    str | None,
    typer.Option(
        "--top",
        "-n",
        help=f"How many neurons of the map: 40, or 1%. [default: {MAP_NEURONS}, or all that --select does]",
    ),
]


@grouped
def solve(
    *,
    request: Solve,
    method: Method = None,
    source: Source = None,
    select: Select = None,
    top: Best = None,
    layers: Layers = None,
    labels: Labels = None,
    of: Of = None,
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
    if source and not (method or select or top or layers):
        raise UsageError("--source is of a map: give its --method too; --sources chooses the examples to solve on")
    if method or select or top or layers or labels or of:
        about = None if labels or of else request.concept or request.word
        of_map = {"target": request.target, "model": request.model} if about else {}
        maps = MapSpec(about, method, source=source, **of_map)
        best = top if about is None or select else top or MAP_NEURONS
        neurons = neurons_of(Atlas(path), maps, select=select, top=best, layers=layers, labels=labels, of=of)
        request = replace(request, neurons=neurons)
    import ingest.solve.solve  # noqa: F401 - without torch, say so first

    note_model(request, MODEL)
    with progressing(no_progress) as progress:
        edit = request.perform(path, progress)
    _print_report(edit.report)
    tell(f"{edit.label}: {len(edit.data.neurons)} neurons of {edit.data.model['name']}")


def _print_report(report: dict[str, Any]) -> None:
    if report.get("reached") is False:
        say(
            f"not reached: the worst token still has a probability of {report['worst_after']:.3g} after "
            f"{report['epochs']} epochs; more neurons (--param per_token=20), epochs or a larger lr may help"
        )
    for key, value in report.items():
        if not isinstance(value, list | bool):
            say(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
