"""The neurons of two models that do alike: nearest by their profiles over the concepts that both models have maps of.

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
"""Shared concepts below which profiles tell nothing."""

PERMUTATIONS = 20
BLOCK = 32_768


@dataclass(frozen=True, slots=True)
class Matched:
    """Rows of neurons of the first model and their match in the second. models: both rows; concepts: the shared ones;
    assumed: what was left open."""

    rows: pa.Table
    models: tuple[Mapping[str, Any], Mapping[str, Any]]
    concepts: tuple[str, ...]
    assumed: tuple[str, ...]

    @property
    def provenance(self) -> Provenance:
        """The two models, and the concepts that both have."""
        models = [{name: model[name] for name in ("name", "fingerprint")} for model in self.models]
        return {"models": models, "concepts": list(self.concepts), "assumed": list(self.assumed)}


def match(connection: Connection, first: str, second: str, which: MapSpec, top: int, seed: int) -> Matched:
    """See `Atlas.match`. which: the concept, method, source, ... meant.

    Raises:
        UsageError: an unknown model or map, or fewer than three shared concepts.
    """
    if which.concept is None or top < 1:
        raise UsageError("give the --concept whose best neurons are matched, and a --top of at least 1")
    models = [pick_model(connection, name)[0] for name in (first, second)]
    mine = whole_maps(connection, _of(models[0], which))
    # The second model is asked for the very kind of map that the first one has.
    same = {name: mine[0][name] for name in ("method", "source", "target", "reduce", "tap")}
    theirs = whole_maps(connection, _of(models[1], replace(which, run=None, dataset=None, **same)))
    shared = sorted({str(c["concept"]) for c in mine} & {str(c["concept"]) for c in theirs})
    if len(shared) < FEWEST:
        said = ", ".join(shared) or "none"
        raise UsageError(
            f"{models[0]['name']} and {models[1]['name']} share {len(shared)} concepts with {same['method']} maps "
            f"({said}); {FEWEST} or more are needed"
        )
    if which.concept not in shared:
        raise UsageError(
            f"'{which.concept}' is none of the concepts that both models have maps of: {', '.join(shared)}"
        )
    mine, theirs = _only(mine, shared), _only(theirs, shared)
    left, right = unit(profiles(connection, mine)), unit(profiles(connection, theirs))
    best = _best(connection, mine[shared.index(which.concept)], models[0], top)
    rows = _matched(best, left, right, [int(m["width"]) for m in models], seed)
    found = pa.Table.from_pylist(_told(connection, rows, models[1]), schema=COLUMNS)
    assumed = dict.fromkeys(a for c in (*mine, *theirs) for a in c.defaults if not a.startswith("run="))
    return Matched(found, (models[0], models[1]), tuple(shared), tuple(assumed))


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


def _of(model: Mapping[str, Any], which: MapSpec) -> MapSpec:
    return replace(which, concept=None, model=str(model["name"]), fingerprint=str(model["fingerprint"]))


def _only(chosen: Sequence[StoredMap], names: Sequence[str]) -> list[StoredMap]:
    by_name = {str(c["concept"]): c for c in chosen}
    return [by_name[name] for name in names]


_TOKENS = f"""
SELECT layer, neuron, tokens[1:5] AS tokens FROM decodings
WHERE model_id = $model AND component = '{LANGUAGE}' AND NOT norm AND side = 'top'
    AND (layer, neuron) IN (SELECT (unnest($layers::SMALLINT[]), unnest($neurons::INTEGER[])))"""


def tokens_of(connection: Connection, model: Mapping[str, Any], at: Sequence[tuple[int, int]]) -> dict[Any, list[str]]:
    """The first decoded tokens of some neurons of the language model, by (layer, neuron)."""
    values = {"model": model["model_id"], "layers": [a[0] for a in at], "neurons": [a[1] for a in at]}
    return {(y, i): tokens for y, i, tokens in connection.sql(_TOKENS, params=values).fetchall()} if at else {}


def _best(connection: Connection, chosen: StoredMap, model: Mapping[str, Any], top: int) -> list[dict[str, Any]]:
    query = compare_maps.chosen_neurons([chosen["map_id"]], Rule("top", top))
    rows = connection.sql(f"{query.sql} ORDER BY rank", params=dict(query.parameters)).to_arrow_table().to_pylist()
    tokens = tokens_of(connection, model, [(r["layer"], r["neuron"]) for r in rows])
    return [{"component": LANGUAGE, **r, "tokens": tokens.get((r["layer"], r["neuron"]), [])} for r in rows]


def _matched(
    best: Sequence[dict[str, Any]], left: np.ndarray, right: np.ndarray, widths: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """left, right: (neurons, concepts), rows of length 1 or zeros, of the two models."""
    at = np.array([row["layer"] * widths[0] + row["neuron"] for row in best])
    asked = left[at]
    similarity, found = nearest_rows(asked, right)
    _, back = nearest_rows(right[found], left)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(right.shape[1]) for _ in range(PERMUTATIONS)]
    # Rows whose columns are permuted are to `asked` as they are to it with its columns permuted back.
    moved = np.concatenate([asked[:, np.argsort(order)] for order in orders])
    nulls = nearest_rows(moved, right)[0].reshape(PERMUTATIONS, len(best))
    p = (1 + (nulls >= similarity).sum(0)) / (1 + PERMUTATIONS)
    out = []
    for i, row in enumerate(best):
        layer, neuron = divmod(int(found[i]), widths[1])
        # Two neurons of one profile are the same to us: either is mutual.
        same = bool(np.array_equal(left[back[i]], left[at[i]]))
        values = {"match_layer": layer, "match_neuron": neuron, "similarity": similarity[i], "mutual": same}
        out.append({**row, **values, "null": nulls[:, i].mean(), "p": p[i]})
    return out


def nearest_rows(asked: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest product of each of `asked` (k, d) with any of `rows` (n, d), and the first row that has it."""
    value = np.full(len(asked), -np.inf, np.float32)
    place = np.zeros(len(asked), np.int64)
    for start in range(0, len(rows), BLOCK):
        products = asked @ rows[start : start + BLOCK].T
        high = products.argmax(1)
        found = products[np.arange(len(asked)), high]
        better = found > value
        value[better], place[better] = found[better], start + high[better]
    return value, place


def _told(connection: Connection, rows: list[dict[str, Any]], model: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens = tokens_of(connection, model, [(r["match_layer"], r["match_neuron"]) for r in rows])
    return [{**r, "match_tokens": tokens.get((r["match_layer"], r["match_neuron"]), [])} for r in rows]
