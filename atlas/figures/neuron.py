"""One neuron: its ranks by concept, method and source, and the tokens that it raises and lowers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._parts import (
    Rows,
    grouped,
    legend,
    list_height,
    name_lines,
    name_values,
    require_lines,
    series,
    token,
    zero_line,
)
from atlas.figures._style import COLOURS, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

TOKENS = 5
"""Of each side."""


def draw(answer: Answer, *, ax: Axes | None = None, reduce: str | None = None) -> Axes:
    """A panel for each source and target with a line a concept and a marker a method; then one of tokens. On a given
    panel, only the concepts.

    reduce: whose ranks; by default contrast where there is one.

    Raises:
        UsageError: no such reduction, no rank by it, more concepts than a page has room for, or several panels and
            one was given.
    """
    rows = answer.to_pylist()
    stored = sorted({row["reduce"] for row in rows})
    reduce = reduce or stored[0]
    if reduce not in stored:
        raise UsageError(f"the answer has no reduction '{reduce}'; there are {', '.join(stored)}")
    rows = [row for row in rows if row["reduce"] == reduce and row["rank"] is not None]
    if not rows:
        raise UsageError(f"{answer.facts['neuron']} has no rank to draw: its stored scores by {reduce} are 0")
    kinds = grouped(rows, ["source", "target"])
    methods = sorted({row["method"] for row in rows})
    lines = max(len({row["concept"] for row in of_kind}) for of_kind in kinds.values())
    require_lines(lines, "concepts", "a smaller [[top]]")
    tokens = answer.parts["tokens"].to_pylist()
    if ax is None:
        axes = panels(len(kinds) + bool(tokens), columns=3, width=0.85 * WIDTH, height=max(list_height(lines), 2.2))
    elif len(kinds) == 1:
        axes = [ax]
    else:
        raise UsageError("the answer has several sources or targets; for one panel, give [[source]] and [[target]]")
    for axis, ((source, target), of_kind) in zip(axes, kinds.items(), strict=False):
        _ranks(axis, of_kind, methods)
        axis.set_title(f"{source} to {target}, {reduce}")
    if ax is None and tokens:
        _tokens(axes[-1], [row for row in tokens if row["projection"] == tokens[0]["projection"]])
    legend(ax, axes, columns=3, title=f"neuron {answer.facts['neuron']} of {answer.facts['model']}")
    return axes[0]


def _ranks(axis: Axes, rows: Rows, methods: list[str]) -> None:
    """Concepts in the order of their best rank; rank 1 on the right."""
    concepts = list(grouped(sorted(rows, key=lambda row: (row["rank"], row["concept"])), ["concept"]))
    names = [name for (name,) in concepts]
    for place, method in enumerate(methods):
        of_method = [row for row in rows if row["method"] == method]
        at = [names.index(row["concept"]) for row in of_method]
        look: dict[str, Any] = {"linestyle": "", "markersize": 4, "fillstyle": "none", "label": method}
        axis.plot([row["rank"] for row in of_method], at, **look, **series(place))
    most = max(row["rank"] for row in rows)
    ticks = [10**power for power in range(len(str(most)))]
    axis.set_xscale("log")
    axis.set_xlim(1.5 * most, 0.7)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    name_values(axis, "rank in the map (1 is best)")
    name_lines(axis, names, "concept")


def _tokens(axis: Axes, rows: Rows) -> None:
    """Those that the neuron raises most, and below them those that it lowers most."""
    pairs = [p for row in rows for p in list(zip(row["tokens"], row["values"], strict=True))[:TOKENS]]
    pairs.sort(key=lambda pair: -pair[1])
    for line, (_, value) in enumerate(pairs):
        axis.barh(line, value, color=COLOURS[1] if value > 0 else COLOURS[0], hatch="" if value > 0 else "////")
    name_lines(axis, [token(text) for text, _ in pairs], "token")
    zero_line(axis)
    name_values(axis, f"decoded token's value ({rows[0]['projection']})")
