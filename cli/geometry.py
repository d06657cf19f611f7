"""`atlas geometry`: how the kinds of token lie and flow through a model's layers."""

from __future__ import annotations

from cli.common import AtlasPath, existing, note_model, say
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.render import Output, show
from ingest.requests.geometry import Geometry


@grouped
def geometry(*, request: Geometry, no_progress: NoProgress = False, output: Output, atlas: AtlasPath = None) -> None:
    """How text, image and special tokens lie in each layer, and what the last one takes from each, with and without
    some neurons. Stored as measures and points.

    Example: atlas geometry --model tiny-llava --dataset scenes --only centroid_distance
    """
    form = output.chosen()
    path = existing(atlas)
    with progressing(no_progress) as progress:
        answer = request.perform(path, progress)
    note_model(request, answer.facts["model"])
    for note in answer.notes:
        say(note)
    show(answer.table, form, more={"run": answer.facts["run_id"]})
