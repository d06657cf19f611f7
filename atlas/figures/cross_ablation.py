"""What ablating each concept's neurons does to every concept's questions, beside as many random neurons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._parts import Rows, drawable, entitle, matrix, name_values, one_or_panels, shortened, signed, span
from atlas.figures._style import SIGNED, WIDTH, around_zero
from atlas.stats.cross_ablation import matrix_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

MOST = 40
"""Concepts whose cells are legible."""

UNITS = {"accuracy": "right answers, percentage points", "log_probability": "log-probability, nats"}
"""By metric: what changes."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A row for each ablated concept, a column for each that was asked about; on the right, for the same number of
    random neurons, the effects on the row's own concept and the mean of those on the others. The colours are centred
    at 0.

    Raises:
        UsageError: more concepts than a page has room for, or none that was ablated and asked about.
    """
    names = list(answer.facts["concepts"])
    if not names:
        raise UsageError("no concept was both ablated and asked about")
    if len(names) > MOST:
        raise UsageError(f"a figure has room for {MOST} concepts, and the answer has {len(names)}")
    rows = [row for row in answer.to_pylist() if row["asked"] in names and row["ablated"] in names]
    metric = rows[0]["metric"]
    values = _cells(rows, names, 100 if metric == "accuracy" else 1)
    spell = (lambda value: str(round(value))) if metric == "accuracy" else signed
    texts = [[spell(value) if value == value else "" for value in row] for row in values]
    side = 0.9 + 0.24 * len(values[0])
    size = {"width": max(WIDTH, side), "height": max(WIDTH - 0.5, 0.9 + 0.2 * len(names))}
    [axis] = one_or_panels(ax, ["concepts"], "one", **size)
    scale = around_zero([value for row in values for value in row])
    shown = [shortened(drawable(name), 20) for name in names]
    matrix(axis, values, shown, colours=SIGNED, scale=scale, texts=texts, unit=UNITS[metric])
    columns = [*shown, "", "random: own", "random: others"] if len(values[0]) > len(names) else shown
    places = [place for place, name in enumerate(columns) if name]
    axis.set_xticks(places, [columns[place] for place in places], rotation=90)
    draws = span(row["seeds"] for row in rows)
    control = (
        f"\nrandom: as many neurons, {draws} draw{'' if draws == '1' else 's'}" if len(columns) > len(names) else ""
    )
    entitle(axis, f"change of {UNITS[metric]}{control}")
    asked = f"asked about (n = {span(row['n'] for row in rows)} questions a cell)"
    name_values(axis, f"{asked}\n{_verdict(answer, metric)}")
    axis.set_ylabel(f"ablated: {rows[0]['dose']} of the neurons\nby {rows[0]['method']}, {rows[0]['source']}")
    return axis


def _cells(rows: Rows, names: list[str], scale: int) -> list[list[float]]:
    """The effects, and where any were measured an empty column and those of random neurons on own and other
    concepts."""
    effects, control = (
        [[scale * float(value) for value in row] for row in matrix_of(rows, names, name)]
        for name in ("effect", "random")
    )
    if all(value != value for row in control for value in row):
        return effects
    cells = []
    for place, (row, of_random) in enumerate(zip(effects, control, strict=True)):
        others = [value for other, value in enumerate(of_random) if other != place and value == value]
        cells.append([*row, math.nan, of_random[place], sum(others) / len(others) if others else math.nan])
    return cells


def _verdict(answer: Answer, metric: str) -> str:
    """The dominance of the diagonal in a line."""
    facts: dict[str, Any] = dict(answer.facts)
    if facts.get("dominance") is None:
        return "one concept: nothing to compare"
    scale = 100 if metric == "accuracy" else 1
    relative = "" if facts["relative"] is None else f" ({facts['relative']:.0%} of own)"
    p = facts["p"]
    judged = f"cannot tell from {len(facts['concepts'])} concepts" if p is None else f"p = {p:.2g}"
    return f"own less others {scale * facts['dominance']:.{1 if metric == 'accuracy' else 2}f}{relative}, {judged}"
