"""Methods by how well they follow exact ablation, and by what ablating their neurons did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._parts import Rows, entitle, grouped, legend, list_height, name_lines, name_values, points, zero_line
from atlas.figures._style import COLOURS, GREY, panels
from atlas.stats.leaderboard import ACCURACY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

CORRELATION, EFFECT = MEASURES = ("correlation", "effect")


def draw(answer: Answer, *, ax: Axes | None = None, source: str | None = None, measure: str | None = None) -> Axes:
    """A row of panels for each source: the rank correlation with the reference, and what is left after ablation.

    source: only this one. measure: correlation or effect; both by default, and on a given panel the correlation.
    Methods are in the answer's order. Effects are those of the largest number of neurons that most methods have.

    Raises:
        UsageError: no such source or measure, or several sources and one panel was given.
    """
    if measure not in (None, *MEASURES):
        raise UsageError(f"measure is {' or '.join(MEASURES)}, not '{measure}'")
    sources = grouped([row for row in answer.to_pylist() if source in (None, row["source"])], ["source"])
    if not sources:
        raise UsageError(f"the answer has no source '{source}'")
    if ax is not None and len(sources) > 1:
        raise UsageError(f"the answer has the sources {', '.join(s for (s,) in sources)}; draw one of them (source)")
    has_effects = any(row["effects"] for of_source in sources.values() for row in of_source)
    both = MEASURES if has_effects else (CORRELATION,)
    measures = [measure] if measure else [CORRELATION] if ax is not None else list(both)
    lines = max(len(of_source) for of_source in sources.values())
    height = list_height(lines)
    axes = [ax] if ax is not None else panels(len(sources) * len(measures), columns=len(measures), height=height)
    kinds = [(rows, kind) for rows in sources.values() for kind in measures]
    for axis, (rows, kind) in zip(axes, kinds, strict=True):
        if kind == CORRELATION:
            _correlations(axis, rows, str(answer.facts["reference"]))
        else:
            _effects(axis, rows)
        entitle(axis, f"{rows[0]['source']}{axis.get_title()}")
        name_lines(axis, [_named(row, kind) for row in rows], "method")
    if EFFECT in measures:
        legend(ax, axes, columns=3)
    return axes[0]


def _correlations(axis: Axes, rows: Rows, reference: str) -> None:
    values, lows, highs = ([row[f"correlation{end}"] for row in rows] for end in ("", "_low", "_high"))
    points(axis, values, lows, highs, range(len(rows)), color=COLOURS[0], marker="o")
    zero_line(axis)
    name_values(axis, f"rank correlation with {reference}")


def _effects(axis: Axes, rows: Rows) -> None:
    amounts = [effect["top"] for row in rows for effect in row["effects"] or []]
    # Of the numbers that most methods have, the last: they are stored from the smallest to the largest.
    top = max(amounts, key=lambda amount: (amounts.count(amount), amounts.index(amount)), default=None)
    found: list[Mapping[str, Any]] = [next((e for e in row["effects"] or [] if e["top"] == top), {}) for row in rows]
    metric = next((row["metric"] for row in rows if row["metric"]), ACCURACY)
    scale = 100 if metric == ACCURACY else 1
    looks: Mapping[str, dict[str, Any]] = {
        "own": {"color": COLOURS[1], "marker": "s", "label": "its concept"},
        "others": {"color": COLOURS[0], "marker": "o", "markerfacecolor": "white", "label": "others"},
        "random_own": {"color": GREY, "marker": "x", "label": "its concept, random neurons"},
    }
    for place, (name, look) in enumerate(looks.items()):
        values, lows, highs = (_scaled(found, f"{name}{end}", scale) for end in ("", "_low", "_high"))
        points(axis, values, lows, highs, [line + 0.25 * (place - 1) for line in range(len(rows))], **look)
    if metric == ACCURACY:
        axis.set_xlim(-4, 104)
        name_values(axis, "right answers left, %")
    else:
        zero_line(axis)
        name_values(axis, "change of log-probability, nats")
    entitle(axis, f", {top} neurons ablated" if top else "")


def _scaled(effects: Sequence[Mapping[str, Any]], name: str, scale: int) -> list[float | None]:
    return [None if effect.get(name) is None else scale * effect[name] for effect in effects]


def _named(row: Mapping[str, Any], kind: str) -> str:
    """The method, and how many concepts its numbers are means over."""
    number = row["ranked"] if kind == CORRELATION else row["ablated"]
    return f"{row['method']} (n = {number})" if number else f"{row['method']} (not measured)"
