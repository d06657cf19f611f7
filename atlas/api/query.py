"""The everyday question, in the whole query language, and selections saved from it. Part of `Atlas`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.edits import set_expression
from atlas.query import saved
from atlas.query.execute import by_filter, count_passing
from atlas.query.filters import Filter
from atlas.query.find import NeuronQuery
from atlas.query.neuron_set import NeuronSet
from atlas.query.request import build_filter, build_request
from atlas.query.saved import Selection
from atlas.query.statements import Query
from atlas.store.database import open_readonly


class Questions:
    """The methods of `Atlas` that ask for neurons by what is stored of them."""

    path: Path

    def query(
        self,
        concept: str | None = None,
        method: str | None = None,
        *,
        source: str | None = None,
        target: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
        supercategory: str | None = None,
        component: str | None = None,
        tap: str | None = None,
        layers: str | int | Sequence[int] | None = None,
        token: str | None = None,
        label: str | None = None,
        selection: str | None = None,
        effect: str | None = None,
        score: str | None = None,
        rank: str | None = None,
        percentile: str | None = None,
        z: str | None = None,
        where: str | Filter | Mapping[str, Any] | None = None,
        select: str | None = None,
        sort: str | Sequence[str] = (),
        top: int | None = None,
        after: str | None = None,
        each: bool = False,
    ) -> NeuronSet:
        """The neurons that score best for a concept, or in all maps that a filter is about: component, layer, neuron,
        what their maps differ in, score, rank, percentile, decoded tokens, and of one map which other methods have them
        among their `top` too.

        What is left open is filled in (the newest model, `contribution`, the image side, the contrast) and noted in the
        set's provenance under "assumed"; without a concept, every concept's map is asked.

        concept: a name, one of its surface forms, or a pattern with * and ?; the other names are exact, or patterns.
        layers to where: see `atlas.query.request.build_filter`. select: a rule that chooses from each whole map first,
        such as `percentile:99` (`atlas.query.selection_rules.Rule`). sort: fields, a minus sign for the largest first.
        top: at most so many, 20 by default, all that `select` chooses with it. after: the provenance's "next" of the
        page before. each: every neuron once, with the map in which it ranks best: which concept is each neuron's?

        Raises:
            UsageError: something cannot be read, or the atlas has no such map; the message has the nearest name.
        """
        names = {"concept": concept, "method": method, "source": source, "target": target, "reduce": reduce}
        names |= {"model": model, "dataset": dataset, "run": run, "supercategory": supercategory}
        tree = build_filter(
            names | {"component": component, "tap": tap},
            layers=layers,
            token=token,
            label=label,
            selection=selection,
            effect=effect,
            score=score,
            rank=rank,
            percentile=percentile,
            z=z,
            where=where,
        )
        return self.ask(build_request(tree, select, sort, top, after, each))[0]

    def ask(self, ask: NeuronQuery) -> tuple[NeuronSet, Query]:
        """`query` with everything read already, and the statement that answered it."""
        with open_readonly(self.path) as connection:
            return by_filter(connection, ask, partial(set_expression.members, self.path))

    def count(self, ask: NeuronQuery) -> tuple[pa.Table, Query, dict[str, Any]]:
        """How many neurons of each map pass: what the maps differ in, passing, kept (all that could), neurons; the most
        first. With the statement, and the provenance of the maps."""
        with open_readonly(self.path) as connection:
            return count_passing(connection, ask, partial(set_expression.members, self.path))

    def select(self, rule: str, concept: str | None = None, method: str | None = None, **more: Any) -> NeuronSet:
        """`query` with the rule first: `atlas.select("top:50", "dog") - atlas.select("top:50", "cat")`.

        Raises:
            UsageError: not a rule, a map that the atlas does not have.
        """
        return self.query(concept, method, select=rule, **more)

    def save_selection(
        self, name: str, neurons: NeuronSet, *, note: str | None = None, replace: bool = False
    ) -> Selection:
        """Keep a set of neurons under a name, with what it came from.

        Raises:
            UsageError: a bad name, no neurons, neurons of several models, or a name that is taken.
        """
        with open_readonly(self.path):  # there is an atlas
            return saved.save(self.path, name, neurons, note=note, replace=replace)

    def selection(self, expression: str) -> NeuronSet:
        """The neurons of saved selections and edits, joined by set algebra: `dog`, `dog & cat`, `(a | b) - c`.

        Raises:
            UsageError: not such an expression, a name that does not exist, or neurons of two models.
        """
        with open_readonly(self.path):  # there is an atlas
            return set_expression.of_expression(self.path, expression)

    def selections(self) -> pa.Table:
        """Every saved selection."""
        with open_readonly(self.path):
            return saved.listing(self.path)

    def remove_selection(self, name: str) -> None:
        """Remove a saved selection.

        Raises:
            UsageError: there is none.
        """
        with open_readonly(self.path):
            saved.remove(self.path, name)
