"""The model whose neurons are looked at: as the atlas knows it, and loaded with the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, Neuron, no_such_neuron
from atlas.query import statements
from atlas.query.map_spec import MapSpec
from atlas.query.resolve_maps import choose_map
from atlas.questions.query import Query
from atlas.store.database import open_readonly
from ingest.requests.options import ModelOptions, load

if TYPE_CHECKING:
    from atlas.live.model import LiveModel
    from atlas.query.provenance import Provenance

TOKENS = 3
"""Tokens that a neuron raises, in a panel's title."""

MODELS = """
SELECT m.model_id, m.name, m.revision, m.fingerprint, m.layers, m.width, arg_max(r.job, r.finished_at) AS job
FROM models m LEFT JOIN runs r ON r.model_id = m.model_id AND r.kind = 'ingest' AND r.status = 'done'
WHERE {condition} GROUP BY ALL ORDER BY max(r.finished_at) DESC NULLS LAST"""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A row of `models`. precision: the dtype and quantization that its newest run had. assumed: what was filled in."""

    model_id: int
    name: str
    revision: str | None
    fingerprint: str
    layers: int
    width: int
    precision: Mapping[str, Any]
    assumed: tuple[str, ...] = ()


def stored_model(path: Path, name: str | None, coordinates: Mapping[str, str | None]) -> StoredModel | None:
    """The model of that name, or where none is given that of the newest maps; None where the atlas has no such name.

    Raises:
        UsageError: the atlas has no map with these coordinates.
    """
    with open_readonly(path) as connection:
        if name is not None:
            names = connection.execute("SELECT count(*) FROM models WHERE name = $name", {"name": name}).fetchall()
            if not names[0][0]:
                return None
        asked = {key: coordinates[key] for key in ("dataset", "run") if coordinates.get(key)}
        chosen = choose_map(connection, MapSpec(model=name, **asked))
        assumed = tuple(text for text in chosen.defaults if text.startswith(("model=", "fingerprint=")))
        return _rows(connection, "m.model_id = $value", chosen["model_id"], assumed)[0]


def load_stored(path: Path, request: ModelOptions, model: StoredModel | None) -> tuple[LiveModel, StoredModel]:
    """The live model, and how the atlas knows its weights. model: what is expected; None: whatever they are.

    Raises:
        UsageError: the atlas knows no such weights, or others are expected.
    """
    if model is None:
        live = load(request, str(request.model))
    else:
        live = load(request, model.name, model.revision, **model.precision)
    if model is not None and live.fingerprint == model.fingerprint:
        return live, model
    with open_readonly(path) as connection:
        known = _rows(connection, "m.fingerprint = $value", live.fingerprint, ())
        others = [row.name for row in _rows(connection, "$value", True, ())]
    if model is not None:
        raise UsageError(
            f"the neurons are of {model.name} with the weights {model.fingerprint[:12]}, and the model that was loaded "
            f"has {live.fingerprint[:12]}; give [[model]] with the former, or `atlas ingest --model {model.name}` the "
            "latter"
        )
    if not known:
        raise UsageError(
            f"the atlas knows no model with the weights of {request.model} ({live.fingerprint[:12]}); it has "
            f"{', '.join(dict.fromkeys(others)) or 'none'}; `atlas ingest --model {request.model}` makes it known"
        )
    return live, known[0]


def addressed(model: StoredModel, address: str | Neuron) -> tuple[list[Neuron], Provenance]:
    """The one neuron of an address, and its provenance.

    Raises:
        UsageError: not an address, or not of a neuron of this language model.
    """
    neuron = address if isinstance(address, Neuron) else Neuron.parse(address)
    if neuron.component != LANGUAGE:
        raise UsageError(f"heatmaps are of the language model's neurons, such as 3/117; {neuron} is not one")
    if neuron.layer >= model.layers or neuron.index >= model.width:
        raise no_such_neuron(neuron, model.name, model.layers, model.width)
    return [neuron], {"fingerprint": model.fingerprint, "model": model.name, "assumed": list(model.assumed)}


def neurons_of(path: Path, model: StoredModel, asked: Mapping[str, Any], top: int) -> tuple[list[Neuron], Provenance]:
    """A concept's best neurons in this model, by the options of `atlas query`; and their provenance.

    Raises:
        UsageError: there is no such map, no neuron, or none of these weights.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    found = Query(**given, top=top).ask(path)
    if found.provenance.get("fingerprint") != model.fingerprint and "where" not in given:
        found = Query(**given, top=top, where=f"fingerprint = '{model.fingerprint}'").ask(path)
    if found.provenance.get("fingerprint") != model.fingerprint:
        raise UsageError(f"these neurons are of other weights than {model.name} has; give [[run]] or [[model]]")
    neurons = list(dict.fromkeys(found.neurons))
    if not neurons:
        raise UsageError("no neuron passes these conditions; `atlas query` shows what does")
    return neurons, found.provenance


def decoded_tokens(path: Path, model: StoredModel, neurons: list[Neuron]) -> dict[Neuron, tuple[str, ...]]:
    """The first tokens that each neuron raises, as far as they are stored."""
    tokens: dict[Neuron, tuple[str, ...]] = {}
    with open_readonly(path) as connection:
        for neuron in neurons:
            rows = statements.decoded_tokens(neuron, model.model_id).run(connection).to_pylist()
            raised = [row["tokens"] for row in rows if row["side"] == "top"]
            tokens[neuron] = tuple(raised[0][:TOKENS]) if raised else ()
    return tokens


def _rows(connection: Any, condition: str, value: Any, assumed: tuple[str, ...]) -> list[StoredModel]:
    rows = statements.Query(MODELS.format(condition=condition), {"value": value}).run(connection).to_pylist()
    models = []
    for row in rows:
        job = json.loads(row.pop("job") or "{}")
        precision = {key: job[key] for key in ("dtype", "quantization") if job.get(key)}
        models.append(StoredModel(**row, precision=precision, assumed=assumed))
    return models
