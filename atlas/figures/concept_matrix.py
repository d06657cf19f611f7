"""How many of their best neurons every two concepts share, and how many times as many as matched neurons would."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._parts import WRITTEN, entitle, matrix, name_values, one_or_panels
from atlas.figures._style import MAGNITUDES, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

MOST = 60
"""Concepts whose names are legible."""

ALPHA = 0.05

CORNERS = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
"""Of a cell, around its middle."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """Concepts in clustered order. Below the diagonal the numbers that are shared, above it the lifts, which the
    colours show, of many concepts without numbers; framed are those that are more than chance at a false discovery rate
    of 5 %.

    Raises:
        UsageError: more concepts than a page has room for.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize

    names = list(answer.facts["concepts"])
    if len(names) > MOST:
        raise UsageError(f"a figure has room for {MOST} concepts, and the answer has {len(names)}; give [[concepts]]")
    null = "_matched" if answer.facts["matched"] else ""
    place = {name: number for number, name in enumerate(names)}
    lifts, shared = ([[math.nan] * len(names) for _ in names] for _ in range(2))
    framed = []
    for row in answer.to_pylist():
        first, second = sorted((place[row["concept"]], place[row["other"]]))
        lift = row[f"lift{null}"]
        lifts[first][second] = lifts[second][first] = math.nan if lift is None else lift
        shared[second][first] = row["shared"]
        if row[f"q{null}"] <= ALPHA:
            framed.append((first, second))
    side = max(WIDTH, 0.9 + 0.17 * len(names))
    [axis] = one_or_panels(ax, ["concepts"], "one", width=side, height=side - 0.2)
    most = max((lift for row in lifts for lift in row if lift == lift), default=1.0)
    texts = [
        [f"{lifts[y][x]:.1f}" if x > y else f"{shared[y][x]:.0f}" if x < y else "" for x in range(len(names))]
        for y in range(len(names))
    ]
    matrix(axis, lifts, names, colours=MAGNITUDES, scale=Normalize(0, max(most, 1.0)), texts=texts, unit="lift")
    cells = [cell for first, second in framed for cell in ((first, second), (second, first))]
    frames = [[(x + dx, y + dy) for dx, dy in CORNERS] for x, y in cells]
    look: dict[str, Any] = {"facecolors": "none", "edgecolors": "k", "linewidths": 0.6}
    axis.add_collection(PolyCollection(frames, **look), autolim=False).set_in_layout(False)
    against = f"of the same {answer.facts['matched']}" if null else "of any kind"
    written = len(names) <= WRITTEN
    entitle(axis, f"{'above the diagonal: ' if written else ''}lift over neurons\n{against}")
    name_values(
        axis, "framed: more than by chance, q ≤ 0.05" if framed else "no pair has more than by chance, q ≤ 0.05"
    )
    shown = "below the diagonal:\nneurons shared of the best" if written else "the best"
    axis.set_ylabel(f"{len(names)} concepts; {shown} {answer.facts['top']} {'' if written else 'neurons '}of each")
    return axis
