"""Where neurons' maps are large on average over pictures, and where in them the concept is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from atlas.errors import UsageError
from atlas.figures._heat import Scale, add_bar, drawable, scale_of
from atlas.figures._parts import shortened
from atlas.figures._style import GREY, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from atlas.live.grid.heat_answer import HeatmapsAnswer
    from atlas.query.answer import Answer

SHARE = "share of pictures"

COLUMNS = 4
SIDE = 2 * WIDTH / COLUMNS
"""Inches of a panel."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """One panel a neuron after one for the concept, every picture squeezed into the same square; above them, the IoU of
    random neurons.

    A map that is as large in the same place in all pictures shows a bias of position. `ax`: where to draw the one
    neuron of an answer. Returns the first panel.

    Raises:
        UsageError: several neurons, and one panel was given to draw on.
    """
    maps = cast("HeatmapsAnswer", answer)
    rows = [*zip(maps.neurons, maps.to_pylist(), strict=True)]
    if ax is not None and len(rows) != 1:
        raise UsageError(f"the answer has {len(rows)} panels; draw one row of it on one panel: answer[:1]")
    count = len(rows) + 1
    columns = -(-count // -(-count // COLUMNS))
    axes = [ax] if ax is not None else panels(count, columns=columns, width=SIDE, height=SIDE + 0.1)
    if ax is None:
        concept = drawable(str(maps.facts["concept"]))
        pictures = max(row["pictures"] for _, row in rows)
        _square(axes[0], maps.where, scale_of([maps.where, np.zeros(1)]), f"{concept}\nin {pictures} pictures", SHARE)
    for axis, (neuron, row) in zip(axes[-len(rows) :], rows, strict=True):
        raised = ", ".join(" ".join(drawable(token).split()) for token in maps.decoded.get(neuron, ()))
        title = f"{shortened(f'{neuron}  {raised}', 28)}\n{_numbers(row)}"
        _square(axis, maps.maps[neuron], scale_of([maps.maps[neuron]]), title, "activation")
    if ax is None:
        _explain(cast("Figure", axes[0].figure), maps)
    return axes[0]


def _numbers(row: Mapping[str, Any]) -> str:
    """IoU, and that with another picture's region as far as there is one."""
    if row["iou"] is None:
        return ""
    elsewhere = "" if row["other_region"] is None else f" (elsewhere {row['other_region']:.2f})"
    return f"IoU {row['iou']:.2f}{elsewhere}"


def _explain(figure: Figure, maps: HeatmapsAnswer) -> None:
    """What `elsewhere` is, and the IoU of random neurons."""
    from matplotlib.lines import Line2D

    words = ["elsewhere: with another picture's region"]
    if maps.facts.get("random_iou") is not None:
        number = len(maps.parts["random"])
        words.append(
            f"IoU of {number} random neurons of the same {maps.facts['matched']}: {maps.facts['random_iou']:.2f}"
        )
    handles = [Line2D([], [], linewidth=0, label=text) for text in words]
    columns = 2 if figure.get_figwidth() > 1.5 * WIDTH else 1
    look: dict[str, Any] = {"loc": "outside upper center", "ncols": columns, "handlelength": 0, "handletextpad": 0}
    figure.legend(handles=handles, fontsize=6, labelcolor=GREY, **look)


def _square(axis: Axes, values: Any, scale: Scale | None, title: str, unit: str) -> None:
    if scale is None:
        axis.imshow(np.zeros_like(values), cmap="gray", vmin=-1, vmax=0.2)
    else:
        axis.imshow(values, cmap=scale.colours, norm=scale.norm)
        add_bar(axis, scale, unit=unit, fraction=0.05, pad=0.02, shrink=0.85)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_title(title, fontsize=6, loc="left")
