"""Pages that are one or a few questions: methods, runs, a run, edits, concepts x concepts."""

from __future__ import annotations

from starlette.requests import Request

from atlas.questions.concept_matrix import ConceptMatrix
from atlas.questions.cross_ablation import CrossAblation
from atlas.questions.edits import Edits
from atlas.questions.leaderboard import Leaderboard
from atlas.questions.run import Run
from atlas.questions.run_diff import RunDiff
from atlas.questions.runs import Runs
from cli.web.section import Part
from cli.web.views import Rendered, Views


def leaderboard(views: Views, request: Request) -> Rendered:
    """`/leaderboard`."""
    parts = [Part("methods", "Methods", Leaderboard(), figure=True)]
    lead = "How well each method's ranking agrees with exact ablation, and what ablating its best neurons does."
    return Rendered("sections.html", title="Methods", lead=[lead], parts=parts)


def matrix(views: Views, request: Request) -> Rendered:
    """`/matrix`."""
    parts = [
        Part("shared", "Neurons that two concepts share", ConceptMatrix(), figure=True, table=False),
        Part("cross", "What ablating one does to the other", CrossAblation(), figure=True, table=False),
    ]
    return Rendered("sections.html", title="Concepts and concepts", parts=parts)


def runs(views: Views, request: Request) -> Rendered:
    """`/runs?first=&second=`: all runs, and in what two of them differ."""
    parts = [Part("runs", "Runs", Runs(), rows=200)]
    first, second = (request.query_params.get(name) for name in ("first", "second"))
    if first and second:
        parts.insert(0, Part("diff", f"{first} and {second}", RunDiff(first, second), rows=200))
    return Rendered("sections.html", title="Runs", parts=parts)


def run(views: Views, request: Request) -> Rendered:
    """`/runs/{run}`."""
    question = Run(request.path_params["run"])
    answer = views.asking.ask(question)
    part = Part("facts", "What determined its numbers", question, rows=500)
    return Rendered("sections.html", title=answer.heading, parts=[part])


def edits(views: Views, request: Request) -> Rendered:
    """`/edits`."""
    return Rendered("sections.html", title="Edits", parts=[Part("edits", "Stored edits", Edits(), rows=200)])
