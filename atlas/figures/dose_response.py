"""Accuracy, or the change of the log-probability, against the share of neurons ablated, beside random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._parts import legend, span
from atlas.figures._style import COLOURS, GREY, panels
from atlas.stats.leaderboard import ACCURACY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

Rows = Sequence[Mapping[str, Any]]


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """One panel a source, or the panel `ax` for the one source of the answer; returns the first panel.

    Raises:
        UsageError: the answer has several sources, and one panel was given.
    """
    rows = answer.to_pylist()
    sources = list(dict.fromkeys(row["source"] for row in rows))
    if ax is not None and len(sources) != 1:
        raise UsageError(f"the answer has the sources {', '.join(sources)}; draw one of them in a panel ([[source]])")
    several = len({row["reduce"] for row in rows if row["method"] != "random"}) > 1
    rows = [{**row, "method": f"{row['method']} ({row['reduce']})" if several else row["method"]} for row in rows]
    axes = [ax] if ax is not None else panels(len(sources), width=3.3)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axis, source in zip(axes, sources, strict=True):
        of_source = [row for row in rows if row["source"] == source]
        _panel(axis, of_source, methods)
        axis.set_title(f"{source} questions (n = {_concepts(of_source)})")
    legend(ax, axes)
    return axes[0]


def _concepts(rows: Rows) -> str:
    """Over how many concepts the values are means: the fewest and the most."""
    number = span(row["concepts"] for row in rows)
    return f"{number} concept{'' if number == '1' else 's'}"


def _panel(axis: Axes, rows: Rows, methods: Sequence[str]) -> None:
    for place, method in enumerate(methods):
        of_method = [row for row in rows if row["method"] == method]
        if of_method:
            _curves(axis, of_method, COLOURS[place % len(COLOURS)], method)
    _random(axis, rows)
    axis.set_xscale("log")
    axis.set_xlabel("neurons ablated, % of all")
    if rows[0]["metric"] == ACCURACY:
        axis.set_ylim(-3, 103)
        axis.set_ylabel("accuracy left, %")
    else:
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.set_ylabel("change of log-probability, nats")
    axis.grid()
    ticks = sorted({100 * row["share"] for row in rows})
    axis.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axis.minorticks_off()


def _curves(axis: Axes, rows: Rows, colour: str, method: str) -> None:
    """Solid: questions about the concept, with its 95 % interval; dashed: about others."""
    x = [100 * row["share"] for row in rows]
    axis.plot(x, _values(rows, "own"), color=colour, marker="o", label=f"{method}: concept")
    low, high = _values(rows, "own_low"), _values(rows, "own_high")
    axis.fill_between(x, low, high, color=colour, alpha=0.08, linewidth=0)
    look: dict[str, Any] = {"color": colour, "marker": "s", "markerfacecolor": "white"}
    axis.plot(x, _values(rows, "others"), linestyle="--", **look, label=f"{method}: others")


def _random(axis: Axes, rows: Rows) -> None:
    """The mean over methods: as many random neurons of the same layers, questions about the concept."""
    measured = [row for row in rows if row["random_own"] is not None]
    shares = sorted({row["share"] for row in measured})
    means = []
    for share in shares:
        values = [row["random_own"] for row in measured if row["share"] == share]
        means.append(_scale(rows) * sum(values) / len(values))
    if shares:
        label = "as many random: concept"
        axis.plot([100 * share for share in shares], means, color=GREY, linestyle=":", marker="x", label=label)


def _values(rows: Rows, name: str) -> list[float]:
    """Not a number, which is not drawn, where nothing was measured."""
    return [float("nan") if row[name] is None else _scale(rows) * row[name] for row in rows]


def _scale(rows: Rows) -> int:
    """Shares are drawn in percent."""
    return 100 if rows[0]["metric"] == ACCURACY else 1
