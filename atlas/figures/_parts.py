"""Pieces that several figures are made of: panels by kind, points with intervals, matrices with their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.figures._style import COLOURS, GREY, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

    from atlas.query.answer import Answer

Rows = Sequence[Mapping[str, Any]]
Texts = Sequence[Sequence[str]]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (6, 3)), (0, (3, 1)), (0, (1, 3)))
"""With a colour of COLOURS each, so that series differ in grey too."""

LINE = 0.15
"""Inches of a line of text in a list."""

LETTER = 0.056
"""Inches of a letter of a legend, at most."""

WRITTEN = 20
"""Names of a matrix whose cells have a number: more take long to draw, and are too small to read."""

SHOWN = 60
"""Lines of a list that a figure has room for."""


def series(place: int) -> dict[str, Any]:
    """Colour and marker of a series by its place."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def with_run(answer: Answer) -> list[dict[str, Any]]:
    """The rows, each with its `run`: what was just measured has whole ids, as `run_id`."""
    return [{"run": row.get("run_id"), **row} for row in answer.to_pylist()]


def grouped(rows: Rows, names: Sequence[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """The rows by their values of these columns, in the order in which they come."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def one_or_panels(ax: Axes | None, kinds: Sequence[str], narrower: str, **size: Any) -> list[Axes]:
    """A panel for each kind, or the given one for the only kind.

    kinds: what the panels show. narrower: what to give for fewer. size: of `panels`.

    Raises:
        UsageError: several kinds, and one panel was given.
    """
    if ax is None:
        return panels(len(kinds), **size)
    if len(kinds) != 1:
        raise UsageError(f"the answer has {len(kinds)} panels ({'; '.join(kinds)}); for one, give {narrower}")
    return [ax]


def list_height(lines: int) -> float:
    """Inches of a panel that lists so many lines."""
    return max(1.4, 0.75 + LINE * lines)


def require_lines(lines: int, what: str, narrower: str) -> None:
    """Refuse a list that is longer than a page.

    Raises:
        UsageError: it has more than SHOWN lines.
    """
    if lines > SHOWN:
        raise UsageError(f"a figure has room for {SHOWN} {what}, and the answer has {lines}; give {narrower}")


def name_lines(axis: Axes, names: Sequence[str], what: str) -> None:
    """Names beside the lines of a list, the first one on top. what: they are names of."""
    axis.set_yticks(range(len(names)), [*map(drawable_lines, names)])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_ylabel(what)
    axis.grid(axis="x")


def points(
    axis: Axes, values: Sequence[Any], lows: Sequence[Any], highs: Sequence[Any], at: Sequence[float], **look: Any
) -> None:
    """Points with their intervals on the lines of a list; None is not drawn, an unknown interval neither."""
    measured = [place for place, value in enumerate(values) if value is not None]
    if not measured:
        return
    x = [values[place] for place in measured]
    ends = [(lows[p], highs[p]) if None not in (lows[p], highs[p]) else (values[p], values[p]) for p in measured]
    # An interval may end beside its value by a rounding error.
    errors = [[max(v - low, 0.0) for v, (low, _) in zip(x, ends, strict=True)]]
    errors.append([max(high - v, 0.0) for v, (_, high) in zip(x, ends, strict=True)])
    drawn: dict[str, Any] = {"linestyle": "", "elinewidth": 0.9, "capsize": 1.5, "capthick": 0.6} | look
    axis.errorbar(x, [at[place] for place in measured], xerr=errors, **drawn)


def matrix(
    axis: Axes,
    values: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    colours: str,
    scale: Normalize,
    texts: Texts,
    unit: str,
) -> Any:
    """A square matrix with a text in every cell, or of more than WRITTEN names with a colour bar; NaN stays empty.
    Returns the image.

    colours: a colour map's name. unit: what the colour bar is labelled with.
    """
    import numpy as np

    image = axis.imshow(values, cmap=colours, norm=scale, aspect="auto")
    size = 6.0 if len(names) <= 10 else 4.5
    dark = image.to_rgba(np.array(values, dtype=float))[..., :3] @ [0.3, 0.59, 0.11] < 0.5
    for y, row in enumerate(values if len(names) <= WRITTEN else ()):
        for x, value in enumerate(row):
            if value == value and texts[y][x]:
                look: dict[str, Any] = {
                    "ha": "center",
                    "va": "center",
                    "fontsize": size,
                    "color": "w" if dark[y, x] else "k",
                }
                axis.text(x, y, texts[y][x], **look).set_in_layout(False)  # inside, and measuring many takes long
    if len(names) > WRITTEN:
        bar: Any = axis.figure.colorbar(image, ax=axis, fraction=0.03, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
        bar.set_label(unit)
    shown = [drawable(name) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=90)
    axis.set_yticks(range(len(names)), shown)
    axis.tick_params(length=0)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    return image


def signed(value: float) -> str:
    """Two digits behind the point, without a minus before zeros."""
    return f"{round(value, 2) + 0.0:.2f}"


def legend(ax: Axes | None, axes: Sequence[Axes], columns: int = 2, title: str | None = None) -> None:
    """The series' names: above the panels of a figure of our own, which grows by them; inside a given panel.

    ax: the given panel. columns: at most so many, and as many as there is room for.
    """
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(drawable(label), handle)
    title = None if title is None else drawable(title)
    if ax is not None:
        ax.legend(entries.values(), entries, title=title)
        return
    figure: Any = axes[0].figure
    width, height = figure.get_size_inches()
    lengths = [len(label) for label in entries]
    columns = next((n for n in range(columns, 1, -1) if _legend_width(lengths, n) <= width), 1)
    figure.set_figheight(height + LINE * (-(-len(entries) // columns) + bool(title)))
    look: dict[str, Any] = {"ncols": columns, "title": title, "title_fontsize": 7}
    figure.legend(entries.values(), entries, loc="outside upper center", **look)


def _legend_width(lengths: Sequence[int], columns: int) -> float:
    """Inches of a legend, which is filled column by column."""
    lines = max(1, -(-len(lengths) // columns))
    return sum(0.4 + LETTER * max(lengths[start : start + lines]) for start in range(0, len(lengths), lines))


def entitle(axis: Axes, text: str) -> None:
    """A title that ends with the panel, as names beside it leave little room on its right."""
    axis.set_title(drawable_lines(text), x=1, ha="right")


def name_values(axis: Axes, text: str) -> None:
    """What a list's values are, below it; aligned as `entitle` does."""
    axis.set_xlabel(drawable_lines(text), x=1, ha="right")


def span(counts: Iterable[int]) -> str:
    """The smallest and the largest of some numbers: `18`, or `108-200`."""
    found = sorted(counts)
    return "-".join(f"{count:,}" for count in dict.fromkeys((found[0], found[-1])))


def token(text: str) -> str:
    """A token as it is shown: without its leading space, and what cannot be drawn as it is written in Python."""
    return drawable(text.strip()) or repr(text)


def drawable(text: str) -> str:
    """A text whose characters the style's font has; the others as they are written in Python."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    shown = (c if c.isprintable() and font.get_char_index(ord(c)) else ascii(c)[1:-1] for c in text)
    return "".join(shown)


def drawable_lines(text: str) -> str:
    """The same of a text of several lines."""
    return "\n".join(map(drawable, text.split("\n")))


def shortened(text: str, most: int = 28) -> str:
    """A name that fits beside a panel."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def count_by_layer(axis: Axes) -> None:
    """The axes of a panel with numbers of neurons by layer."""
    axis.set_ylim(bottom=0)
    axis.margins(x=0.03)
    axis.locator_params(axis="both", integer=True)
    axis.set_xlabel("layer")
    axis.set_ylabel("neurons")
    axis.grid(axis="y")


def zero_line(axis: Axes, value: float = 0.0) -> None:
    """A thin line at the value of no effect."""
    axis.axvline(value, color=GREY, linewidth=0.6, zorder=0)
