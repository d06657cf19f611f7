"""Two maps side by side: the best neurons of either, and how many both have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query.amount import count_of
from atlas.query.compare_maps import OF_ANY, one_column_each, score_correlation, top_neurons
from atlas.query.decoded import token_notes
from atlas.query.map_spec import MapSpec, OfConcept
from atlas.query.neuron_set import NeuronSet
from atlas.query.option import described, option, required
from atlas.query.question import Question
from atlas.query.resolve_maps import StoredMap, choose_map, null_map, provenance_of, same_but
from atlas.query.selection_rules import Rule, names_given
from atlas.query.statements import find_maps
from atlas.questions._overlaps import smaller_top
from atlas.stats.chosen_sets import ChosenSets
from atlas.stats.loudness import loudness_of
from atlas.stats.overlap import require_kept
from atlas.stats.overlap_null import null_lines, suffixed
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

BOTH, FIRST, SECOND = "both", "first", "second"


@described
class Compare(OfConcept, Question[NeuronSet]):
    """Two maps side by side: the neurons in the top of either, with their rank and score in both.

    The coordinates choose the first map, `to` says in what the second differs: another concept, method, source, target
    or reduction. Columns: component, layer, neuron, `in` (both, first or second), rank_first, rank_second, score_first,
    score_second, tokens. Facts: how many are `shared` of `top`; `expected`, `lift` and `p` by chance, and with
    `_matched` for neurons of the same layers and loudness; `correlation`, Spearman's, of the scores of all `neurons`
    that both maps score; `first` and `second`, the names of the maps. A claim that two modalities share a concept needs
    the nulls of `shared`.

    Raises:
        UsageError: a map that the atlas does not have, or twice the same one.
    """

    examples = (
        "atlas compare --concept dog --source image --to source=text",
        "atlas compare --concept dog --to concept=cat,source=text --top 1%",
    )

    to: str = required("In what the second map differs: source=text, or concept=cat,method=activation.")
    top: int | str = option("How many of the best neurons of each map: 40, or 1%.", "--top", "-n", default=40, least=1)

    def answer(self, path: Path) -> NeuronSet:
        differing = names_given(self.to, "[[to]] ")
        with open_readonly(path) as connection:
            first, second = self._maps(connection, differing)
            if first["map_id"] == second["map_id"]:
                raise UsageError(f"[[to={self.to}]] is the same map; name one that differs")
            return self._compared(connection, (first, second))

    def _maps(self, connection: Connection, differing: Mapping[str, str]) -> tuple[StoredMap, StoredMap]:
        """The two maps; of methods without a reduction in common, where none is asked for, one that both have."""
        first = choose_map(connection, self.maps())
        try:
            return first, null_map(connection, first, differing)
        except UsageError:
            if "method" not in differing or "reduce" in differing or self.reduce is not None:
                raise
            same = same_but(first, {**differing, "reduce": None})
            stored = {str(row["reduce"]) for row in find_maps(MapSpec(**same)).run(connection).to_pylist()}
            mine = find_maps(MapSpec(**same_but(first, {"reduce": None}))).run(connection).to_pylist()
            common = sorted(stored & {str(row["reduce"]) for row in mine})
            if not common:
                raise
            first = choose_map(connection, self.maps(reduce=common[0]))
            noted = StoredMap(first.row, (*first.defaults, f"reduce={common[0]} (which both methods have)"))
            return noted, null_map(connection, first, differing)

    def _compared(self, connection: Connection, maps: tuple[StoredMap, StoredMap]) -> NeuronSet:
        first, second = maps
        top = count_of(self.top, first["neurons"])
        loudness = loudness_of(connection, maps)
        require_kept(maps, loudness, top)
        sets = ChosenSets(connection, Rule("top", top), maps)
        counts = sets.overlap(connection, maps, loudness, only=False)
        alike = score_correlation(first["map_id"], second["map_id"]).run(connection).to_pylist()[0]
        rows = top_neurons([first["map_id"], second["map_id"]], top=top, of=OF_ANY).run(connection)
        rows = one_column_each(rows, {"ranks": "rank", "scores": "score"}, (FIRST, SECOND))
        tops = [sets.neurons[c["map_id"]] for c in maps]
        rows = rows.add_column(3, "in", pa.array([_where(row, tops) for row in rows.to_pylist()], pa.string()))
        facts = {suffixed(name): value for name, value in counts.items()} | alike
        facts |= {"top": top, "matched": loudness.by, FIRST: _name(first), SECOND: _name(second)}
        notes = [f"first: {_name(first)}; second: {_name(second)}", f"{counts['shared']} of {top} in the tops of both"]
        for where, of in zip((FIRST, SECOND), tops, strict=True):
            notes += smaller_top(f"the {where}", len(of), top)
        notes += null_lines(counts, loudness.by)
        if alike["correlation"] is not None:
            notes.append(f"rank correlation over {alike['neurons']:,} neurons: {alike['correlation']:.2f}")
        provenance = provenance_of(maps, {"top": top, "compared": self.to})
        provenance["assumed"] += token_notes(connection, [c["model_id"] for c in maps])
        return NeuronSet(rows, provenance, facts=facts, notes=notes)


def _where(row: dict[str, int], tops: list[set[tuple[int, int]]]) -> str:
    """Which tops have a neuron."""
    first, second = ((row["layer"], row["neuron"]) in top for top in tops)
    return BOTH if first and second else FIRST if first else SECOND


def _name(chosen: StoredMap) -> str:
    """`dog by contribution, image to text, contrast`."""
    row = chosen.row
    return f"{row['concept']} by {row['method']}, {row['source']} to {row['target']}, {row['reduce']}"
