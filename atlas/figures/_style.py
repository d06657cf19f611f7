"""The one style of all figures: sizes for a column of a paper, colours that everyone can tell apart, files that are the
same for the same data.

It holds while a figure is drawn (`Answer.plot`) and saved (`save`) and changes nothing else of matplotlib.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from atlas.query.answer import Answer

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#4d4d4d")
"""Of series: Okabe and Ito's, which people with any kind of colour vision tell apart, and two more."""

GREY = "#767676"
"""Of nulls, random controls and captions."""

MAGNITUDES, SIGNED = "cividis", "PuOr_r"
"""Colour maps, of values from 0 on and of values on both sides of 0 (`around_zero`)."""

WIDTH, HEIGHT = 3.3, 2.4
"""Inches of a panel: one column of a paper."""

ENDINGS = (".png", ".svg", ".pdf")

SHOWN_RUNS = 3
"""Runs that a caption names."""

STYLE: dict[Any, Any] = {
    "font.size": 7,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # which matplotlib has with it, so that a figure is the same everywhere
    "axes.titlesize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "image.cmap": MAGNITUDES,
    "text.parse_math": False,  # names may have a dollar sign
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "neuron-atlas",  # else every drawing names its parts anew
    "pdf.fonttype": 42,
}

UNDATED: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""By ending: what matplotlib would write about the day and its own version."""


def require_matplotlib() -> None:
    """Raise Unsupported where matplotlib is not installed; it is not imported."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Unsupported("plots need: pip install 'neuron-atlas[plots]'")


@contextmanager
def styled() -> Iterator[None]:
    """The style, within a block. Where the block is the first to draw in a notebook, it stays interactive.

    Raises:
        Unsupported: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib

    interactive = matplotlib.is_interactive()
    try:
        with matplotlib.rc_context(STYLE):
            try:
                yield
            finally:
                interactive = matplotlib.is_interactive()  # which loading a notebook's backend turns on
    finally:
        matplotlib.interactive(interactive)


def panels(count: int, *, columns: int = 0, width: float = WIDTH, height: float = HEIGHT, **more: Any) -> list[Axes]:
    """A new figure's panels, row by row; those that are left over are hidden.

    columns: in a row; 0: all in one row. width, height: inches of a panel. more: of `pyplot.subplots`.
    """
    from matplotlib import pyplot as plt

    columns = min(columns or count, count)
    rows = -(-count // columns)
    _, grid = plt.subplots(
        rows, columns, figsize=(columns * width, rows * height), squeeze=False, layout="constrained", **more
    )
    axes: list[Axes] = list(grid.flat)
    for left_over in axes[count:]:
        left_over.set_axis_off()
    return axes[:count]


def around_zero(values: Sequence[float]) -> Normalize:
    """The scale of a colour map whose middle is 0: both signs reach equally far."""
    from matplotlib.colors import CenteredNorm

    return CenteredNorm(0.0, max((abs(value) for value in values if value == value), default=0.0) or 1.0)


def add_caption(figure: Figure, answer: Answer) -> None:
    """A line below the figure that names the runs whose numbers it shows."""
    if text := caption(answer):
        figure.supxlabel(text, fontsize=5, color=GREY, x=0.01, ha="left")


def caption(answer: Answer) -> str:
    """The runs of an answer: those of its maps, or of its rows; "" where it names none."""
    runs = _runs_of(answer.provenance)
    for column in ("run_id", "run"):
        if not runs and column in answer.table.column_names:
            runs = [str(run) for run in answer.table[column].to_pylist() if run]
    names = list(dict.fromkeys(run[:8] for run in runs))
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_RUNS} more" if len(names) > SHOWN_RUNS else ""
    return f"run{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN_RUNS])}{more}"


def _runs_of(provenance: Mapping[str, Any]) -> list[str]:
    """The runs of the maps, labels or vectors of a provenance, and of those that it was combined from."""
    runs = [str(origin["run_id"]) for origin in provenance.get("maps", [])]
    runs += provenance.get("runs", [])
    runs += [str(run) for run in (provenance.get("labels", {}).get("run_id"), provenance.get("run")) if run]
    for name in ("left", "right", "of"):
        if isinstance(part := provenance.get(name), dict):
            runs += _runs_of(part)
    return runs


def check_ending(out: Path) -> None:
    """Raise UsageError where a figure cannot be saved under such a name."""
    if out.suffix not in ENDINGS:
        raise UsageError(f"cannot draw to '{out}'; give a file that ends in {', '.join(ENDINGS)}")


def save(figure: Figure, out: Path) -> None:
    """Save a figure; the same figure gives the same bytes.

    Raises:
        UsageError: the name has another ending than ENDINGS.
    """
    check_ending(out)
    with styled():
        figure.savefig(out, metadata=UNDATED[out.suffix])
