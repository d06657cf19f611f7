"""A filter over stored maps: what remains to be tested for each map, and that as SQL with everything bound.

Tests of a map's names are decided here, map by map; the remaining tests are about neurons, and maps with the same
remaining tests share one condition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atlas.query.decoded import SHOWN
from atlas.query.filters import IOU, NUMBERS, OF_MAPS, WHOLE, And, Filter, Not, Or, Test, fits, is_glob, spans

PREFIXES = ("run", "fingerprint")
"""Names that may be given by their beginning."""


@dataclass(frozen=True, slots=True)
class Members:
    """The neurons of a saved selection: component -> (layer, neuron)s of the model with these weights."""

    fingerprint: str
    neurons: Mapping[str, Collection[tuple[int, int]]]


def of_map(tree: Filter, row: Mapping[str, Any], selections: Mapping[str, Members]) -> Filter | bool:
    """The tests of a filter that remain for the neurons of one map (a row of `find_maps`): True where every neuron
    passes, False where none can."""
    if isinstance(tree, Test):
        if tree.field in OF_MAPS:
            return _passes_name_test(tree, row)
        if tree.field == "selection":
            values = tree.value if tree.op == "in" else (tree.value,)
            of_these_weights = tuple(v for v in values if selections[v].fingerprint == row["fingerprint"])
            if not of_these_weights:
                return tree.op == "!="
            return Test("selection", tree.op, of_these_weights if tree.op == "in" else of_these_weights[0])
        return tree
    if isinstance(tree, Not):
        remaining = of_map(tree.part, row, selections)
        return not remaining if isinstance(remaining, bool) else Not(remaining)
    decides = isinstance(tree, Or)  # the answer of one part that decides for all
    parts = [of_map(part, row, selections) for part in tree.parts]
    if any(part is decides for part in parts):
        return decides
    open_parts = tuple(part for part in parts if not isinstance(part, bool))
    if not open_parts:
        return not decides
    if len(open_parts) == 1:
        return open_parts[0]
    return Or(open_parts) if decides else And(open_parts)


def _passes_name_test(test: Test, row: Mapping[str, Any]) -> bool:
    stored = row["run_id" if test.field == "run" else test.field]
    values = test.value if test.op == "in" else (test.value,)
    matches = stored is not None and any(name_matches(test.field, str(stored), value) for value in values)
    return matches != (test.op == "!=")


def name_matches(name: str, stored: str, pattern: str) -> bool:
    """Whether a stored name matches: equal, or by `*` and `?`; of runs and weights, a prefix is enough."""
    if is_glob(name, pattern):
        return stored != "*" and fits(stored, pattern)
    return stored.startswith(pattern) if name in PREFIXES else stored == pattern


OF_PLACE = ("rank", "percentile")
"""The fields that a neuron without a place of its own (`atlas.query.selection_rules.placed`) lacks: it passes no test
of them."""

_SAME = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

# A neuron and what it is part of, as one value: of a model, and of a map.
OF_MODEL = "(model_id, component, layer, neuron)"
OF_MAP = "(map_id, layer, neuron)"

TOKENS = f"""(SELECT model_id, component, layer, neuron FROM decodings
        WHERE {SHOWN} AND len(list_filter(tokens, lambda t: {{test}})) > 0)"""
LABELS = """(SELECT r.model_id, l.component, l.layer, l.neuron FROM labels l JOIN runs r USING (run_id)
        WHERE l.label = {label}{rule})"""
MEASURED = """measured AS (  -- what an edit, or a survey of a method's best neurons, did to accuracy over all tasks
    SELECT edit, run_id, model_id, concept, source,
           max(value) FILTER (subset = 'concept' AND condition = 'before') AS before,
           max(value) FILTER (subset = 'concept' AND condition = 'edit') AS own,
           max(value) FILTER (subset = 'concept' AND condition = 'random') AS random,
           max(value) FILTER (subset = 'others' AND condition = 'edit') AS retention,
           before - own AS suppression, retention - own AS selectivity, random - own AS beyond_random
    FROM effects JOIN runs USING (run_id) WHERE metric = 'accuracy' AND task = '*' GROUP BY ALL),
touched AS (  -- the neurons of each
    SELECT NULL AS run_id, concat(name, '@', version) AS edit, NULL AS source, component, layer, neuron
    FROM edits JOIN changes USING (edit_id)
    UNION ALL
    SELECT run_id, split_part(key, '|', 1), split_part(key, '|', 2),
           CASE WHEN len(parts) = 3 THEN parts[1] ELSE 'language' END, 
           try_cast(parts[-2] AS INTEGER), try_cast(parts[-1] AS INTEGER)
    FROM (SELECT run_id, key, string_split(unnest(value), '/') AS parts
          FROM (SELECT run_id, unnest(map_entries(try(from_json(job::JSON -> '$.survey', '"MAP(VARCHAR, VARCHAR[])"'))),
                       recursive := true) FROM runs WHERE kind = 'evaluate' AND status = 'done'))),
effective AS (
    SELECT m.map_id, t.layer, t.neuron, e.suppression, e.retention, e.selectivity, e.beyond_random
    FROM maps m LEFT JOIN concepts c USING (concept_id)
    JOIN measured e ON e.model_id = m.model_id AND e.source = m.source
        AND (c.name IS NULL OR e.concept IS NULL OR e.concept = c.name)
    JOIN touched t ON t.edit = e.edit AND t.component = m.component
        AND (t.run_id IS NULL OR t.run_id = e.run_id AND t.source = e.source)
    WHERE m.map_id IN (SELECT unnest($maps::INTEGER[]))),
