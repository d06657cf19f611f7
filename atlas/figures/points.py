"""Where the tokens of a layer lie in two dimensions, before and with an edit, with the distances of their roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.figures._parts import Rows, grouped, legend, one_or_panels, series
from atlas.figures._style import WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

CONDITIONS = {"before": "", "edit": "edited ", "random": "random "}
NAMES = {"before": "before", "edit": "edited"}
PROJECTIONS = ("pca", "tsne", "umap")
SIDE = 2.4
"""Inches of a panel that is not alone."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A panel for each source, condition and projection, a colour and marker for each role. Below the first projection
    of a source and condition, how far apart (1 - cosine) the centroids of every two roles are; where only one condition
    is laid out, also those with the edit and with random neurons, as far as these were measured. The panels of pca of
    one source have the same axes.

    Raises:
        UsageError: several sources, conditions or projections, and one panel was given.
    """
    rows = [{"condition": "before", **row} for row in answer.to_pylist()]
    kinds = dict(
        sorted(grouped(rows, ["source", "condition", "projection"]).items(), key=lambda kind: _order(*kind[0]))
    )
    conditions = list(dict.fromkeys(condition for _, condition, _ in kinds))
    projections = len({projection for _, _, projection in kinds})
    looks = {role: series(place) for place, role in enumerate(sorted({row["role"] for row in rows}))}
    names = [", ".join([s, p, *([NAMES.get(c, c)] if len(conditions) > 1 else [])]) for s, c, p in kinds]
    columns = projections if projections > 1 else len(conditions)
    size = {"columns": columns, "width": WIDTH if columns == 1 else SIDE, "height": SIDE + 0.5}
    axes = one_or_panels(ax, names, "[[projection]]", **size)
    told = set()
    for axis, ((source, condition, projection), of_kind) in zip(axes, kinds.items(), strict=True):
        for role, look in looks.items():
            of_role = [row for row in of_kind if row["role"] == role]
            x, y = [row["x"] for row in of_role], [row["y"] for row in of_role]
            axis.plot(x, y, linestyle="", fillstyle="none", markeredgewidth=0.6, alpha=0.8, label=role, **look)
        which = f", {NAMES.get(condition, condition)}" if len(conditions) > 1 else ""
        axis.set_title(f"{source}, layer {answer.facts['layer']}{which} (n = {len(of_kind):,} tokens)")
        apart = [row for row in answer.parts["distances"].to_pylist() if row["source"] == source]
        first = (source, condition) not in told
        told.add((source, condition))
        said = _distances(apart, condition, conditions) if first else []
        axis.set_xlabel("\n".join([f"{projection} 1", *said]))
        axis.set_ylabel(f"{projection} 2")
        axis.set_xticks([])
        axis.set_yticks([])
    _align(axes, list(kinds))
    legend(ax, axes, columns=max(len(looks), 1))
    return axes[0]


def _order(source: str, condition: str, projection: str) -> tuple[str, str, int]:
    return source, condition, PROJECTIONS.index(projection) if projection in PROJECTIONS else len(PROJECTIONS)


def _align(axes: list[Axes], kinds: list[tuple[str, ...]]) -> None:
    """Give the planes of pca of each source the same limits: their axes are the same."""
    for source in {source for source, _, _ in kinds}:
        planes = [axis for axis, kind in zip(axes, kinds, strict=True) if kind[0] == source and kind[2] == "pca"]
        for name in ("xlim", "ylim"):
            ends = [end for axis in planes for end in getattr(axis, f"get_{name}")()]
            for axis in planes if len(planes) > 1 else ():
                getattr(axis, f"set_{name}")(min(ends), max(ends))


def _distances(rows: Rows, condition: str, laid_out: list[str]) -> list[str]:
    """A line for every two roles: how far apart their centroids are, under this condition and with random neurons."""
    shown = CONDITIONS if len(laid_out) == 1 else {condition: "", "random": "random "}
    if condition == "before" and len(laid_out) > 1:
        shown = {condition: ""}
    lines = []
    for (first, second), of_pair in grouped(rows, ["first", "second"]).items():
        values = {row["condition"]: row["value"] for row in of_pair}
        said = [f"{name}{values[which]:.2f}" for which, name in shown.items() if which in values]
        lines.append(f"{first} to {second}: {', '.join(said)}")
    return ["distances of centroids", *lines] if lines else []
