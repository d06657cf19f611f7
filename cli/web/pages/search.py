"""The search box: an address leads to a neuron, a concept to its page; other words are looked for among tokens."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from atlas.questions.concepts import Concepts
from atlas.questions.models import Models
from atlas.questions.query import Query
from atlas.questions.search import Search
from cli.web import links
from cli.web.section import Part
from cli.web.views import Rendered, Views

ADDRESS = re.compile(r"(?:[\w.]+:)?\d{1,4}/\d{1,7}")


def page(views: Views, request: Request) -> Rendered | Response:
    """`/search?q=`."""
    asked = (request.query_params.get("q") or "").strip()
    models = [str(model["name"]) for model in views.asking.ask(Models()).to_pylist()]
    if not asked or not models:
        return RedirectResponse("/", 303)
    if ADDRESS.fullmatch(asked):
        return RedirectResponse(links.neuron(models[-1], asked), 303)
    concepts = [str(row["concept"]) for row in views.asking.ask(Concepts()).to_pylist()]
    if asked.lower() in (known := {name.lower(): name for name in concepts}):
        return RedirectResponse(links.concept(models[-1], known[asked.lower()]), 303)
    near = [name for name in concepts if asked.lower() in name.lower()]
    decoded = Query(token=f"{asked}*", each=True)
    parts = [
        Part("tokens", f"Neurons that decode to '{asked}'", decoded, model=models[-1]),
        Part("like", f"Neurons like '{asked}'", Search(asked), model=models[-1], deferred=True),
    ]
    lead = [f"Concepts: {', '.join(near)}"] if near else []
    return Rendered("sections.html", title=f"Search: {asked}", lead=lead, parts=parts, searched=asked)
