"""Conditions on maps and their neurons, shared by several questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas.query.filters import Filter
from atlas.query.map_spec import COORDINATES, OfConcept
from atlas.query.option import described, option
from atlas.query.request import build_filter


@described
class Conditions(OfConcept):
    """Coordinates of maps, and conditions on their neurons."""

    layers: str | int | Sequence[int] | None = option("Only these layers: 3, 8-15, 0,2,8-15.", default=None)
    token: str | None = option("Only neurons that decode to this token: bark, or bark*.", default=None)
    label: str | None = option("Only neurons with this label: image, or miner:image (`atlas labels ls`).", default=None)
    selection: str | None = option(
        "Only neurons of saved selections: 'dog & cat' (`atlas select ls`).", "--in", default=None
    )
    effect: str | None = option(
        "Only neurons of an edit with such a measured effect: suppression>0.5 (`atlas evaluate`).", default=None
    )
    score: str | None = option("Only such scores: '>0.5'.", default=None)
    rank: str | None = option("Only such ranks in the map: '<=40'.", default=None)
    percentile: str | None = option("Only such percentiles of the map: '>=99'.", default=None)
    z: str | None = option("Only so many robust standard deviations of the map: '>4'.", default=None)
    where: str | Filter | Mapping[str, Any] | None = option(
        "Any condition: 'layer in 8-15 and not token = bark'.", default=None
    )
    select: str | None = option(
        "A rule that chooses from each whole map first: top:50, share:1, per_layer:5, percentile:99, fraction:0.3 (of "
        "the largest score), above:0.5, z:4 (robust, against the map itself), z:4,concept=cat (against another map).",
        default=None,
    )

    def coordinates(self) -> dict[str, str | None]:
        """The coordinates by name, None where they are left open."""
        return {name: getattr(self, name) for name in COORDINATES}

    def conditions(self) -> dict[str, Any]:
        """The given conditions on neurons, as keywords of `build_filter`."""
        names = ("layers", "token", "label", "selection", "effect", "score", "rank", "percentile", "z", "where")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def filter(self, coordinates: Mapping[str, str | None] | None = None) -> Filter:
        """The filter for every coordinate and condition. coordinates: used instead of the question's own."""
        return build_filter(self.coordinates() if coordinates is None else coordinates, **self.conditions())
