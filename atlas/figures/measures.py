"""Measures of layers, or of concepts: as they are, with an edit, and with as many random neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._parts import (
    Rows,
    grouped,
    legend,
    list_height,
    name_lines,
    name_values,
    one_or_panels,
    points,
    require_lines,
    series,
    span,
    with_run,
)
from atlas.figures._style import COLOURS, GREY, HEIGHT
from atlas.query.statements import CHANCE_OF

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

UNITS = {"lens_entropy": "nats", "lens_uniform": "nats", "centroid_distance": "1 - cosine"}
"""Of measures that are neither shares nor correlations."""

PANELS = 12
"""On a page."""

LAYERED: dict[str, dict[str, Any]] = {
    "random": {"linestyle": "-", "linewidth": 3, "alpha": 0.35, "label": "without random neurons"},
    "before": {"linestyle": "-", "label": "as it is"},
    "edit": {"linestyle": "--", "label": "with the edit"},
}
"""How lines over the layers are drawn, the lowest first: often they are the same."""
OF_CHANCE: dict[str, Any] = {"linewidth": 0.8, "linestyle": ":"}

CONDITIONS: dict[str, dict[str, Any]] = {
    "before": {"color": COLOURS[0], "marker": "o", "label": "best neurons"},
    "others": {"color": COLOURS[1], "marker": "s", "markerfacecolor": "white", "label": "other concepts"},
    "random": {"color": GREY, "marker": "x", "label": "random neurons"},
}


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A panel for each measure, source and run: of layers, a line for each role or pair of roles, dashed with an edit,
    broad without random neurons and dotted for chance; of concepts, a line of points.

    Raises:
        UsageError: more panels than a page has room for, or several and one was given.
    """
    chances = set(CHANCE_OF.values())
    by_panel = grouped(with_run(answer), ["name", "source", "run"])
    kinds = {kind: rows for kind, rows in by_panel.items() if kind[0] not in chances} or by_panel
    if len(kinds) > PANELS:
        raise UsageError(f"a figure has room for {PANELS} panels, and the answer has {len(kinds)}; give [[name]]")
    lines = [len(_lines(rows)) for rows in kinds.values() if rows[0]["layer"] is None]
    height = list_height(max(lines)) if lines else HEIGHT
    require_lines(max(lines, default=0), "lines", "fewer concepts")
    names = [f"{name}, {source}" for name, source, _ in kinds]
    axes = one_or_panels(ax, names, "[[name]]", columns=2, height=height)
    pairs = sorted({(row["first"], row["second"]) for rows in kinds.values() for row in rows}, key=str)
    looks = {pair: series(place) for place, pair in enumerate(pairs)}  # the same in all panels
    for axis, (kind, rows) in zip(axes, kinds.items(), strict=True):
        chance = by_panel.get((CHANCE_OF.get(kind[0], ""), *kind[1:]), [])
        if rows[0]["layer"] is None:
            _concepts(axis, rows)
        else:
            _layers(axis, rows, chance, looks)
        axis.set_title(f"{kind[1]} (n = {span(row['examples'] for row in rows)})")
    legend(ax, axes, columns=3)
    return axes[0]


def _layers(axis: Axes, rows: Rows, chance: Rows, looks: Mapping[tuple[Any, ...], dict[str, Any]]) -> None:
    name = spelled(str(rows[0]["name"]))
    conditions = [condition for condition in LAYERED if any(row["condition"] == condition for row in rows)]
    for condition in conditions:
        for pair in grouped(rows, ["first", "second"]):
            look = looks[pair]
            found = [row for row in rows if (row["first"], row["second"]) == pair and row["condition"] == condition]
            of_condition = LAYERED[condition] | {"label": (_roles(*pair) or name) if condition == "before" else None}
            marker = {"marker": ""} if condition == "random" else {}
            axis.plot([row["layer"] for row in found], [row["value"] for row in found], **look | of_condition | marker)
            low, high = [row["low"] for row in found], [row["high"] for row in found]
            if condition == "before" and None not in low:
                axis.fill_between(
                    [row["layer"] for row in found], low, high, color=look["color"], alpha=0.15, linewidth=0
                )
    for condition in conditions if len(conditions) > 1 else ():
        axis.plot([], [], color="k", **LAYERED[condition])
    of_chance = [row for row in chance if row["condition"] == "before"]
    for pair, found in grouped(of_chance, ["first", "second"]).items():
        colour = looks.get(pair, {}).get("color", "k")
        axis.plot([row["layer"] for row in found], [row["value"] for row in found], color=colour, **OF_CHANCE)
    if of_chance:
        axis.plot([], [], color="k", label="chance", **OF_CHANCE)
    axis.locator_params(axis="x", integer=True)
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    axis.set_xlabel("layer")
    axis.set_ylabel(name)
    axis.grid(axis="y")


def _roles(first: str | None, second: str | None) -> str:
    return " to ".join(role for role in (first, second) if role)


def _lines(rows: Rows) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    return grouped(rows, ["method", "concept", "first"])


def _concepts(axis: Axes, rows: Rows) -> None:
    lines = _lines(rows)
    shown = [name for name in CONDITIONS if any(row["condition"] == name for row in rows)]
    for place, condition in enumerate(shown):
        found = [next((row for row in of if row["condition"] == condition), {}) for of in lines.values()]
        at = [line + 0.25 * (place - (len(shown) - 1) / 2) for line in range(len(found))]
        values, lows, highs = (_of(found, name) for name in ("value", "low", "high"))
        points(axis, values, lows, highs, at, **CONDITIONS[condition])
    name_lines(
        axis, [" ".join(str(part) for part in (concept, first) if part) for _, concept, first in lines], "concept"
    )
    name_values(axis, spelled(str(rows[0]["name"])))


def _of(rows: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    return [row.get(name) for row in rows]


def spelled(measure: str) -> str:
    """A measure's name with its unit."""
    return ", ".join(filter(None, [measure.replace("_", " "), UNITS.get(measure)]))
