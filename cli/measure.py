"""What an edit, or a method's best neurons, do to a model: evaluate."""

from __future__ import annotations

from cli.common import AtlasPath, existing
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.questions import print_answer
from cli.render import Output
from ingest.requests.evaluate import Evaluate


@grouped
def evaluate(*, request: Evaluate, no_progress: NoProgress = False, output: Output, atlas: AtlasPath = None) -> None:
    """What an edit does on held-out examples, to its concept and to the others, beside as many random neurons.

    Without a name: the same for methods, every concept's best neurons ablated at every dose, averaged over the concepts
    (`atlas leaderboard` sets several methods side by side).

    Example: atlas evaluate no-dog

    Example: atlas evaluate --method contribution --doses 0.5%,1%,2%
    """
    form = output.chosen()
    path = existing(atlas)
    with progressing(no_progress) as progress:
        answer = request.perform(path, progress)
    print_answer(answer, form)
