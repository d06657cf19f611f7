"""What an atlas answers from several maps at once: votes, overlaps, layers, agreement. Part of `Atlas`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query import compare_maps, statements
from atlas.query.execute import by_vote, of_meant
from atlas.query.find import NeuronQuery, ResolvedMaps
from atlas.query.map_spec import MapSpec
from atlas.query.neuron_set import NeuronSet, layer_distribution
from atlas.query.request import build_filter
from atlas.query.resolve_maps import choose_several, first_answer, same_but, voters
from atlas.query.selection_rules import Rule
from atlas.query.statements import Query
from atlas.stats.dose_response import doses
from atlas.stats.leaderboard import ORDERS, leaderboard, of_effects
from atlas.stats.overlap import Common, ConceptOverlaps, Shared, of_concept, of_concepts, of_selections, sides
from atlas.store.database import open_readonly

REFERENCE = "ablation"
"""The method that the others are compared with: it measures what they estimate."""


class AcrossMaps:
    """The methods of `Atlas` that compare maps."""

    path: Path

    def _ask(self, question: Query) -> pa.Table:
        with open_readonly(self.path) as connection:
            return question.run(connection)

    def vote(
        self,
        concept: str | None = None,
        methods: Sequence[str] = (),
        *,
        supercategory: str | None = None,
        rule: str = "top:20",
        at_least: int | None = None,
        method: str | None = None,
        source: str | None = None,
        target: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
    ) -> NeuronSet:
        """The neurons that a rule chooses in several maps: of one concept by several methods, or of all concepts of
        a supercategory by one method.

        at_least: in so many of the maps; by default in more than half, as knowledge neurons are refined over prompts
        (Dai et al. 2022, section 3.2: a share above 0.5). Columns: votes, agree (the maps by name), ranks (in every
        map, in order), percentile (the mean over all maps; 0 where a map does not score the neuron), tokens.

        Raises:
            UsageError: not one concept and several methods, nor a supercategory; or a map that is not there.
        """
        which = MapSpec(
            concept,
            method,
            source=source,
            target=target,
            reduce=reduce,
            model=model,
            dataset=dataset,
            run=run,
            supercategory=supercategory,
        )
        return self.vote_sql(which, methods, Rule.parse(rule), at_least)[0]

    def vote_sql(
        self, which: MapSpec, methods: Sequence[str], rule: Rule, at_least: int | None
    ) -> tuple[NeuronSet, Query]:
        """`vote`, and the statement that answered it."""
        with open_readonly(self.path) as connection:
            chosen, names = voters(connection, which, methods)
            return by_vote(connection, chosen, names, rule, at_least)

    def shared(
        self,
        concept: str,
        method: str | None = None,
        *,
        side: str = "source",
        sources: Sequence[str] = (),
        targets: Sequence[str] = (),
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
        top: int = 40,
    ) -> Shared:
        """The neurons in the top of a concept's maps of two sources, or with side="target" of two targets.

        sources, targets: two of the side that is compared (image and text by default), at most one of the other; two
        targets alone compare targets. The statistics count the shared neurons, what chance would give, the ratio of the
        two and its p-value, among the neurons that both maps score: against any, and against matched ones of the same
        layer and mean activation.

        Raises:
            UsageError: not two modalities, or a map that the atlas does not have.
        """
        side, between, one = sides(side, sources, targets)
        which = MapSpec(concept, method, reduce=reduce, model=model, dataset=dataset, run=run, **one)
        with open_readonly(self.path) as connection:
            return of_concept(connection, which, side, between, top, only=False)

    def only(
        self,
        concept: str,
        method: str | None = None,
        *,
        side: str = "source",
        sources: Sequence[str] = (),
        targets: Sequence[str] = (),
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
        top: int = 40,
    ) -> Shared:
        """The neurons in the top of a concept's first modality and not of its second; otherwise as `shared`."""
        side, between, one = sides(side, sources, targets)
        which = MapSpec(concept, method, reduce=reduce, model=model, dataset=dataset, run=run, **one)
        with open_readonly(self.path) as connection:
            return of_concept(connection, which, side, between, top, only=True)

    def overlaps(
        self,
        which: MapSpec,
        concepts: Sequence[str] = (),
        *,
        side: str = "source",
        between: Sequence[str] = ("image", "text"),
        only: bool = False,
        top: int = 40,
    ) -> ConceptOverlaps:
        """The statistics of `shared`, or `only`, for every concept (of these names, of `which.supercategory`), most
        surprising first, with q-values over the concepts.

        Raises:
            UsageError: no concept has both maps, or a name that no map has.
        """
        with open_readonly(self.path) as connection:
            return of_concepts(connection, which, side, between, top, only, concepts)

    def select_each(self, which: MapSpec, name: str, values: Sequence[str], rule: Rule) -> dict[str, NeuronSet]:
        """What a rule chooses from the maps of several methods, sources or targets (`name`) that are alike in all else.

        Raises:
            UsageError: one of them has no such map, or they have nothing in common.
        """
        with open_readonly(self.path) as connection:
            found = {}
            for value, chosen in zip(values, choose_several(connection, which, name, values), strict=True):
                ask = NeuronQuery(build_filter(same_but(chosen, {"run": which.run})), rule, limit=None)
                found[value], _ = of_meant(connection, ask, ResolvedMaps((chosen,), (True,), {}))
            return found

    def common(self, which: MapSpec, name: str, values: Sequence[str], rule: Rule) -> Common:
        """How many neurons two of the sets of `select_each` share, and what each null gives.

        Raises:
            UsageError: as `select_each`.
        """
        with open_readonly(self.path) as connection:
            return of_selections(connection, which, name, values, rule)

    def layers(self, neurons: NeuronSet) -> pa.Table:
        """How a set of neurons (of any selection, or set algebra of several) lies over the layers of its model: see
        `atlas.query.execute.layer_distribution`.

        Raises:
            UsageError: the atlas does not have the model of these neurons.
        """
        rows = self._ask(statements.model_layers(str(neurons.provenance.get("fingerprint"))))
        if not len(rows):
            raise UsageError("the atlas does not have the model of these neurons; `atlas models` lists those it has")
        return layer_distribution(neurons, rows["layers"][0].as_py())

    def agreement(
        self,
        reference: str | None = None,
        *,
        concept: str | None = None,
        source: str | None = None,
        target: str = "text",
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """How well each method's ranking of neurons follows the reference's: rank correlation, overlap of the tops.

        reference: a stored method, by default exact ablation. model, dataset: by default the newest that have maps to
        compare.

        Raises:
            UsageError: a name that the atlas does not have.
        """
        return self.agreement_for(
            MapSpec(concept, None, source=source, target=target, reduce=reduce, model=model, dataset=dataset, run=run),
            reference,
        )[0]

    def agreement_for(self, which: MapSpec, reference: str | None) -> tuple[pa.Table, tuple[str, ...]]:
        """`agreement`, and what was left open, as `name=value (others: ...)`."""
        which = replace(which, target=which.target or "text")
        there = replace(which, method=reference)  # the reference's own maps, where one was named
        with open_readonly(self.path) as connection:

            def ask(one: MapSpec) -> pa.Table:
                return compare_maps.agreement(reference or REFERENCE, replace(one, method=None)).run(connection)

            return first_answer(connection, there, ask)

    def method_agreement(
        self,
        *,
        concept: str | None = None,
        source: str | None = None,
        target: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
        seed: int = 0,
    ) -> pa.Table:
        """How far every two methods agree, over the same examples and concepts: one row a pair, source, target and
        reduction, best first.

        correlation: Spearman's, equal scores sharing their mean rank. overlap: share of one's top 2 % that the other's
        top 2 % has. Both are over the neurons that both maps score, and means over concepts, as in `agreement`.
        _low, _high: 95 % interval: over the concepts, none of two; of one concept, over bootstrap draws of its
        neurons. model, dataset: by default the newest that have maps of two methods.

        Raises:
            UsageError: a name that the atlas does not have.
        """
        return self.method_agreement_for(
            MapSpec(concept, None, source=source, target=target, reduce=reduce, model=model, dataset=dataset, run=run),
            seed,
        )[0]

    def method_agreement_for(self, which: MapSpec, seed: int) -> tuple[pa.Table, tuple[str, ...]]:
        """`method_agreement`, and what was left open."""
        from atlas.stats.method_pairs import pairwise

        with open_readonly(self.path) as connection:
            return first_answer(connection, which, lambda one: pairwise(connection, one, seed))

    def leaderboard(
        self,
        reference: str | None = None,
        *,
        source: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        by: str = "selectivity",
    ) -> pa.Table:
        """Every method by what was measured of it, by source, the best first: by selectivity, suppression (the least
        accuracy left on the concept), retention (the most on others) or correlation.

        correlation, precision_1, precision_2: of its maps with the reference's (exact ablation's by default), in the
        runs that have both, by contrast where there is one (`reduce` says): Spearman's correlation, and the share of
        its top 1 % and 2 % of all neurons that is in the reference's. ranked: how many concepts these are means over.

        effects: for each number of neurons that `atlas evaluate --method` ablated, found by that reduction, in its
        newest run: the accuracy left on the concept (own) and on others, the same with as many random neurons, and
        before. selectivity: others minus own, the mean over the numbers of neurons that all measured methods of the
        source have. ablated: how many concepts these effects are means over, the fewest where numbers differ.

        model, dataset: by default the newest of which anything was measured.

        Raises:
            UsageError: a name that the atlas does not have.
        """
        which = MapSpec(source=source, reduce=reduce, model=model, dataset=dataset)
        return self.leaderboard_for(which, reference, by)[0]

    def leaderboard_for(
        self, which: MapSpec, reference: str | None, by: str = "selectivity"
    ) -> tuple[pa.Table, tuple[str, ...]]:
        """`leaderboard`, and what was left open."""
        if by not in ORDERS:
            raise UsageError(f"no --by called '{by}'; there are: {', '.join(ORDERS)}")
        which = replace(which, target=which.target or "text")
        there = replace(which, method=reference)
        with open_readonly(self.path) as connection:
            against = reference or REFERENCE
            return of_effects(
                connection, there, lambda one: leaderboard(connection, replace(one, method=None), against, by)
            )

    def doses(self, which: MapSpec) -> tuple[pa.Table, tuple[str, ...]]:
        """What `atlas evaluate --method A,B --doses 0.5%,1%,2%` measured, one row for every source, method and dose:
        how many neurons (share: of all), the accuracy left on their concept (own) and on others, with as many random
        neurons of the same layers, and before; means over `concepts`, own_low to own_high and random_own_low to
        random_own_high their 95 % intervals over these (`atlas.stats.intervals`; none of fewer than three concepts).
        And what was left open: the newest model and dataset that have any.

        Raises:
            UsageError: a name that the atlas does not have.
        """
        with open_readonly(self.path) as connection:
            return of_effects(connection, which, lambda one: doses(connection, one))
