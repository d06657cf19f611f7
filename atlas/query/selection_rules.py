"""Selection rules: which neurons of a stored map are chosen, written `name:amount` (`atlas query --select`).

A rule applies to one whole map; with several maps, to each separately.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from atlas.errors import UsageError, unknown

MAD, MEAN_AD = 1.482602218505602, 1.2533141373155003
"""Factors that turn a normal distribution's median and mean absolute deviation into its standard deviation."""


class Measure(NamedTuple):
    """What a rule measures of a neuron, and which values choose it."""

    sql: str
    keeps: str
    least: float  # of the amount that a user may give
    most: float
    meaning: str


LAYER_RANK = "row_number() OVER (PARTITION BY s.map_id, s.layer ORDER BY s.rank)"
OF_LARGEST = "s.score::DOUBLE / nullif(greatest(max(s.score) OVER (PARTITION BY s.map_id), 0), 0)::DOUBLE"
PERCENTILE = "100.0 * (m.neurons - s.rank + 1) / m.neurons"
SHARE = "CASE WHEN s.rank = 1 THEN 0 ELSE 100.0 * (s.rank - 0.5) / m.neurons END"
"""To the nearest neuron, at least one: as many as `atlas.query.amount.count_of` of the map's neurons."""
Z = "(s.score - n.center) / nullif(n.scale, 0)"
RULES: Mapping[str, Measure] = {
    "top": Measure("s.rank", "<=", 1, 1e9, "the N best of the map"),
    "share": Measure(SHARE, "<=", 0, 100, "the best N percent of the map"),
    "per_layer": Measure(LAYER_RANK, "<=", 1, 1e9, "the N best of each layer"),
    "percentile": Measure(PERCENTILE, ">=", 0, 100, "at or above this percentile"),
    "fraction": Measure(OF_LARGEST, ">", 0, 1, "above this fraction of the map's largest score"),
    "above": Measure("s.score", ">", -1e30, 1e30, "a score above this"),
    "z": Measure(Z, ">=", -1e9, 1e9, "so many robust standard deviations above the median"),
}
EXAMPLES = {"z": "for example 4", "above": "for example 0.5"}
"""Shown for a rule whose amount has no useful bounds."""

NULL_NAMES = ("concept", "method", "source", "target", "reduce")


@dataclass(frozen=True, slots=True)
class Rule:
    """One selection rule.

    top, per_layer: counts. share: in percent of the map's neurons. percentile: 100 is the best neuron's (see
    `atlas.query.statements`). fraction: of the map's largest score, exceeded; knowledge neurons take 0.3 (Dai et al.
    2022, section 3.2); a map without a positive score has none. above: a score that is exceeded; 0.5 of a
    `knowledge_neurons` map, whose scores are shares of prompts, gives their refined set. z: (score - median) / (1.4826
    * MAD), of the map itself or of a null map: a map's own neurons of interest would inflate a mean and a standard
    deviation. Where more than half of the scores are equal, as where most neurons never fire, MAD is 0 and 1.2533 times
    the mean absolute deviation takes its place (Iglewicz & Hoaglin 1993).

    null: of `z`, the names in which the null map differs from the map that is asked, such as {"concept": "cat"}:
    `z:4,concept=cat`. It must share the map's scale, which the scores of another method (`random` too) do not.
    """

    name: str
    amount: float
    null: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `top:50`, `share:1`, `per_layer:5`, `percentile:99`, `fraction:0.3`, `above:0.5`, `z:4` or
        `z:4,concept=cat`.

        Raises:
            UsageError: not a rule; the message says which there are.
        """
        name, _, rest = text.strip().partition(":")
        if name not in RULES:
            raise unknown("selection rule", name, RULES, "atlas query --help")
        amount_text, _, null = rest.partition(",")
        rule = RULES[name]
        is_count = name in ("top", "per_layer")
        try:
            amount = float(int(amount_text)) if is_count else float(amount_text)
        except (ValueError, OverflowError):  # a whole number may have more digits than a float has room for
            amount = float("nan")
        if not rule.least <= amount <= rule.most:
            bounds = EXAMPLES.get(name, f"{rule.least:g} to {rule.most:g}")
            if is_count:
                bounds = f"at least {rule.least:g}"
            number = "a whole number" if is_count else "a number"
            raise UsageError(
                f"the rule {name} needs {number}, {bounds}: {rule.meaning}; '{text}' has none ([[select]])"
            )
        if null and name != "z":
            raise UsageError(f"only z is measured against another map; write {name}:{amount_text}")
        return cls(name, amount, names_given(null, "[[select]] z:4,") if null else {})

    def __str__(self) -> str:
        amount = int(self.amount) if self.amount == int(self.amount) else self.amount
        return f"{self.name}:{amount}" + "".join(f",{key}={value}" for key, value in self.null.items())

    @property
    def parameters(self) -> dict[str, Any]:
        if self.name == "above":  # scores are stored in single precision: 0.7 is not above 0.7
            return {"amount": struct.unpack("f", struct.pack("f", self.amount))[0]}
        return {"amount": int(self.amount) if self.name in ("top", "per_layer") else self.amount}


EVERY = Rule("percentile", 0.0)
"""The rule that chooses every neuron."""


def names_given(text: str, option: str) -> dict[str, str]:
    """Read `concept=cat,source=text`: names in which one map differs from another.

    Raises:
        UsageError: not `name=value`, or a name in which maps cannot differ.
    """
    names_by_kind: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or name not in NULL_NAMES:
            raise UsageError(
                f"'{part}' does not name a map; write {option}concept=cat (or {', '.join(NULL_NAMES[1:])})"
            )
        names_by_kind[name] = value
    return names_by_kind


# Every score of a map, or as many evenly spaced ones of a map that does not keep all.
_WHOLE = """SELECT map_id, score FROM scores JOIN maps USING (map_id) WHERE kept = neurons
          UNION ALL SELECT map_id, score FROM sketches"""


BY_PLACE = ("top", "share", "per_layer", "percentile")
"""The rules that choose by a neuron's rank among the others."""


