"""The neurons that a rule chooses from many maps, and the statistics of two of these sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atlas.query import compare_maps
from atlas.query.resolve_maps import (
    StoredMap,
    null_map,
)
from atlas.query.selection_rules import Rule
from atlas.stats.loudness import Loudness
from atlas.stats.membership import covariates
from atlas.stats.overlap_null import (
    ANSWERS,
    MATCHED,
    MISMATCHED,
    answer_statistics,
    matched_statistics,
    mismatched_statistics,
    overlap_statistics,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


class ChosenSets:
    """The neurons that a rule chooses from each of many maps, and the overlap of two of these sets."""

    def __init__(self, connection: Connection, rule: Rule, maps: Sequence[StoredMap]):
        self.maps = list({c["map_id"]: c for c in maps}.values())
        nulls = [null_map(connection, c, rule.null) if rule.name == "z" else c for c in self.maps]
        ids = [c["map_id"] for c in self.maps]
        table = compare_maps.chosen_neurons(ids, rule, [n["map_id"] for n in nulls]).run(connection)
        rows = zip(*(table[name].to_pylist() for name in ("map_id", "layer", "neuron")), strict=True)
        self.neurons: dict[int, set[tuple[int, int]]] = {i: set() for i in ids}
        for map_id, layer, neuron in rows:
            self.neurons[map_id].add((layer, neuron))

    def overlap(
        self, connection: Connection, pair: Sequence[StoredMap], loudness: Loudness, only: bool
    ) -> dict[str, float | None]:
        """The statistics of two maps against any neurons, and against matched ones."""
        import numpy as np

        first, second = (self.neurons[c["map_id"]] for c in pair)
        shared = len(first & second)
        counts: dict[str, float | None] = {"shared": shared, **({"only": len(first) - shared} if only else {})}
        counts["chosen"] = len(first)
        if loudness.covers(pair):
            place = np.arange(loudness.neurons)
        else:  # a filtered map, or one of some layers: only neurons that both score can be shared
            place = loudness.places(compare_maps.scored_by_both(*(c["map_id"] for c in pair)).run(connection))
        sets = [np.isin(place, loudness.places_of(neurons)) for neurons in (first, second)]
        sizes = [int(members.sum()) for members in sets]
        unscored = len(first) - sizes[0]
        counts |= overlap_statistics(sizes, shared, len(place), only=only, unscored=unscored)
        if loudness.by:
            known = covariates(place // loudness.width, [loud[place] for loud in loudness.values])
            matched = matched_statistics(sets[0], sets[1], known, shared, only=only, unscored=unscored)
            counts |= {f"{MATCHED}{name}": value for name, value in matched.items()}
        return counts

    def answered(self, pair: Sequence[StoredMap], answers: Sequence[StoredMap], only: bool) -> dict[str, float | None]:
        """The statistics of a concept's two maps against those of the same answers after other prompts."""
        if not answers:
            return {}
        first, second, *swapped = (frozenset(self.neurons[c["map_id"]]) for c in (*pair, *answers))
        statistics = answer_statistics(first, second, swapped, only=only)
        return {f"{ANSWERS}{name}": value for name, value in statistics.items()}

    def mismatched(self, pair: Sequence[StoredMap], only: bool) -> dict[str, float | None]:
        """The statistics of a concept's two maps against those of other concepts."""
        first, second = (self.neurons[c["map_id"]] for c in pair)
        others = []
        for c in self.maps:
            if c["concept"] == pair[0]["concept"] or c["method"] not in {p["method"] for p in pair}:
                continue
            for own, opposite in ((first, pair[1]), (second, pair[0])):
                if all(c[name] == opposite[name] for name in ("method", "source", "target")):
                    others.append(len(own & self.neurons[c["map_id"]]))
        statistics = mismatched_statistics(len(first), len(first & second), others, only=only)
        return {f"{MISMATCHED}{name}": value for name, value in (*statistics.items(), ("pairs", len(others)))}
