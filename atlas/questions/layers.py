"""How neurons are distributed over the layers of their model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE
from atlas.query import statements
from atlas.query.amount import rule_of
from atlas.query.answer import Answer
from atlas.query.execute import by_filter, by_resolved_maps
from atlas.query.find import NeuronQuery, ResolvedMaps
from atlas.query.map_spec import MapSpec, OfConcept
from atlas.query.neuron_set import NeuronSet, layer_distribution
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.query.request import build_filter
from atlas.query.resolve_maps import choose_several, same_but
from atlas.query.selection_rules import Rule
from atlas.questions._overlaps import facts_of, lines_of, require_singular_or_plural
from atlas.stats.even_spread import even_band
from atlas.stats.overlap import of_selections
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

PAIRED = ("method", "source", "target")


@described
class Layers(OfConcept, Question[Answer]):
    """How a concept's neurons are distributed over the layers: count, share, cumulative share, enrichment over an even
    spread, and from null_low to null_high the counts of 95 % of the draws of as many neurons from all layers.

    With two sources, targets or methods, for two selections and the neurons in both, which are compared with each null;
    with `of`, for saved neurons, or those of another answer.

    Raises:
        UsageError: neither a concept nor neurons, a map that the atlas does not have, or neurons of another model.
    """

    examples = (
        "atlas layers --concept dog --top 40",
        "atlas layers --concept dog --sources image,text --select percentile:99",
    )

    of: str | NeuronSet | None = option(
        "Saved selections' and edits' neurons, joined: 'dog', 'dog & cat', '(a | b) - no-dog'.", default=None
    )
    methods: tuple[str, ...] = option("One method, or two and what both choose.", default=())
    sources: tuple[str, ...] = option("One source, or two and what both have.", default=())
    targets: tuple[str, ...] = option("One target, or two and what both have.", default=())
    select: str | None = option("A rule instead of [[top]]: percentile:99, per_layer:5, z:4.", default=None)
    top: int | str | None = option(
        "How many neurons: 40, or 1% of a map. [default: 40]", "--top", "-n", default=None, least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.select and self.top:
            raise UsageError("[[top]] N is [[select]] top:N; give one of them")
        if (self.concept is None) == (self.of is None):
            raise UsageError("give [[concept=dog]], or saved neurons with [[of=dog & cat]]")
        require_singular_or_plural(self, PAIRED)
        two = [several for name in PAIRED if len(several := getattr(self, f"{name}s")) > 1]
        if len(two) > 1 or any(len(several) != 2 or several[0] == several[1] for several in two):
            raise UsageError(
                "give two [[sources]], for example image,text, or two [[targets]] or [[methods]]; not several of these"
            )

    def answer(self, path: Path) -> Answer:
        from atlas.edits.set_expression import of_expression

        with open_readonly(path) as connection:
            if self.of is not None:
                neurons = of_expression(path, self.of) if isinstance(self.of, str) else self.of
                name = self.of if isinstance(self.of, str) else "neurons"
                return self._distributions(connection, {name: neurons}, {}, [])
            return self._of_concept(connection, path)

    def _of_concept(self, connection: Connection, path: Path) -> Answer:
        from atlas.edits.set_expression import members

        rule = Rule.parse(self.select) if self.select else rule_of(self.top or 40)
        single = {name: several[0] for name in PAIRED if len(several := getattr(self, f"{name}s")) == 1}
        spec = self.maps(**single)
        pair = next((name for name in PAIRED if len(getattr(self, f"{name}s")) == 2), None)
        if pair is None:
            request = NeuronQuery(build_filter(spec.given()), rule, limit=None)
            neurons = by_filter(connection, request, partial(members, path))
            return self._distributions(connection, {str(neurons.provenance["maps"][0]["source"]): neurons}, {}, [])
        values = getattr(self, f"{pair}s")
        sets = _chosen_by_value(connection, spec, pair, values, rule)
        first, second = (sets[value] for value in values)
        sets["both"] = first & second
        common = of_selections(connection, spec, pair, values, rule)
        notes = [f"{len(sets['both'])} in both", *lines_of(common)]
        return self._distributions(connection, sets, facts_of(common), notes, first.defaults)

    def _distributions(
        self,
        connection: Connection,
        sets: Mapping[str, NeuronSet],
        facts: Mapping[str, Any],
        notes: list[str],
        defaults: tuple[str, ...] = (),
    ) -> Answer:
        """The answer for sets of neurons of one model."""
        provenance = sets[list(sets)[-1]].provenance.copy()
        shapes = statements.model_layers(str(provenance.get("fingerprint"))).run(connection).to_pylist()
        if not shapes:
            raise UsageError("the atlas does not have the model of these neurons; `atlas models` lists those it has")
        tables = []
        for name, neurons in sets.items():
            table = _with_null(layer_distribution(neurons, shapes[0]["layers"]), **shapes[0])
            tables.append(table.add_column(0, "set", pa.array([name] * len(table), pa.string())))
        provenance.setdefault("assumed", list(defaults))
        counts = {"neurons": {name: len(neurons) for name, neurons in sets.items()}}
        return Answer(pa.concat_tables(tables), provenance, facts=counts | dict(facts), notes=notes)


def _with_null(table: pa.Table, layers: int, width: int) -> pa.Table:
    """The distribution with the band of an even spread: of the language model, whose width is known."""
    counts = [row["count"] for row in table.to_pylist() if row["component"] == LANGUAGE]
    band = even_band(sum(counts), layers, width)
    bands = [band if component == LANGUAGE else (None, None) for component in table["component"].to_pylist()]
    for place, name in enumerate(("null_low", "null_high")):
        table = table.append_column(name, pa.array([band[place] for band in bands], pa.int64()))
    return table


def _chosen_by_value(
    connection: Connection, spec: MapSpec, name: str, values: tuple[str, ...], rule: Rule
) -> dict[str, NeuronSet]:
    """The neurons that a rule chooses from the maps of several methods, sources or targets that are otherwise alike."""
    sets = {}
    for value, chosen in zip(values, choose_several(connection, spec, name, values), strict=True):
        request = NeuronQuery(build_filter(same_but(chosen, {"run": spec.run})), rule, limit=None)
        sets[value] = by_resolved_maps(connection, request, ResolvedMaps((chosen,), (True,), {}))
    return sets
