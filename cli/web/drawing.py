"""Figures as SVG that may stand inside a page: no style attributes, which the page's policy does not let in."""

from __future__ import annotations

import io
import re
import threading
import warnings
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree

from atlas.query.answer import Answer
from cli.text import visible
from cli.web.copy_as import command_line

if TYPE_CHECKING:
    from atlas.query.question import Question

SVG = "http://www.w3.org/2000/svg"

SCALE = 1.4
"""How much larger than on paper: a screen is read from farther away."""

_FONT = re.compile(
    r"(?:(?P<style>italic|oblique)\s+)?(?:(?P<weight>bold|\d{3})\s+)?(?P<size>[\d.]+px)\s+(?P<family>.+)"
)

_drawing = threading.Lock()
"""matplotlib's state is one for the whole process."""


def svg_of(answer: Answer, **options: Any) -> str:
    """The figure of an answer as an SVG element, with the question as what those hear who do not see it.

    Raises:
        UsageError: no figure shows it, or it has no rows. Unsupported: matplotlib is not installed.
    """
    from atlas.figures._style import UNDATED, require_matplotlib, styled

    require_matplotlib()
    import matplotlib

    with _drawing, warnings.catch_warnings():
        # The text of an SVG is drawn by the browser, with fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure = answer.plot(**options).figure
        drawn = io.StringIO()
        try:
            with styled():
                figure.savefig(drawn, format="svg", metadata=UNDATED[".svg"])
        finally:
            plt.close(figure)
    label = f"Figure of {command_line(cast('Question[Any]', answer.question))}"
    return inline(visible(drawn.getvalue(), keep="\n\t"), visible(label))


def inline(svg: str, label: str) -> str:
    """An SVG document as an element whose styles are attributes; its size follows the page."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        for name, value in _styles(element.attrib.pop("style", "")).items():
            element.attrib.setdefault(name, value)
    for name in ("width", "height"):
        root.attrib[name] = f"{SCALE * float(root.attrib[name].removesuffix('pt')):g}pt"
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt", "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _styles(text: str) -> dict[str, str]:
    """Declarations of a style as attributes; the shorthand `font` as its parts."""
    styles: dict[str, str] = {}
    for declaration in filter(None, map(str.strip, text.split(";"))):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip()
        if name != "font":
            styles[name] = value
        elif font := _FONT.fullmatch(value):
            styles |= {f"font-{part}": found for part, found in font.groupdict().items() if found}
    return styles
