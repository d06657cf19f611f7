"""Which neurons carry a concept, or pass any condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query.amount import rule_of
from atlas.query.compare_maps import one_column_each
from atlas.query.execute import by_filter, by_vote
from atlas.query.neuron_set import NeuronSet
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.query.request import build_request
from atlas.query.resolve_maps import same_but, voters
from atlas.query.selection_rules import Rule, names_given
from atlas.questions._conditions import Conditions
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

READABLE = 8
"""The most columns of ranks that are printed."""


@described
class Query(Conditions, Question[NeuronSet]):
    """The neurons that score best for a concept, or in all maps that a condition is about.

    Columns: component, layer, neuron, what their maps differ in, score, rank, percentile, decoded tokens, and of one
    map the other methods that have the neuron in the top 2 % of theirs, and null_score where its method stores what
    chance would give (`iou`). What is left open is filled in (the newest model, `contribution`, the image side, the
    contrast) and told; without a concept, every concept's map is asked.

    Names may be patterns (`d*`). `where` takes a whole condition of the fields model, dataset, concept, supercategory,
    method, run, source, target, component, reduce, tap, layer, neuron, score, rank, percentile, z, token, label,
    selection, effect.suppression, effect.retention, effect.selectivity, effect.beyond_random and iou (of the method of
    that name), with = != < <= > >= in, and, or, not and parentheses.

    With several methods, or a supercategory alone, the neurons that the rule chooses in more than half of their maps,
    as knowledge neurons are refined over prompts (Dai et al. 2022, section 3.2): votes, found_by, the rank in every
    map, and the mean percentile (0 where a map does not score the neuron).

    Raises:
        UsageError: something cannot be read, or the atlas has no such map; the message has the nearest name.
    """

    examples = (
        "atlas query --concept dog --source text --top 5",
        'atlas query --where "concept in dog,cat and layer in 2-3 and (percentile >= 99.9 or token = bark*)"',
        "atlas query --token bark --effect 'suppression>0.5' --sort=-score",
        "atlas query --concept dog --methods contribution,activation,ablation --agree 2 --top 50",
    )

    sort: str | Sequence[str] | None = option(
        "Fields to sort by, the largest first with a minus: -score. [default: rank]", default=None
    )
    top: int | str | None = option(
        "How many neurons: 40, or 1% of each map. [default: 20, or all that --select chooses]",
        "--top",
        "-n",
        "--limit",
        default=None,
        least=1,
    )
    after: str | None = option("Go on behind a page: the cursor that it ended with.", default=None)
    each: bool = option("Every neuron once, with the map in which it ranks best.", default=False)
    minus: str | None = option("Leave out the best of another map, as many: concept=cat.", default=None)
    methods: tuple[str, ...] = option("Several methods that vote: contribution,ablation.", default=())
    agree: int | None = option("In how many of the [[methods]], or concepts. [default: more than half]", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.given():
            raise UsageError(
                "give [[concept]], or another condition: [[token=bark]], [[label=image]], "
                "[[where]] ... (`atlas query --help`)"
            )
        paged = self.sort or self.after or self.each
        if self.votes() and (self.conditions() or self.minus or paged):
            raise UsageError("for a vote of several maps, give only names of maps, [[select]], [[top]] and [[agree]]")
        if self.agree is not None and not self.votes():
            raise UsageError("[[agree]] is for votes: give [[supercategory]], or [[concept]] with [[methods=a,b]]")

    def votes(self) -> bool:
        """Whether several maps vote."""
        whole_supercategory = self.supercategory is not None and self.concept is None
        return bool(self.methods) or (
            whole_supercategory and not (self.conditions() or self.sort or self.after or self.each)
        )

    def answer(self, path: Path) -> NeuronSet:
        with open_readonly(path) as connection:
            return self._vote(connection) if self.votes() else self._find(connection, path)

    def _find(self, connection: Connection, path: Path) -> NeuronSet:
        from atlas.edits.set_expression import members

        def ask(names: Mapping[str, Any] | None, sort: Any, *page: Any) -> NeuronSet:
            request = build_request(self.filter(names), self.select, sort, self.top, *page)
            return by_filter(connection, request, partial(members, path))

        neurons = ask(None, self.sort, self.after, self.each)
        if self.minus is None:
            note = f"there are more: a larger [[top]], or [[after={neurons.next}]]"
            conditional = self.conditions() or self.select or self.sort or self.after
            neurons.notes = (note,) if neurons.next and conditional else ()
            return neurons
        if len(neurons.provenance["maps"]) != 1:
            raise UsageError(
                "[[minus]] compares one map with another; for several, save selections (`atlas select save`)"
            )
        first_map = neurons.provenance["maps"][0]
        same = same_but(first_map, names_given(self.minus, "[[minus]] "))
        try:
            excluded = ask({**same, "run": first_map["run_id"]}, None)
        except UsageError:  # look in other runs
            excluded = ask(same, None)
        rest = neurons - excluded
        rest.sql = neurons.sql
        return rest

    def _vote(self, connection: Connection) -> NeuronSet:
        if self.select and self.top:
            raise UsageError("the maps vote by one rule; give [[select]] or [[top]]")
        rule = Rule.parse(self.select) if self.select else rule_of(self.top or 20)
        chosen, names = voters(connection, self.maps(), self.methods)
        voted = by_vote(connection, chosen, names, rule, self.agree)
        voted.table = one_column_each(voted.table, {"ranks": "rank"}, names)
        if len(names) > READABLE:
            voted.brief = voted.table.drop_columns([f"rank_{name}" for name in names])
        rule_used = voted.provenance["selection"]
        needed = rule_used["agree"] if isinstance(rule_used, dict) else self.agree
        if not len(voted):
            voted.notes = (f"no neuron is chosen in {needed} maps; a smaller [[agree]] asks for fewer",)
        return voted
