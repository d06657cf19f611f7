"""Two maps side by side: of other sources, targets, methods or concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from atlas.questions.compare import Compare
from atlas.questions.concepts import Concepts
from atlas.questions.layers import Layers
from atlas.questions.models import Models
from cli.web import links
from cli.web.cells import text
from cli.web.parameters import from_texts
from cli.web.section import Part, Section
from cli.web.views import Rendered, Views

BESIDES = ("part", "whole", "embed")
OWN = ("concept", "method", "source", "target", "reduce", "to", "top")
"""Fields of the form."""


def page(views: Views, request: Request) -> Rendered:
    """`/m/{model}/compare?concept=dog&source=image&to=source=text`: the parameters of the question `compare`."""
    model, given = request.path_params["model"], request.query_params
    form = [(name, given.get(name, "")) for name in OWN]
    concepts = [row["concept"] for row in views.asking.ask(Concepts()).to_pylist() if row["maps"]]
    shown: dict[str, Any] = {"title": "Compare two maps", "form": form, "concepts": concepts}
    if not given.get("concept") or not given.get("to"):
        choose = "Choose a concept, and in what the second map differs: source=text, method=activation, concept=cat."
        return Rendered("compare.html", lead=[choose], **shown)
    question = from_texts(Compare, [*given.multi_items(), ("model", model)], besides=BESIDES)
    answer = views.asking.ask(question)
    part = Part("both", "The best neurons of either", question, figure=True, model=model, rows=50)
    facts, maps = answer.facts, [dict(origin) for origin in answer.provenance["maps"]]
    lead = [
        f"First: {facts['first']}. Second: {facts['second']}.",
        f"{facts['shared']} of the best {facts['top']} are the same; by chance {text(facts['expected'])} would be "
        f"(p = {text(facts['p'])})"
        + (
            f", of neurons of the same {facts['matched']} {text(facts['expected_matched'])} "
            f"(p = {text(facts['p_matched'])})."
            if facts.get("expected_matched") is not None
            else "."
        ),
    ]
    parts = [part]
    if maps[0]["concept"] == maps[1]["concept"]:
        parts += _over_layers(question, maps)
    return Rendered("compare.html", parts, {"both": Section(part, answer)}, lead=lead, **shown)


def newest(views: Views, request: Request) -> Response:
    """`/compare`: the page of the newest model."""
    models = views.asking.ask(Models()).to_pylist()
    return RedirectResponse(links.compare(models[-1]["name"]) if models else "/", 303)


def _over_layers(question: Compare, maps: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Where in the model the tops of both are, where they differ in one name that `layers` compares."""
    differing = [name for name in ("method", "source", "target") if maps[0][name] != maps[1][name]]
    if len(differing) != 1:
        return []
    [side] = differing
    names: dict[str, Any] = {name: maps[0][name] for name in ("method", "source", "target") if name != side}
    names[f"{side}s"] = (maps[0][side], maps[1][side])
    layers = Layers(concept=question.concept, model=question.model, top=question.top, **names)
    return [Part("layers", "Over the layers", layers, figure=True, table=False, deferred=True)]
