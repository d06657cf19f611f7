"""What an atlas holds: its models, and the concepts of each."""

from __future__ import annotations

from collections import defaultdict

from starlette.requests import Request

from atlas.query.statements import concepts_by_model
from atlas.questions.datasets import Datasets
from atlas.questions.models import Models
from atlas.store.database import open_readonly
from cli.web.section import Part
from cli.web.views import Rendered, Views


def page(views: Views, request: Request) -> Rendered:
    """`/`."""
    models = views.asking.ask(Models()).to_pylist()
    with views.asking.keeper.asking(), open_readonly(views.asking.path) as connection:
        rows = concepts_by_model().run(connection).to_pylist()
    concepts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        concepts[row["model"]][row["supercategory"] or ""].append(row["concept"])
    shown = [(model, list(concepts[model["name"]].items())) for model in models]
    lead = "Which neurons carry a concept, in which modality, how do we know, and what happens without them?"
    empty = "This atlas is empty: `atlas ingest` fills it, `atlas demo` makes an example."
    return Rendered(
        "home.html",
        title=views.asking.path.resolve().name,
        lead=[lead if models else empty],
        models=shown,
        parts=[Part("datasets", "Datasets", Datasets())] if models else [],
    )
