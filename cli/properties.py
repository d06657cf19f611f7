"""`atlas properties`: what the papers claim of the neurons a method finds, measured beside chance."""

from __future__ import annotations

from cli.common import AtlasPath, existing, note_model, say
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.render import READ, Output, show
from ingest.requests.properties import Properties


@grouped
def properties(
    *, request: Properties, no_progress: NoProgress = False, output: Output, atlas: AtlasPath = None
) -> None:
    """Sensitivity, invariance to shuffled image tokens and to other pictures, and exclusivity of the best neurons of a
    method, beside as many random ones. Stored as measures; --concepts says which are compared with each other.

    Example: atlas properties --method contribution --concepts dog,cat,bird --per-concept 8
    """
    form = output.chosen()
    path = existing(atlas)
    with progressing(no_progress) as progress:
        answer = request.perform(path, progress)
    note_model(request, answer.facts["model"])
    for note in answer.notes:
        say(note)
    show(answer.brief if form in READ else answer.table, form, more={"run": answer.facts["run_id"]})
