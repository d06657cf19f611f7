"""How many of their best neurons every two concepts share, and how many times as many as matched neurons would."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from atlas.errors import UsageError
from atlas.figures._parts import entitle, matrix, name_values, one_or_panels
from atlas.figures._style import MAGNITUDES, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

MOST = 60
"""Concepts whose names are legible."""

ALPHA = 0.05


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """Concepts in clustered order. Below the diagonal the numbers that are shared, above it the lifts, which the
    colours show; framed are those that are more than chance at a false discovery rate of 5 %.

    Raises:
        UsageError: more concepts than a page has room for.
    """
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

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
    matrix(axis, lifts, names, colours=MAGNITUDES, scale=Normalize(0, max(most, 1.0)), texts=texts)
    for first, second in framed:
        for x, y in ((first, second), (second, first)):
            frame = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="k", linewidth=0.6)
            axis.add_patch(frame).set_in_layout(False)
    against = f"of the same {answer.facts['matched']}" if null else "of any kind"
    entitle(axis, f"above the diagonal: lift over neurons\n{against}")
    name_values(axis, "framed: more than these, q ≤ 0.05" if framed else "no pair has more than these, q ≤ 0.05")
    axis.set_ylabel(
        f"{len(names)} concepts; below the diagonal:\nneurons shared of the best {answer.facts['top']} of each"
    )
    return axis
