"""A neuron: its tokens, examples, concepts, neighbours, labels and the edits that touch it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import Request

from atlas.neurons import LANGUAGE
from atlas.questions.edits import Edits
from atlas.questions.labels import Labels
from atlas.questions.models import Models
from atlas.questions.neuron import Neuron, Profile
from atlas.questions.roles import Roles
from atlas.questions.similar import Similar
from cli.web import links
from cli.web.cells import text
from cli.web.heat_page import heat_of
from cli.web.section import Part, Section
from cli.web.views import Rendered, Views

SPACES = ("decoded", "direction", "profile")


def page(views: Views, request: Request) -> Rendered:
    """`/m/{model}/n/{layer}/{index}`."""
    model, address = request.path_params["model"], request.path_params["address"]
    question = Neuron(address, model=model, top=5)
    profile = views.asking.ask(question)
    concepts = Part("concepts", "Concepts, by method and source", question, figure=True, model=profile.model)
    given = {"neuron": address, "model": profile.model}
    parts = [concepts]
    parts.append(Part("labels", "Labels", Labels(**given), "What rules say it serves, of how many neurons alike."))
    parts.append(Part("edits", "Edits that change it", Edits(**given)))
    by_role = Roles(address, model=model)
    parts.append(Part("roles", "What it does at each kind of token", by_role, figure=True, table=False, deferred=True))
    for space in SPACES:
        near = Similar(address, space, model=model, top=8)
        title = f"Neighbours in the space '{space}'"
        parts.append(Part(f"near-{space}", title, near, model=profile.model, deferred=True))
    before, after = _steps(views, profile)
    return Rendered(
        "neuron.html",
        parts,
        {"concepts": Section(concepts, profile.concepts)},
        title=f"{profile.neuron} of {profile.model}",
        lead=_lead(profile),
        previous=before,
        following=after,
        tokens=_tokens(profile),
        exemplars=_exemplars(profile),
        heat=heat_of(views.asking, profile, request.query_params),
    )


def _lead(profile: Profile) -> list[str]:
    rows = profile.ranked()
    if not rows:
        return ["No stored map has a score of this neuron, or all that have are 0."]
    best = rows[0]
    return [
        f"It ranks {text(best['rank'])} for '{best['concept']}' by {best['method']} from {best['source']} "
        f"(score {text(best['score'])}, percentile {text(best['percentile'])})."
    ]


def _steps(views: Views, profile: Profile) -> tuple[dict[str, str] | None, dict[str, str] | None]:
    """The neurons before and behind it in its layer."""
    [model] = [m for m in views.asking.ask(Models()).to_pylist() if m["name"] == profile.model][:1]
    steps: list[dict[str, str] | None] = []
    for index in (profile.neuron.index - 1, profile.neuron.index + 1):
        address = replace(profile.neuron, index=index)
        inside = index >= 0 and (profile.neuron.component != LANGUAGE or index < model["width"])
        steps.append({"link": links.neuron(profile.model, address), "address": str(address)} if inside else None)
    return steps[0], steps[1]


def _tokens(profile: Profile) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """By projection, the tokens that it raises and lowers."""
    by_projection: dict[str, list[tuple[str, list[str]]]] = {}
    for row in profile.tokens.to_pylist():
        side = "raises" if row["side"] == "top" else "lowers"
        by_projection.setdefault(row["projection"], []).append((side, row["tokens"][:10]))
    return list(by_projection.items())


def _exemplars(profile: Profile) -> list[tuple[str, list[dict[str, Any]]]]:
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in profile.exemplars.to_pylist():
        address = links.media(row["example"], side=320)
        by_source.setdefault(row["source"], []).append(
            {
                "example": row["example"],
                "value": text(row["value"]),
                "token": row["token"],
                "prompt": row["prompt"],
                "answer": row["answer"],
                "picture": address if row["source"] in ("image", "video") else None,
                "sound": links.media(row["example"]) if row["source"] == "audio" else None,
            }
        )
    return list(by_source.items())
