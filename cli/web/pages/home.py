"""What an atlas holds: its models, and the concepts of each."""

from __future__ import annotations

from collections import defaultdict

from starlette.requests import Request

from atlas.questions.concepts import Concepts
from atlas.questions.datasets import Datasets
from atlas.questions.models import Models
from cli.web.section import Part
from cli.web.views import Rendered, Views


def page(views: Views, request: Request) -> Rendered:
    """`/`."""
    models = views.asking.ask(Models()).to_pylist()
    shown = []
    for model in models:
        by_kind: dict[str, list[str]] = defaultdict(list)
        for row in views.asking.ask(Concepts()).to_pylist():
            if row["maps"]:
                by_kind[row["supercategory"] or ""].append(row["concept"])
        shown.append((model, sorted(by_kind.items())))
    lead = "Which neurons carry a concept, in which modality, how do we know, and what happens without them?"
    empty = "This atlas is empty: `atlas ingest` fills it, `atlas demo` makes an example."
    return Rendered(
        "home.html",
        title=views.asking.path.resolve().name,
        lead=[lead if models else empty],
        models=shown,
        parts=[Part("datasets", "Datasets", Datasets())] if models else [],
    )
