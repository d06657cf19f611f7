"""How well the methods' rankings of neurons agree: a matrix of every two, or each with the reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from atlas.errors import UsageError
from atlas.figures._parts import (
    Rows,
    entitle,
    grouped,
    list_height,
    matrix,
    name_lines,
    name_values,
    one_or_panels,
    points,
    signed,
    span,
    zero_line,
)
from atlas.figures._style import COLOURS, SIGNED, WIDTH, around_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

CORRELATION, OVERLAP = MEASURES = ("correlation", "overlap")
NAMES = {CORRELATION: "rank correlation", OVERLAP: "overlap of the top 2 %"}


def draw(answer: Answer, *, ax: Axes | None = None, measure: str = CORRELATION) -> Axes:
    """With `pairs`, a matrix of methods for each source, target and reduction, with the numbers in the cells; else a
    line for each method, with the 95 % interval of its correlation with the reference.

    measure: correlation or overlap.

    Raises:
        UsageError: no such measure, or several panels and one was given.
    """
    if measure not in MEASURES:
        raise UsageError(f"measure is {' or '.join(MEASURES)}, not '{measure}'")
    pairs = "other" in answer.table.column_names
    kinds = grouped(answer.to_pylist(), ["source", "target", "reduce"] if pairs else ["source", "reduce"])
    names = [f"{kind[0]} to {kind[1]}, {kind[2]}" if pairs else ", ".join(kind) for kind in kinds]
    if pairs:
        methods = max(len(_methods(rows)) for rows in kinds.values())
        width, height = max(WIDTH, 1.3 + 0.3 * methods), 1.5 + 0.2 * methods
    else:
        width, height = WIDTH, list_height(max(len(rows) for rows in kinds.values()))
    axes = one_or_panels(ax, names, "[[source]], [[target]] and [[reduce]]", columns=2, width=width, height=height)
    for axis, name, rows in zip(axes, names, kinds.values(), strict=True):
        if pairs:
            _matrix(axis, rows, measure)
        else:
            _lines(axis, rows, measure, str(answer.facts["reference"]))
        number = span(row["concepts" if pairs else "maps"] for row in rows)
        entitle(axis, f"{name} (n = {number} concept{'' if number == '1' else 's'})")
    return axes[0]


def _methods(rows: Rows) -> list[str]:
    return sorted({row[end] for row in rows for end in ("method", "other")})


def _matrix(axis: Axes, rows: Rows, measure: str) -> None:
    """Every pair in both triangles; the diagonal is empty."""
    methods = _methods(rows)
    values = [[math.nan] * len(methods) for _ in methods]
    for row in rows:
        first, second = methods.index(row["method"]), methods.index(row["other"])
        if row[measure] is not None:
            values[first][second] = values[second][first] = row[measure]
    texts = [[signed(value) for value in line] for line in values]
    matrix(axis, values, methods, colours=SIGNED, scale=around_zero([1.0]), texts=texts, unit=NAMES[measure])
    name_values(axis, f"{NAMES[measure]} of two methods")
    axis.set_ylabel("method")


def _lines(axis: Axes, rows: Rows, measure: str, reference: str) -> None:
    values = [row[measure] for row in rows]
    lows, highs = ([row.get(f"{measure}_{end}") for row in rows] for end in ("low", "high"))
    points(axis, values, lows, highs, range(len(rows)), color=COLOURS[0], marker="o")
    zero_line(axis)
    name_lines(axis, [row["method"] for row in rows], "method")
    name_values(axis, f"{NAMES[measure]} with {reference}")
