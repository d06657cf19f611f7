"""The neurons that two modalities share for a concept, or that only one has, beside what each null expects."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

from atlas.figures._parts import (
    Rows,
    entitle,
    legend,
    list_height,
    name_lines,
    name_values,
    one_or_panels,
    require_lines,
    span,
)
from atlas.figures._style import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

MARKS = {"": "|", "_matched": "x", "_mismatched": "+", "_answer": "1"}
"""The suffix of a null's statistics -> its marker."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """Of one concept: how many neurons, and below it a grey bar for each null with its p-value. Of several: a line a
    concept, its number as a point that is filled where every null is rejected, and a grey mark for each null.

    Raises:
        UsageError: more concepts than a page has room for.
    """
    if "concept" not in answer.table.column_names:
        return _one(answer, ax)
    rows = answer.to_pylist()
    require_lines(len(rows), "concepts", "[[concepts]] or [[limit]]")
    [axis] = one_or_panels(ax, ["concepts"], "one", height=list_height(len(rows)))
    what = "only" if "only" in answer.table.column_names else "shared"
    _several(axis, rows, what, str(answer.facts.get("matched") or "layer"))
    first, second = _modalities(answer, what)
    name_values(axis, _said(what, first))
    entitle(axis, f"{len(rows)} concepts, {first} and {second}")
    legend(ax, [axis], columns=1)
    return axis


def _several(axis: Axes, rows: Rows, what: str, matched: str) -> None:
    lines = range(len(rows))
    for suffix, name in _nulls(matched).items():
        expected = [row.get(f"expected{suffix}") for row in rows]
        if any(value is not None for value in expected):
            x = [float("nan") if value is None else value for value in expected]
            label = f"expected: {name}"
            axis.plot(x, lines, color=GREY, marker=MARKS[suffix], markersize=5, linestyle="", label=label)
    tops = [int(row["top"]) for row in rows]
    of = span(tops)
    for rejected, label in ((True, "every null rejected"), (False, "not every null rejected")):
        at = [place for place, row in enumerate(rows) if _claimed(row) is rejected]
        if at:
            inside = COLOURS[0] if rejected else "white"
            look: dict[str, Any] = {
                "color": COLOURS[0],
                "markerfacecolor": inside,
                "marker": "o",
                "linestyle": "",
                "markersize": 4,
            }
            axis.plot([rows[place][what] for place in at], at, label=f"{what} of {of}: {label}", **look)
    name_lines(axis, [str(row["concept"]) for row in rows], "concept")
    axis.set_xlim(left=-0.02 * max(tops))


def _claimed(row: Mapping[str, Any]) -> bool:
    return not str(row["verdict"]).startswith(("not shown", "cannot tell"))


def _one(answer: Answer, ax: Axes | None) -> Axes:
    facts = answer.facts
    what = "only" if "only" in facts else "shared"
    first, second = facts["between"]
    nulls = {s: name for s, name in _nulls(str(facts.get("matched"))).items() if facts.get(f"expected{s}") is not None}
    [axis] = one_or_panels(ax, ["concept"], "one", height=list_height(round(1.6 * (1 + len(nulls)))))
    number, chosen = int(facts[what]), int(facts["chosen"])
    axis.barh(0, number, color=COLOURS[0])
    axis.barh(0, chosen - number, left=number, color="none", edgecolor=COLOURS[0], hatch="////", linewidth=0.6)
    axis.text(chosen, 0, f"  {number} of {chosen}", va="center", fontsize=6)
    for place, suffix in enumerate(nulls, 1):
        expected, p = facts[f"expected{suffix}"], facts[f"p{suffix}"]
        axis.barh(place, expected, color=GREY)
        text = f"  {expected:.3g} expected" + ("" if p is None else f", p = {p:.2g}")
        axis.text(expected, place, text, va="center", fontsize=6)
    name_lines(axis, ["found", *(fill(name, 20) for name in nulls.values())], "found, and expected of")
    axis.set_xlim(0, 2 * max(chosen, *(facts[f"expected{s}"] for s in nulls), 1))
    name_values(axis, _said(what, first))
    entitle(axis, f"{answer.provenance['maps'][0]['concept']}: best {facts['top']} of {first} and of {second}")
    return axis


def _nulls(matched: str) -> dict[str, str]:
    """The suffix of each null's statistics -> its name."""
    return {
        "": "any neurons",
        "_matched": f"same {matched}",
        "_mismatched": "other concepts",
        "_answer": "same answers, other prompts",
    }


def _modalities(answer: Answer, what: str) -> tuple[str, str]:
    """The two that are compared, from what the answer's maps were chosen by."""
    selection = answer.provenance.get("selection")
    first, second = selection[what] if isinstance(selection, dict) else ("one", "the other")
    return str(first), str(second)


def _said(what: str, first: str) -> str:
    return "neurons of both" if what == "shared" else f"neurons of {first} alone"
