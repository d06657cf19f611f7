"""Where the tokens of a layer lie in two dimensions, with the distances of their roles' centroids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.figures._parts import Rows, grouped, legend, one_or_panels, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

CONDITIONS = {"before": "", "edit": "edited ", "random": "random "}


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A panel for each source and projection, a colour and marker for each role; below it, how far apart (1 - cosine)
    the centroids of every two roles are, with the edit and with random neurons too where these were measured.

    Raises:
        UsageError: several sources or projections, and one panel was given.
    """
    rows = answer.to_pylist()
    kinds = dict(sorted(grouped(rows, ["source", "projection"]).items()))
    looks = {role: series(place) for place, role in enumerate(sorted({row["role"] for row in rows}))}
    distances = answer.parts["distances"].to_pylist()
    names = [", ".join(kind) for kind in kinds]
    axes = one_or_panels(ax, names, "[[projection]]", columns=2, height=2.9)
    for axis, ((source, projection), of_kind) in zip(axes, kinds.items(), strict=True):
        for role, look in looks.items():
            of_role = [row for row in of_kind if row["role"] == role]
            x, y = [row["x"] for row in of_role], [row["y"] for row in of_role]
            axis.plot(x, y, linestyle="", fillstyle="none", markeredgewidth=0.6, alpha=0.8, label=role, **look)
        axis.set_title(f"{source}, layer {answer.facts['layer']} (n = {len(of_kind):,} tokens)")
        said = _distances([row for row in distances if row["source"] == source])
        axis.set_xlabel("\n".join([f"{projection} 1", *said]))
        axis.set_ylabel(f"{projection} 2")
        axis.set_xticks([])
        axis.set_yticks([])
    legend(ax, axes, columns=max(len(looks), 1))
    return axes[0]


def _distances(rows: Rows) -> list[str]:
    """A line for every two roles: how far apart their centroids are."""
    lines = []
    for (first, second), of_pair in grouped(rows, ["first", "second"]).items():
        values = {row["condition"]: row["value"] for row in of_pair}
        said = [f"{name}{values[condition]:.2f}" for condition, name in CONDITIONS.items() if condition in values]
        lines.append(f"{first} to {second}: {', '.join(said)}")
    return ["distances of centroids", *lines] if lines else []
