"""`atlas heatmaps`: which neurons look where a concept is."""

from __future__ import annotations

from cli.common import AtlasPath, existing, note_model
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.questions import print_answer
from cli.render import Output
from ingest.requests.heatmaps import Heatmaps


@grouped
def heatmaps(*, request: Heatmaps, no_progress: NoProgress = False, output: Output, atlas: AtlasPath = None) -> None:
    """Which of a concept's best neurons look where the concept is, over the stored pictures that show it.

    One row a neuron: its mean IoU with the concept's pixels and its interval, the same with where the concept is in
    another picture (other_region), and how often its largest value lies in the concept. `atlas plot heatmaps` draws
    it, with where the maps are large on average; `atlas ingest --methods iou` stores the IoU of every neuron.

    Example: atlas heatmaps --concept dog --method activation --top 5
    """
    form = output.chosen()
    path = existing(atlas)
    with progressing(no_progress) as progress:
        answer = request.perform(path, progress)
    note_model(request, answer.facts["model"])
    print_answer(answer, form)
