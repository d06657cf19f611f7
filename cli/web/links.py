"""The addresses of pages, and of what they load."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from atlas.neurons import Neuron
from atlas.query.option import name_of
from atlas.query.question import Question
from cli.web.copy_as import parameters


def concept(model: str, name: str, **more: str | None) -> str:
    """The page of a concept in a model. more: what to choose there: source, method."""
    return f"/m/{part(model)}/c/{part(name)}{_query(more)}"


def neuron(model: str, address: Neuron | str) -> str:
    """The page of a neuron of a model."""
    return f"/m/{part(model)}/n/{part(str(address))}"


def compare(model: str, **more: str | None) -> str:
    """The page that compares two maps of a model. more: fields of the question `compare`."""
    return f"/m/{part(model)}/compare{_query(more)}"


def edit(label: str) -> str:
    """The page of an edit."""
    return f"/edits/{part(label)}"


def run(prefix: str) -> str:
    """The page of a run."""
    return f"/runs/{part(prefix)}"


def figure(question: Question[Any]) -> str:
    """The figure of a question's answer."""
    return f"/figure/{name_of(question)}?{parameters(question)}"


def data(question: Question[Any], ending: str = "") -> str:
    """A question in the API; ending: `.csv` or `.parquet`."""
    return f"/v1/{name_of(question)}{ending}?{parameters(question)}"


def media(example: str, number: int = 0, side: int | None = None) -> str:
    """A stored example's picture, recording or video."""
    return f"/media/{example}/{number}{_query({'side': None if side is None else str(side)})}"


def heat(example: str, address: Neuron | str, concept: str | None = None, percentile: str | None = None) -> str:
    """A neuron's map over a stored example's picture; with a percentile, laid on the picture."""
    ending = "" if percentile is None else "/overlay"
    return f"/heat/{example}/{part(str(address))}{ending}{_query({'concept': concept, 'percentile': percentile})}"


def mask(example: str, concept: str) -> str:
    """Where a stored example's picture shows a concept."""
    return f"/mask/{example}/{part(concept)}"


def live(neurons: str | None = None, prompt: str | None = None) -> str:
    """The live page, with neurons to change and a prompt filled in."""
    return f"/live{_query({'neurons': neurons, 'prompt': prompt})}"


def part(text: str) -> str:
    """A name as a part of a path; a slash within a model's name stays one."""
    return quote(text, safe="/:@")


def _query(more: dict[str, str | None]) -> str:
    given = {name: value for name, value in more.items() if value}
    return f"?{urlencode(given)}" if given else ""
