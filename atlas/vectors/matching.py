"""Corresponding neurons of two models: nearest by their profiles over the concepts for which both models have maps.

After relative representations (Moschella et al. 2023, "Relative representations enable zero-shot latent space
communication"): two spaces that share no axis are compared by similarities to shared anchors. Here the anchors are
concepts, and a neuron's coordinates are its standardised scores in their maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE
from atlas.query import compare_maps
from atlas.query.decoded import RAISED, token_notes
from atlas.query.map_spec import MapSpec
from atlas.query.provenance import Provenance
from atlas.query.resolve_maps import StoredMap
from atlas.query.selection_rules import Rule
from atlas.vectors.faiss_files import unit
from atlas.vectors.profiles import profiles, whole_maps
from atlas.vectors.spaces import pick_model

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

FEWEST = 3
"""The fewest shared concepts for which profiles are compared."""

PERMUTATIONS = 20
BLOCK = 32_768


@dataclass(frozen=True, slots=True)
class Matched:
    """Neurons of the first model with their matches in the second. models: both rows. concepts: the shared ones.
    defaults: what was left open and filled in. runs: of the maps."""

    rows: pa.Table
    models: tuple[Mapping[str, Any], Mapping[str, Any]]
    concepts: tuple[str, ...]
    defaults: tuple[str, ...]
    runs: tuple[str, ...]

    @property
    def provenance(self) -> Provenance:
        """The models, the concepts, the defaults and the runs, for an answer."""
        models = [{name: model[name] for name in ("name", "fingerprint")} for model in self.models]
        provenance: Provenance = {"models": models, "concepts": list(self.concepts), "runs": list(self.runs)}
        provenance["assumed"] = list(self.defaults)
        return provenance


def match(connection: Connection, first: str, second: str, spec: MapSpec, top: int, seed: int) -> Matched:
    """See `Atlas.match`. spec: the concept, method, source, and so on.

    Raises:
        UsageError: an unknown model or map, or fewer than three shared concepts.
    """
    if spec.concept is None or top < 1:
        raise UsageError("give the [[concept]] whose best neurons are matched, and a [[top]] of at least 1")
    models = [pick_model(connection, name)[0] for name in (first, second)]
    first_maps = whole_maps(connection, _all_concepts(models[0], spec))
    # The second model's maps must be of the same kind as the first's.
    same = {name: first_maps[0][name] for name in ("method", "source", "target", "reduce", "tap")}
    second_maps = whole_maps(connection, _all_concepts(models[1], replace(spec, run=None, dataset=None, **same)))
    shared = sorted({str(c["concept"]) for c in first_maps} & {str(c["concept"]) for c in second_maps})
    if len(shared) < FEWEST:
        shared_names = ", ".join(shared) or "none"
        raise UsageError(
            f"{models[0]['name']} and {models[1]['name']} share {len(shared)} concepts with {same['method']} maps "
            f"({shared_names}); {FEWEST} or more are needed"
        )
    if spec.concept not in shared:
        raise UsageError(
            f"'{spec.concept}' is not one of the concepts for which both models have maps: {', '.join(shared)}"
        )
    first_maps, second_maps = _in_order(first_maps, shared), _in_order(second_maps, shared)
    left, right = unit(profiles(connection, first_maps)), unit(profiles(connection, second_maps))
    best = _best_neurons(connection, first_maps[shared.index(spec.concept)], models[0], top)
    rows = _matched(best, left, right, [int(m["width"]) for m in models], seed)
    matches = pa.Table.from_pylist(_with_match_tokens(connection, rows, models[1]), schema=COLUMNS)
    left_open = dict.fromkeys(a for c in (*first_maps, *second_maps) for a in c.defaults if not a.startswith("run="))
    notes = token_notes(connection, [model["model_id"] for model in models])
    runs = tuple(sorted({str(c["run_id"]) for c in (*first_maps, *second_maps)}))
    return Matched(matches, (models[0], models[1]), tuple(shared), (*left_open, *notes), runs)


WORDS = pa.list_(pa.string())
COLUMNS = pa.schema(
    [
        pa.field("component", pa.string()),
        pa.field("layer", pa.int16()),
        pa.field("neuron", pa.int32()),
        pa.field("rank", pa.int32()),
        pa.field("match_layer", pa.int16()),
        pa.field("match_neuron", pa.int32()),
        pa.field("similarity", pa.float32()),
        pa.field("mutual", pa.bool_()),
        pa.field("null", pa.float32()),
        pa.field("p", pa.float32()),
        pa.field("tokens", WORDS),
        pa.field("match_tokens", WORDS),
    ]
)


def _all_concepts(model: Mapping[str, Any], spec: MapSpec) -> MapSpec:
    return replace(spec, concept=None, model=str(model["name"]), fingerprint=str(model["fingerprint"]))


def _in_order(chosen: Sequence[StoredMap], names: Sequence[str]) -> list[StoredMap]:
    by_name = {str(c["concept"]): c for c in chosen}
    return [by_name[name] for name in names]


_TOKENS = f"""
SELECT layer, neuron, tokens[1:5] AS tokens FROM {RAISED}
WHERE model_id = $model AND component = '{LANGUAGE}'
    AND (layer, neuron) IN (SELECT (unnest($layers::SMALLINT[]), unnest($neurons::INTEGER[])))"""


def tokens_of(
    connection: Connection, model: Mapping[str, Any], neurons: Sequence[tuple[int, int]]
) -> dict[Any, list[str]]:
    """The first decoded tokens of some neurons of the language model, by (layer, neuron)."""
    values = {"model": model["model_id"], "layers": [a[0] for a in neurons], "neurons": [a[1] for a in neurons]}
    return {(y, i): tokens for y, i, tokens in connection.sql(_TOKENS, params=values).fetchall()} if neurons else {}


def _best_neurons(
    connection: Connection, chosen: StoredMap, model: Mapping[str, Any], top: int
) -> list[dict[str, Any]]:
    query = compare_maps.chosen_neurons([chosen["map_id"]], Rule("top", top))
    rows = connection.sql(f"{query.sql} ORDER BY rank", params=dict(query.parameters)).to_arrow_table().to_pylist()
    tokens = tokens_of(connection, model, [(r["layer"], r["neuron"]) for r in rows])
    return [{"component": LANGUAGE, **r, "tokens": tokens.get((r["layer"], r["neuron"]), [])} for r in rows]


def _matched(
    best: Sequence[dict[str, Any]], left: np.ndarray, right: np.ndarray, widths: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """left, right: (neurons, concepts), rows of length 1 or zeros, of the two models."""
    places = np.array([row["layer"] * widths[0] + row["neuron"] for row in best])
    queries = left[places]
    similarity, matches = nearest_rows(queries, right)
    _, nearest_back = nearest_rows(right[matches], left)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(right.shape[1]) for _ in range(PERMUTATIONS)]
    # Rows whose columns are permuted are to `asked` as they are to it with its columns permuted back.
    permuted = np.concatenate([queries[:, np.argsort(order)] for order in orders])
    nulls = nearest_rows(permuted, right)[0].reshape(PERMUTATIONS, len(best))
    p = (1 + (nulls >= similarity).sum(0)) / (1 + PERMUTATIONS)
    matched_rows = []
    for i, row in enumerate(best):
        layer, neuron = divmod(int(matches[i]), widths[1])
        # Neurons of equal profiles cannot be told apart, so either counts as mutual.
        is_mutual = bool(np.array_equal(left[nearest_back[i]], left[places[i]]))
        values = {"match_layer": layer, "match_neuron": neuron, "similarity": similarity[i], "mutual": is_mutual}
        matched_rows.append({**row, **values, "null": nulls[:, i].mean(), "p": p[i]})
    return matched_rows


def nearest_rows(queries: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest product of each of `queries` (k, d) with any of `rows` (n, d), and the first row that has it."""
    largest = np.full(len(queries), -np.inf, np.float32)
    position = np.zeros(len(queries), np.int64)
    for start in range(0, len(rows), BLOCK):
        products = queries @ rows[start : start + BLOCK].T
        column = products.argmax(1)
        products_of_best = products[np.arange(len(queries)), column]
        better = products_of_best > largest
        largest[better], position[better] = products_of_best[better], start + column[better]
    return largest, position


def _with_match_tokens(
    connection: Connection, rows: list[dict[str, Any]], model: Mapping[str, Any]
) -> list[dict[str, Any]]:
    tokens = tokens_of(connection, model, [(r["match_layer"], r["match_neuron"]) for r in rows])
    return [{**r, "match_tokens": tokens.get((r["match_layer"], r["match_neuron"]), [])} for r in rows]
