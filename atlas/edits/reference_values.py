"""Stored statistics of neuron values over a reference set: what mean and minimum ablation put in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atlas.errors import UsageError
from atlas.neurons import PRODUCT, Neuron
from atlas.query import compare_maps, statements
from atlas.query.map_spec import MapSpec
from atlas.query.provenance import Provenance, maps_of
from atlas.query.resolve_maps import choose_map, one_tap
from atlas.store.database import open_readonly

MEAN, MIN, DEVIATION = "mean", "min", "sd"


def tap_of(provenance: Provenance) -> str:
    """The tap that a set of neurons was found at; the product where no map is behind it.

    Raises:
        UsageError: there are two.
    """
    maps = list(maps_of(provenance))
    return one_tap(maps) if maps else PRODUCT


def reference_values(path: Path, provenance: Provenance, statistic: str = MEAN) -> dict[Neuron, float]:
    """Every neuron's mean, minimum or standard deviation over all positions of the ingested examples.

    Of the sources that the neurons were found from (of all sources there are, where no map is behind them): the means
    are averaged over them, of the minima the least is taken, of the deviations the root of the mean square. They are
    those that the method `activation` keeps, of the same weights and tap.

    Raises:
        UsageError: there are none.
    """
    tap = tap_of(provenance)
    values_by_neuron: dict[Neuron, list[float]] = {}
    with open_readonly(path) as connection:
        for coordinates in _asked(path, provenance):
            which = MapSpec(concept="*", method="activation", reduce=statistic, tap=tap, **coordinates)
            try:
                chosen = choose_map(connection, which)
            except UsageError:
                raise UsageError(
                    f"no {statistic} values are stored for {coordinates.get('model', 'these weights')}, source "
                    f"{coordinates.get('source', 'any')}, tap {tap}; "
                    f"`atlas ingest --methods activation --tap {tap}` stores them"
                ) from None
            scored = compare_maps.map_scores(chosen["map_id"]).run(connection)
            columns = (scored[name].to_pylist() for name in ("layer", "neuron", "score"))
            for layer, index, score in zip(*columns, strict=True):
                values_by_neuron.setdefault(Neuron(chosen["component"], layer, index), []).append(score)
    of_sources: dict[str, Callable[[Sequence[float]], float]] = {MEAN: _mean, MIN: min, DEVIATION: _root_mean_square}
    return {neuron: of_sources[statistic](values) for neuron, values in values_by_neuron.items()}


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(_mean([value**2 for value in values]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _asked(path: Path, provenance: Provenance) -> list[dict[str, Any]]:
    """Which maps hold the reference: one question a source."""
    maps = list(maps_of(provenance))
    if maps:
        names = ("source", "target", "model", "dataset", "fingerprint")
        first = {m["source"]: {key: value for key, value in m.items() if key in names} for m in reversed(maps)}
        return [first[source] for source in sorted(first)]
    which = MapSpec(concept="*", method="activation", fingerprint=provenance["fingerprint"])
    with open_readonly(path) as connection:
        stored_maps = statements.find_maps(which).run(connection).to_pylist()
    fingerprint = {"fingerprint": provenance["fingerprint"]}
    return [{**fingerprint, "source": s} for s in sorted({m["source"] for m in stored_maps})] or [fingerprint]