def placed(alias: str, maps: str = "SELECT unnest($maps::INTEGER[])") -> str:
    """SQL: whether a row of scores has a place of its own.

    Most scores of a map may be exactly 0, and their order is random: where the map's best score is above 0, they are in
    no top and have no percentile. maps: a SELECT of the ids of the maps.
    """
    positive = f"SELECT map_id FROM scores WHERE map_id IN ({maps}) AND rank = 1 AND score > 0"
    return f"({alias}.score <> 0 OR {alias}.map_id NOT IN ({positive}))"


def selected(rule: Rule, *, z: bool = False, first: bool = False, zeros: bool = True) -> str:
    """Common table expressions, the last of them `chosen`: the rows of the maps $maps that the rule chooses.

    Its columns are those that filters test, `placed` among them. z: add a column of that name. first: only the $first
    best of each map, where no others are needed. zeros: also neurons without a place of their own (`placed`), where the
    rule does not choose by place. All SQL text here is from RULES; what the user wrote is bound ($amount, $maps,
    $nulls).
    """
    measure = RULES[rule.name]
    tests = [] if rule == EVERY else [f"measure {measure.keeps} $amount"]
    if not zeros or (rule.name in BY_PLACE and rule != EVERY):
        tests.append("placed")
    chooses = f"\n    WHERE {' AND '.join(tests)}" if tests else ""
    spread, joined, column = "", "", ""
    if z or rule.name == "z":
        joined, column = "JOIN spread n USING (map_id)", f"{Z} AS z,"
        spread = f"""spread AS (  -- median and robust standard deviation of each map's null
    SELECT n.map_id, any_value(s.center) AS center,
           coalesce(nullif({MAD} * mad(s.score), 0), {MEAN_AD} * avg(abs(s.score - s.center))) AS scale
    FROM (SELECT unnest($maps::INTEGER[]) AS map_id, unnest($nulls::INTEGER[]) AS null_id) n
    JOIN (SELECT map_id, score::DOUBLE AS score, median(score::DOUBLE) OVER (PARTITION BY map_id) AS center
          FROM ({_WHOLE}) WHERE map_id IN (SELECT unnest($nulls::INTEGER[]))) s ON s.map_id = n.null_id
    GROUP BY n.map_id),
"""
    return f"""{spread}chosen AS (
    SELECT * FROM (
        SELECT s.map_id, m.model_id, m.component, s.layer, s.neuron, s.score, s.rank,
               {PERCENTILE} AS percentile, {column} {placed("s")} AS placed, {measure.sql} AS measure
        FROM scores s JOIN maps m USING (map_id) {joined}
        WHERE s.map_id IN (SELECT unnest($maps::INTEGER[])){" AND s.rank <= $first" if first else ""}){chooses})"""


def bound(rule: Rule, map_ids: Sequence[int], null_ids: Sequence[int], *, z: bool = False) -> dict[str, Any]:
    """The parameters of `selected`."""
    nulls = {"nulls": list(null_ids)} if z or rule.name == "z" else {}
    return {"maps": list(map_ids), **nulls, **({} if rule == EVERY else rule.parameters)}
