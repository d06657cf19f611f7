"""About an atlas: what it is, of which models and data under which licences, and what to cite."""

from __future__ import annotations

from importlib.metadata import version

from starlette.requests import Request

from atlas.questions.concepts import Concepts
from atlas.questions.datasets import Datasets
from atlas.questions.models import Models
from atlas.questions.runs import Runs
from atlas.share.card import citation
from cli.web.section import Part
from cli.web.views import Rendered, Views


def page(views: Views, request: Request) -> Rendered:
    """`/card`."""
    runs, concepts = (views.asking.ask(question).to_pylist() for question in (Runs(), Concepts()))
    methods = sorted({method for run in runs for method in run["methods"] or ()})
    cite = citation(method.partition(".")[0] for method in methods)
    lead = [
        f"{sum(bool(row['maps']) for row in concepts)} concepts by {', '.join(methods) or 'no method'}; written by "
        f"neuron-atlas {version('neuron-atlas')}.",
        "Prompts, answers, pictures and recordings are the datasets', under their licences below.",
        f"Cite: {'; '.join([cite['text'], *cite['papers']])}.",
    ]
    parts = [
        Part("models", "Models", Models()),
        Part("datasets", "Datasets and their licences", Datasets()),
        Part("runs", "Runs", Runs(), rows=200),
    ]
    return Rendered("sections.html", parts, title="About this atlas", lead=lead)
