"""What a model answered to a few questions: before, with an edit, and with random neurons changed alike."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any, cast

from atlas.edits.edited_answers import BEFORE, CONDITIONS, EDITED, RANDOM
from atlas.errors import UsageError
from atlas.figures._parts import drawable, grouped, shortened
from atlas.figures._style import COLOURS, GREY, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.edits.edited_answers import EditedAnswers
    from atlas.query.answer import Answer

MOST = 24
"""Questions that a page has room for."""

SIZE = 6.5
"""Of the letters, in points."""

LETTER = 0.06
"""Inches of a letter of that size, at most."""

LINE = 0.125
"""Inches of a line of text."""

LINES = 2
"""Lines of a question, and of an answer, at most."""

NAME = 8
"""Letters that the name of a condition takes."""

SHOWN, DRAWN = 0.55, 0.7
"""Inches of the side of a picture that was shown, and of a drawn one."""

COLOUR = {BEFORE: "k", EDITED: COLOURS[1], RANDOM: GREY}


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A panel a question, with the picture that was shown, the question and the answers; an answer that is another one
    than before is bold. Drawn answers are shown side by side. Returns the first panel.

    ax: where to draw the one question of an answer.

    Raises:
        UsageError: more questions than a page has room for, or several and one panel was given.
    """
    edited = cast("EditedAnswers", answer)
    rows = edited.to_pylist()
    if ax is not None and len(rows) != 1:
        raise UsageError(f"the answer has {len(rows)} panels; draw one row of it on one panel: answer[:1]")
    if len(rows) > MOST:
        raise UsageError(f"a figure has room for {MOST} questions, and the answer has {len(rows)}; give [[questions]]")
    first = {of_kind[0]["example"] for of_kind in grouped(rows, ["source", "subset"]).values()}
    heights = [_height(edited, row) for row in rows]
    above = LINE * (1.5 * len(first) + 2) / len(rows)
    size: dict[str, Any] = {"height": sum(heights) / len(heights) + above, "gridspec_kw": {"height_ratios": heights}}
    axes = [ax] if ax is not None else panels(len(rows), columns=1, **size)
    for axis, row in zip(axes, rows, strict=True):
        given = axis.get_position().width * axis.figure.get_figure(root=True).get_size_inches()[0]
        _question(axis, edited, row, WIDTH if ax is None else float(given))
        if row["example"] in first:
            axis.set_title(_kind(edited, rows, row), loc="left", fontsize=SIZE, color=GREY, pad=3)
    if ax is None:
        facts = edited.facts
        model = shortened(str(facts["model"]).rpartition("/")[2], 20)
        title = f"edit {shortened(str(facts['edit']), 20)}: {facts['neurons']:,} neurons of {model}"
        axes[0].figure.suptitle(drawable(title), fontsize=7)
    return axes[0]


def _kind(answer: EditedAnswers, rows: list[dict[str, Any]], row: Mapping[str, Any]) -> str:
    """Which questions these are, and of how many."""
    alike = sum((other["source"], other["subset"]) == (row["source"], row["subset"]) for other in rows)
    about = drawable(str(answer.facts["concept"])) if row["subset"] == "concept" else "others"
    of = answer.facts["questions"].get(f"{row['source']}, {row['subset']}", alike)
    return f"{row['source']} questions about {about} (n = {alike} of {of:,})"


def _drawn(answer: EditedAnswers, row: Mapping[str, Any]) -> list[str]:
    return [condition for condition in CONDITIONS if (row["example"], condition) in answer.drawn]


def _height(answer: EditedAnswers, row: Mapping[str, Any]) -> float:
    """Inches of a panel."""
    letters = _letters(WIDTH, row["example"] in answer.seen)
    lines = len(_wrapped(str(row["prompt"]), letters)) + sum(
        len(_wrapped(str(row[condition]), letters - NAME)) for condition in _said(answer, row)
    )
    return LINE * (lines + 1) + (DRAWN + LINE if _drawn(answer, row) else 0.0)


def _letters(width: float, pictured: bool) -> int:
    """Letters of a line beside a picture, or alone, in so many inches."""
    return int((0.95 * width - (1.1 * SHOWN if pictured else 0.0)) / LETTER)


def _said(answer: EditedAnswers, row: Mapping[str, Any]) -> list[str]:
    """The conditions whose answers are in words."""
    drawn = _drawn(answer, row)
    return [condition for condition in CONDITIONS if row[condition] is not None and condition not in drawn]


def _wrapped(text: str, letters: int) -> list[str]:
    """A text in at most LINES lines."""
    plain = " ".join(map(drawable, text.split())) or "(nothing)"
    return wrap(plain, letters, max_lines=LINES, placeholder=" …", break_long_words=True) or [plain[:letters]]


def _fitting(text: str, inches: float) -> str:
    """As much of a line as there is room for: some signs are wider than most, and hinting widens small ones."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans:bold"))
    font.set_size(SIZE, 720)
    shown = text
    for length in range(len(text), 0, -1):
        font.set_text(shown)
        if font.get_width_height()[0] / 64 / 10 <= 72 * 0.88 * inches:
            break
        shown = f"{text[: length - 1]}…"
    return shown


def _question(axis: Axes, answer: EditedAnswers, row: Mapping[str, Any], width: float) -> None:
    """width: inches of the panel."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    pictured = row["example"] in answer.seen
    if pictured:
        _picture(axis, answer.seen[row["example"]], (0.0, 0.0, SHOWN / width, 1.0))
    left, letters = 1.1 * SHOWN if pictured else 0.0, _letters(width, pictured)
    top = 0.0

    def write(x: float, text: str, **look: Any) -> None:
        """At so many inches from the panel's left, in the line at `top` inches from its upper edge."""
        place = (72 * x, -72 * (top + LINE / 2))
        look |= {"fontsize": SIZE, "va": "center"}
        axis.annotate(_fitting(text, width - x), (0, 1), place, "axes fraction", "offset points", **look).set_in_layout(
            False
        )

    for part in _wrapped(str(row["prompt"]), letters):
        write(left, part, style="italic")
        top += LINE
    for condition in _said(answer, row):
        write(left, condition, color=COLOUR[condition])
        weight = "normal" if row[condition] == row[BEFORE] else "bold"
        for part in _wrapped(str(row[condition]), letters - NAME):
            write(left + NAME * LETTER, part, color=COLOUR[condition], weight=weight)
            top += LINE
    height = _height(answer, row)
    for place, condition in enumerate(_drawn(answer, row)):
        x = left + 1.15 * DRAWN * place
        write(x, condition, color=COLOUR[condition])
        box = (x / width, 1 - (top + LINE + DRAWN) / height, DRAWN / width, DRAWN / height)
        _picture(axis, answer.drawn[row["example"], condition], box)


def _picture(axis: Axes, pixels: Any, box: tuple[float, float, float, float]) -> None:
    """A picture in a box of the panel, in shares of it."""
    inside = axis.inset_axes(box)
    inside.imshow(pixels)
    inside.set_anchor("NW")
    inside.set_xticks([])
    inside.set_yticks([])
    inside.spines[["left", "bottom"]].set_visible(False)