"""
LOOKING = """looking AS (  -- how well neurons find the pixels of a map's concept, of the newest run that has it
    SELECT m.map_id, s.layer, s.neuron, s.score AS iou
    FROM maps m JOIN maps i ON i.method = 'iou' AND i.model_id = m.model_id AND i.concept_id = m.concept_id
        AND i.component = m.component
    JOIN runs r ON r.run_id = i.run_id JOIN scores s ON s.map_id = i.map_id
    WHERE m.map_id IN (SELECT unnest($maps::INTEGER[]))
    QUALIFY dense_rank() OVER (PARTITION BY m.map_id ORDER BY r.finished_at DESC, i.map_id) = 1),
"""


@dataclass
class Condition:
    """SQL for what passes, over the columns of `atlas.query.selection_rules.selected`, and its parameters."""

    selections: Mapping[str, Members] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def bind(self, value: Any) -> str:
        """Add a parameter; returns its placeholder."""
        name = f"f{len(self.parameters)}"
        self.parameters[name] = value
        return f"${name}"

    def groups(self, remaining: Sequence[tuple[int, Filter | bool]]) -> str:
        """SQL for the filter over all maps. remaining: each map's id and the tests that remain for its neurons."""
        maps: dict[Filter | bool, list[int]] = {}
        for map_id, tree in remaining:
            maps.setdefault(tree, []).append(map_id)
        if len(maps) == 1:
            return self.sql(next(iter(maps)))
        cases = (
            f"(map_id IN (SELECT unnest({self.bind(ids)}::INTEGER[])) AND {self.sql(t)})" for t, ids in maps.items()
        )
        return "(" + " OR ".join(cases) + ")"

    def sql(self, tree: Filter | bool) -> str:
        """The condition of one filter."""
        if isinstance(tree, bool):
            return "true" if tree else "false"
        if isinstance(tree, Not):
            return f"NOT {self.sql(tree.part)}"
        if isinstance(tree, And | Or):
            word, nothing = (" AND ", "true") if isinstance(tree, And) else (" OR ", "false")
            return "(" + (word.join(self.sql(part) for part in tree.parts) or nothing) + ")"
        if tree.field in NUMBERS:
            return self._number(tree)
        if tree.field.startswith("effect."):
            name = tree.field.removeprefix("effect.")
            return f"{OF_MAP} IN (SELECT {OF_MAP} FROM effective WHERE {name} {_SAME[tree.op]} {self.bind(tree.value)})"
        if tree.field == IOU:
            compared = f"iou {_SAME[tree.op]} {self.bind(tree.value)}::FLOAT"
            return f"{OF_MAP} IN (SELECT {OF_MAP} FROM looking WHERE {compared})"
        values = tree.value if tree.op == "in" else (tree.value,)
        passes = {"token": self._token, "label": self._label, "selection": self._selection}[tree.field]
        either = "(" + " OR ".join(passes(v) for v in values) + ")"
        return f"NOT {either}" if tree.op == "!=" else either

    def _number(self, test: Test) -> str:
        column = test.field
        cast = "::FLOAT" if column == "score" else ""  # scores are stored in single precision
        if test.op == "in" and test.field in WHOLE:
            ranges = (f"{column} BETWEEN {self.bind(low)} AND {self.bind(high)}" for low, high in spans(test.value))
            compared = " OR ".join(ranges)
        elif test.op == "in":
            compared = " OR ".join(f"{column} = {self.bind(v)}{cast}" for v in test.value)
        else:
            compared = f"{column} {_SAME[test.op]} {self.bind(test.value)}{cast}"
        passed = f"coalesce({compared}, false)"  # z of a map without spread is NULL, and passes no test
        return f"(placed AND {passed})" if column in OF_PLACE else passed

    def _token(self, value: str) -> str:
        token = "lower(trim(t))"
        if is_glob("token", value):
            pattern = "".join({"*": ".*", "?": "."}.get(sign) or _escaped(sign) for sign in value.lower())
            test = f"regexp_full_match({token}, {self.bind(pattern)}, 's')"
        else:
            test = f"{token} = {self.bind(value.strip().lower())}"
        return f"{OF_MODEL} IN {TOKENS.format(test=test)}"

    def _label(self, value: str) -> str:
        rule, colon, label = value.partition(":")
        of_rule = f" AND starts_with(l.rule, {self.bind(rule)})" if colon else ""
        return f"{OF_MODEL} IN {LABELS.format(label=self.bind(label if colon else value), rule=of_rule)}"

    def _selection(self, value: str) -> str:
        members = self.selections[value].neurons
        cases = [
            f"(component = {self.bind(name)} AND {_KEY} IN (SELECT unnest({self.bind(_keys(addresses))}::BIGINT[])))"
            for name, addresses in members.items()
        ]
        return "(" + (" OR ".join(cases) or "false") + ")"


_KEY = "(layer::BIGINT << 32 | neuron)"


def _keys(neurons: Iterable[tuple[int, int]]) -> list[int]:
    return sorted(layer << 32 | neuron for layer, neuron in neurons)


def _escaped(sign: str) -> str:
    return sign if sign.isalnum() or ord(sign) > 127 else f"\\{sign}"
