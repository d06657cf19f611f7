"""The nearest neurons of a vector, or those of some words, as sets of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from atlas.neurons import Neuron
from atlas.query.decoded import token_notes, tokens_of
from atlas.query.map_spec import MapSpec
from atlas.query.neuron_set import NeuronSet
from atlas.query.provenance import Provenance
from atlas.store.database import open_readonly
from atlas.vectors.neuron_text import concept_maps, matching
from atlas.vectors.spaces import Space, pick_model

if TYPE_CHECKING:
    import numpy as np

_DESCRIPTIONS = f"""
WITH requested AS (
    SELECT component, layer, neuron, row_number() OVER () AS place
    FROM (SELECT unnest($component::VARCHAR[]) AS component, unnest($layer::SMALLINT[]) AS layer,
                 unnest($neuron::INTEGER[]) AS neuron)),
ranked AS (
    SELECT s.layer, s.neuron, m.component, arg_min(c.name, (s.rank, c.name)) AS concept
    FROM scores s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)
    WHERE s.map_id IN (SELECT unnest($maps::INTEGER[])) AND s.layer IN (SELECT unnest($layer::SMALLINT[]))
        AND s.neuron IN (SELECT unnest($neuron::INTEGER[]))
    GROUP BY ALL)
SELECT d.tokens[1:5] AS tokens, r.concept
FROM requested f
{tokens_of("f", "$model")}
LEFT JOIN ranked r ON r.component = f.component AND r.layer = f.layer AND r.neuron = f.neuron
ORDER BY f.place"""


def near_vector(
    path: Path,
    vector: np.ndarray,
    space: Space,
    *,
    top: int = 10,
    defaults: Sequence[str] = (),
    skip: Neuron | None = None,
) -> NeuronSet:
    """The neurons nearest to a vector of the same space, (dimension,) of any length: similarity (cosine), tokens, and
    the concept in whose map the neuron ranks best, of the method that `atlas query` would take.

    skip: a neuron to leave out. The database must be closed, as a stale index is rebuilt and written.

    Raises:
        UsageError: the vector has another dimension, or is zeros.
    """
    from atlas.vectors.nearest import nearest

    rows = nearest(path, space.run_id, vector, top, skip=skip)
    about: dict[str, Any] = {"run": space.run_id, "space": space.space, "job": dict(space.job)}
    about["neuron"] = None if skip is None else str(skip)
    return described_neurons(path, rows, space.model, defaults, about)


def with_words(path: Path, text: str, *, top: int = 10, model: str | None = None) -> NeuronSet:
    """The neurons whose decoded tokens and best concepts contain the words of a text: see
    `atlas.vectors.neuron_text.matching`.

    Raises:
        UsageError: the text has no word, or the model is not stored.
    """
    with open_readonly(path) as connection:
        row, defaults = pick_model(connection, model)
        chosen = concept_maps(connection, MapSpec(fingerprint=row["fingerprint"]))
        rows = matching(connection, row, chosen, text, top)
    runs = sorted({str(c["run_id"]) for c in chosen})
    return described_neurons(path, rows, row, defaults, {"text": text, "runs": runs})


def described_neurons(
    path: Path, rows: pa.Table, model: Mapping[str, Any], defaults: Sequence[str], about: Mapping[str, Any]
) -> NeuronSet:
    """Rows of neurons (component, layer, neuron, ...) with their first tokens and their best concept."""
    with open_readonly(path) as connection:
        chosen = concept_maps(connection, MapSpec(fingerprint=str(model["fingerprint"])))
        addresses = {name: rows[name].to_pylist() for name in ("component", "layer", "neuron")}
        values = {**addresses, "model": model["model_id"], "maps": [c["map_id"] for c in chosen]}
        descriptions = connection.sql(_DESCRIPTIONS, params=values).to_arrow_table()
        notes = token_notes(connection, [model["model_id"]])
    for name in ("tokens", "concept"):
        rows = rows.append_column(name, descriptions[name])
    origin = {"model": model["name"], "fingerprint": model["fingerprint"], **about, "assumed": [*defaults, *notes]}
    return NeuronSet(rows, cast(Provenance, origin))
