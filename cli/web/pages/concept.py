"""A concept in a model: its best neurons, how methods agree, where they are, what is shared, what edits did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from atlas.neurons import Neuron
from atlas.query.statements import strongest_example_each
from atlas.questions.agreement import Agreement
from atlas.questions.concepts import Concepts
from atlas.questions.dose_response import DoseResponse
from atlas.questions.effects import Effects
from atlas.questions.layers import Layers
from atlas.questions.query import Query
from atlas.questions.shared import Shared
from atlas.store.database import open_readonly
from cli.web import links
from cli.web.cells import text
from cli.web.section import Part, Section
from cli.web.views import Rendered, Views

BEST = 12
"""Neurons that are shown with an example."""

TOP = 40
"""Neurons of each side that are compared."""

IN_LEAD = ("shared", "doses")
"""Parts that the sentences above the page need."""

IMAGE, RANDOM = "image", "random"


@dataclass(frozen=True, slots=True)
class Card:
    """A neuron in short, with the example that excites it most."""

    address: str
    link: str
    score: str
    tokens: Sequence[str]
    picture: str | None = None
    words: str = ""


def page(views: Views, request: Request) -> Rendered:
    """`/m/{model}/c/{concept}?source=&method=`."""
    model, concept = request.path_params["model"], request.path_params["concept"]
    known = _known(views, model, concept)
    source, method = (request.query_params.get(name) or None for name in ("source", "method"))
    asks = Query(concept=concept, model=model, source=source, method=method, top=BEST)
    best = Part("best", "Best neurons, by score", asks, figure=True, model=model)
    query = Section(best, views.asking.ask(asks))
    method_used, source_used = _used(query, "method"), _used(query, "source")
    parts = [best, *_further(concept, model, known["sources"], method_used, source_used)]
    answered = {"best": query} | {part.key: part.answered(views.asking) for part in parts if part.key in IN_LEAD}
    return Rendered(
        "concept.html",
        parts,
        answered,
        title=concept,
        lead=lead(concept, answered, method_used, source_used),
        choices=[("source", known["sources"], source_used), ("method", known["methods"], method_used)],
        neurons=cards(views, query, model),
        model=model,
        sources=known["sources"],
        compared=_compared(concept, model, known, method_used, source_used),
    )


def _compared(
    concept: str, model: str, known: Mapping[str, Sequence[str]], method: str | None, source: str | None
) -> list[tuple[str, str]]:
    """What this map can be compared with: every other source and method."""
    given = {"concept": concept, "method": method, "source": source}
    others = [("source", name) for name in known["sources"] if name != source]
    others += [("method", name) for name in known["methods"] if name != method]
    return [(f"with {name}", links.compare(model, **given, to=f"{side}={name}")) for side, name in others]


def _further(
    concept: str, model: str, sources: Sequence[str], method: str | None, source: str | None
) -> Iterator[Part]:
    """What follows the best neurons."""
    if len(sources) > 1:
        shared = Shared(concept, method=method, model=model, sources=tuple(sources[:2]), top=TOP)
        yield Part("shared", f"Shared by {sources[0]} and {sources[1]}", shared, figure=True, model=model)
    doses = DoseResponse(concept, method=method)
    yield Part("doses", "What ablating them does", doses, figure=True, table=False)
    layers = Layers(concept=concept, model=model, method=method, sources=tuple(sources), top=TOP)
    yield Part("layers", "Over the layers", layers, figure=True, table=False, deferred=True)
    agreement = Agreement(concept=concept, model=model, pairs=True, source=source)
    about = "How alike two methods order all neurons, and how many of their best are the same."
    yield Part("methods", "Methods side by side", agreement, about, figure=True, model=model, deferred=True)
    yield Part("edits", "Measured edits", Effects(concept=concept), figure=True, model=model, rows=12)


def _known(views: Views, model: str, concept: str) -> dict[str, Any]:
    """What the atlas has of a concept.

    Raises:
        UsageError: it has none of that name.
    """
    rows = [r for r in views.asking.ask(Concepts()).to_pylist() if r["concept"] == concept and r["maps"]]
    if not rows:
        views.asking.ask(Query(concept=concept, model=model, top=1))  # which says what there is
    known = {name: sorted({value for row in rows for value in row[name]}) for name in ("sources", "methods")}
    return known | {"methods": [method for method in known["methods"] if method != RANDOM]}


def _used(part: Section, name: str) -> str | None:
    """The method or source of the maps that answered."""
    maps = part.answer.provenance.get("maps", []) if part.answer is not None else []
    return str(maps[0][name]) if maps else None  # type: ignore[literal-required]


def lead(concept: str, sections: Mapping[str, Section], method: str | None, source: str | None) -> list[str]:
    """The answer in sentences: which neurons, how many are shared, and what ablation does."""
    lines = []
    best = sections["best"].answer
    if best is not None and len(best):
        [origin] = best.provenance["maps"][:1]
        lines.append(
            f"By {method}, {best.neurons[0]} carries '{concept}' most of {origin['neurons']:,} neurons where it is "
            f"given by {source} ({origin['examples']:,} examples, {origin['reduce']})."
        )
    shared = sections["shared"].answer if "shared" in sections else None
    if shared is not None and "expected_matched" in shared.facts:
        facts = shared.facts
        lines.append(
            f"{facts['shared']} of its best {facts['chosen']} are among the best of both sides; neurons of the same "
            f"layers and loudness would share {text(facts['expected_matched'])} (p = {text(facts['p_matched'])}), and "
            f"different concepts share {text(facts.get('expected_mismatched'))}: {facts.get('verdict', '')}."
        )
    if sections["doses"].answer is None:
        lines.append("What ablating its neurons does has not been measured.")
    return lines


def cards(views: Views, query: Section, model: str) -> list[Card]:
    """The best neurons, each with its strongest example."""
    if query.answer is None:
        return []
    strongest = _strongest(views, query.answer.neurons, str(query.answer.provenance["fingerprint"]))
    return [
        Card(
            str(neuron),
            links.neuron(model, neuron),
            text(row["score"]),
            (row.get("tokens") or [])[:3],
            **strongest.get(neuron, {}),
        )
        for row, neuron in zip(query.answer.to_pylist(), query.answer.neurons, strict=True)
    ]


def _strongest(views: Views, neurons: Sequence[Neuron], fingerprint: str) -> dict[Neuron, dict[str, str]]:
    """The strongest example of every neuron: a picture if there is one, and words."""
    with views.asking.keeper.asking(), open_readonly(views.asking.path) as connection:
        rows = strongest_example_each(neurons, fingerprint).run(connection).to_pylist()
    shown: dict[Neuron, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: row["source"] == IMAGE):  # pictures last, in place of others
        words = {"words": f"{row['prompt']} {row['answer'] or ''}".strip()}
        picture = {"picture": links.media(row["example"], side=256)} if row["source"] == IMAGE else {}
        shown[Neuron(row["component"], row["layer"], row["neuron"])] = words | picture
    return shown
