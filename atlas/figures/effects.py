"""What an edit was measured to do: before, with it, and with as many random neurons, on its concept and on others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._parts import (
    Rows,
    entitle,
    grouped,
    legend,
    list_height,
    name_lines,
    name_values,
    one_or_panels,
    points,
    require_lines,
    shortened,
    with_run,
    zero_line,
)
from atlas.figures._style import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

SHARES = {
    "accuracy": "right answers, %",
    "unchanged": "answers as before, %",
    "drawn": "pictures of what was asked, %",
    "became": "pictures of the edit's goal, %",
    "picture": "answers with a picture, %",
}
"""Metrics that are drawn in percent."""
OTHERS = {
    "log_probability": "log-probability, nats",
    "kl": "divergence from before, nats",
    "drawn_probability": "judge's probability",
    "region_overlap": "region overlap, IoU",
}

CONDITIONS: dict[str, dict[str, Any]] = {
    "before": {"color": "k", "marker": "o", "markerfacecolor": "white", "label": "before"},
    "edit": {"color": COLOURS[1], "marker": "s", "label": "edited"},
    "random": {"color": GREY, "marker": "x", "label": "random neurons"},
}
"""How each condition is drawn, from the upper to the lower edge of a line."""


def draw(answer: Answer, *, ax: Axes | None = None, metric: str | None = None, source: str | None = None) -> Axes:
    """A panel for each source and metric, in it a line for each task, or each edit where there are several, and its
    questions about the concept and about others, with 95 % intervals; returns the first panel.

    metric, source: only this one.

    Raises:
        UsageError: nothing is left to draw, more lines than a page has room for, or several panels and one was given.
    """
    rows = [row for row in with_run(answer) if row["subset"] in ("concept", "others")]
    rows = [row for row in rows if metric in (None, row["metric"]) and source in (None, row["source"])]
    if not rows:
        raise UsageError("the answer has no effects on questions, of this source and metric")
    edits = {(row["edit"], row["run"]) for row in rows}
    if len(edits) > 1:
        rows = [row for row in rows if row["task"] == "*"]
        rows.sort(key=lambda row: (row["subset"], row["concept"] or "", row["edit"], row["run"]))
    kinds = grouped(rows, ["source", "metric"])
    lines = max(len(grouped(of_kind, ["edit", "run", "task", "subset"])) for of_kind in kinds.values())
    require_lines(lines, "lines", "[[edit]], [[concept]] or [[run]]")
    names = [f"{kind}, {of}" for kind, of in kinds]
    axes = one_or_panels(ax, names, "metric and source", columns=2, height=list_height(lines))
    for axis, ((kind, of), of_kind) in zip(axes, kinds.items(), strict=True):
        _panel(axis, of_kind, len(edits) > 1)
        name_values(axis, SHARES.get(of) or OTHERS.get(of) or of.replace("_", " "))
        if len({other for other, _ in kinds}) > 1:
            entitle(axis, f"{kind} questions")
    legend(ax, axes, columns=3, title=f"edit {rows[0]['edit']}" if len(edits) == 1 else None)
    return axes[0]


def _panel(axis: Axes, rows: Rows, several: bool) -> None:
    lines = grouped(rows, ["edit", "run", "task", "subset"])
    scale = 100 if rows[0]["metric"] in SHARES else 1
    seeds = max((row["seeds"] for row in rows if row["condition"] == "random"), default=0)
    for place, (condition, look) in enumerate(CONDITIONS.items()):
        found: list[Mapping[str, Any]] = []
        for of_line in lines.values():
            found.append(next((row for row in of_line if row["condition"] == condition), {}))
        values, lows, highs = (
            [None if row.get(name) is None else scale * row[name] for row in found] for name in ("value", "low", "high")
        )
        look = look | ({"label": f"{look['label']}, {seeds} draws"} if condition == "random" else {})
        points(axis, values, lows, highs, [line + 0.25 * (place - 1) for line in range(len(lines))], **look)
    by_concept = len({row["concept"] for row in rows}) == len({row["edit"] for row in rows})
    name_lines(axis, [_name(of_line[0], several, by_concept) for of_line in lines.values()], "questions")
    if scale == 100:
        axis.set_xlim(-4, 104)
    else:
        zero_line(axis)


def _name(row: Mapping[str, Any], several: bool, by_concept: bool) -> str:
    """Which edit, or which task of the one edit; which questions, and how many."""
    task = "all tasks" if row["task"] == "*" else str(row["task"])
    name = (str(row["concept"]) if by_concept and row["concept"] else str(row["edit"])) if several else task
    subset = "concept" if row["subset"] == "concept" else "others"
    return f"{shortened(name, 22)}: {subset} (n = {row['examples']})"
