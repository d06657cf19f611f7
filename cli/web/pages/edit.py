"""An edit: what it changes, where it came from, and what it was measured to do."""

from __future__ import annotations

from starlette.requests import Request

from atlas.edits.library import read
from atlas.query.answer import Answer
from atlas.questions.effects import Effects
from cli.web.section import Part, Section
from cli.web.views import Rendered, Views


def page(views: Views, request: Request) -> Rendered:
    """`/edits/{label}`."""
    stored = read(views.asking.path, request.path_params["label"])
    data = stored.data
    changes = Part("changes", f"Changes (`atlas edit show {stored.label}`)", None, rows=50)
    effects = Part("effects", "Measured effects", Effects(edit=stored.label), figure=True, rows=60)
    lead = [
        f"{len(data.neurons):,} neurons of {data.model['name']} (weights {data.fingerprint[:12]}), read at the tap "
        f"{data.tap}{f', about {data.concept}' if data.concept else ''}"
        f"{f', found by {data.solver}' if data.solver else ''}; made {data.created_at[:10]}.",
        *filter(None, [data.note]),
    ]
    answered = {"changes": Section(changes, Answer(stored.changes()))}
    return Rendered("sections.html", [effects, changes], answered, title=f"Edit {stored.label}", lead=lead)
