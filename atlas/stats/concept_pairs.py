"""How many of their best neurons every two concepts share, compared with chance, and which concepts share alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.query.resolve_maps import StoredMap
from atlas.query.selection_rules import Rule
from atlas.stats.chosen_sets import ChosenSets
from atlas.stats.loudness import loudness_of
from atlas.stats.membership import covariates, probabilities
from atlas.stats.overlap_null import given_probabilities, overlap_statistics

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

NAMES = ("expected", "lift", "p")
SCHEMA = pa.schema(
    [("concept", pa.string()), ("other", pa.string()), ("shared", pa.int64())]
    + [(f"{name}{null}", pa.float64()) for null in ("", "_matched") for name in (*NAMES, "q")]
)


def concept_pairs(connection: Connection, chosen: Sequence[StoredMap], top: int) -> tuple[pa.Table, str, list[str]]:
    """One row for every two concepts, those that share most first: see `atlas.questions.concept_matrix`.

    chosen: a map for each concept, alike in all else. Returns the rows, what matched neurons have in common ("" where
    the maps do not score every neuron, so that none are matched), and the concepts in clustered order.
    """
    import numpy as np

    sets = ChosenSets(connection, Rule("top", top), chosen)
    loudness = loudness_of(connection, chosen)
    total = min(int(c["neurons"]) for c in chosen)
    matched = loudness.by if loudness.covers(chosen) else ""
    neurons = {str(c["concept"]): sets.neurons[c["map_id"]] for c in chosen}
    if matched:
        place = np.arange(loudness.neurons)
        known = covariates(place // loudness.width, loudness.values)
        likely = {name: probabilities(known, np.isin(place, loudness.places_of(of))) for name, of in neurons.items()}
    rows: list[dict[str, Any]] = []
    by_counts: dict[tuple[int, int, int], dict[str, float | None]] = {}
    for first, second in combinations(neurons, 2):
        sizes, shared = (len(neurons[first]), len(neurons[second])), len(neurons[first] & neurons[second])
        if (*sizes, shared) not in by_counts:  # the law of SciPy takes much longer than all the rest
            by_counts[*sizes, shared] = overlap_statistics(sizes, shared, total)
        chance = by_counts[*sizes, shared]
        row: dict[str, Any] = {"concept": first, "other": second, "shared": shared, **_short(chance, "")}
        if matched:
            of_pair = given_probabilities(likely[first], likely[second], known, sizes[0], shared)
            row |= _short(of_pair, "_matched")
        rows.append(row)
    _add_q(rows, ["", "_matched"] if matched else [""])
    order = clustered(list(neurons), {(row["concept"], row["other"]): row["shared"] for row in rows})
    rows.sort(key=lambda row: (-row["shared"], row["concept"], row["other"]))
    return pa.Table.from_pylist(rows, schema=SCHEMA), matched, order


def clustered(names: Sequence[str], shared: dict[tuple[str, str], int]) -> list[str]:
    """The names with those that share most beside each other: average linkage, its leaves in the best order."""
    import numpy as np
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(names) < 3:
        return list(names)
    place = {name: number for number, name in enumerate(names)}
    alike = np.zeros((len(names), len(names)))
    for (first, second), number in shared.items():
        alike[place[first], place[second]] = alike[place[second], place[first]] = number
    distance = alike.max() - alike
    np.fill_diagonal(distance, 0.0)
    joined = linkage(squareform(distance), "average", optimal_ordering=True)
    return [names[leaf] for leaf in leaves_list(joined)]


def _short(statistics: dict[str, float | None], suffix: str) -> dict[str, float | None]:
    values = (statistics["expected"], statistics["lift"], statistics["p_value"])
    return {f"{name}{suffix}": value for name, value in zip(NAMES, values, strict=True)}


def _add_q(rows: Sequence[dict[str, Any]], suffixes: Sequence[str]) -> None:
    """Benjamini and Hochberg's (1995) false discovery rate over the pairs."""
    from scipy.stats import false_discovery_control

    for suffix in suffixes:
        values = false_discovery_control([row[f"p{suffix}"] for row in rows])
        for row, q in zip(rows, values, strict=True):
            row[f"q{suffix}"] = float(q)
