"""Labels: how many neurons have each, in which layers they are, or the neurons that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.errors import UsageError
from atlas.figures._parts import (
    LINES,
    count_by_layer,
    entitle,
    grouped,
    legend,
    list_height,
    name_lines,
    name_values,
    one_or_panels,
    require_lines,
    series,
    shortened,
)
from atlas.figures._ranked import draw_ranked
from atlas.figures._style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """Without a run, a bar for each label of each rule; with one, a line a neuron, the highest score first; by layer, a
    line for each label, and dashed how many of its neurons have another label too.

    Raises:
        UsageError: more labels or neurons than a page has room for.
    """
    columns = set(answer.table.column_names)
    if {"layer", "also_other"} <= columns:
        return _layers(answer, ax)
    if "neuron" in columns:
        axis = draw_ranked(answer, "score", ax=ax, also=["label"])
        axis.set_xlabel("score of the label's rule")
        entitle(axis, f"n = {len(answer)} labelled neurons")
        return axis
    if "neurons" not in columns:
        raise UsageError("this answer has no labels")
    return _counts(answer, ax)


def _counts(answer: Answer, ax: Axes | None) -> Axes:
    rows = answer.to_pylist()
    require_lines(len(rows), "labels", "a [[run]]")
    [axis] = one_or_panels(ax, ["labels"], "one", height=list_height(len(rows)))
    counts = [row["neurons"] for row in rows]
    axis.barh(range(len(rows)), counts, color=COLOURS[0], height=0.6)
    for line, count in enumerate(counts):
        axis.text(count, line, f" {count:,}", va="center", fontsize=6)
    names = [f"{row['label']}, by {shortened(row['rule'].partition(':')[0], 18)} ({row['run'][:4]})" for row in rows]
    name_lines(axis, names, "label (run)")
    axis.margins(x=0.15)
    axis.set_xlim(left=0)
    name_values(axis, "neurons")
    return axis


def _layers(answer: Answer, ax: Axes | None) -> Axes:
    """Layers between the first and the last without a row have no neuron with the label."""
    rows = answer.to_pylist()
    [axis] = one_or_panels(ax, ["layers"], "one")
    layers = range(min(row["layer"] for row in rows), max(row["layer"] for row in rows) + 1)
    for place, ((label,), of_label) in enumerate(grouped(rows, ["label"]).items()):
        counts, shared = ({row["layer"]: row[name] for row in of_label} for name in ("neurons", "also_other"))
        look = series(place)
        name = f"{label} (n = {sum(counts.values()):,})"
        axis.plot(layers, [counts.get(layer, 0) for layer in layers], label=name, linestyle=LINES[place % 3], **look)
        if any(shared.values()):
            values = [shared.get(layer, 0) for layer in layers]
            name = f"{label}, also another ({sum(shared.values()):,})"
            axis.plot(layers, values, label=name, linestyle=":", markerfacecolor="white", **look)
    count_by_layer(axis)
    legend(ax, [axis])
    return axis
