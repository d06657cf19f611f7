"""A figure inside a page."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING

from atlas.errors import AtlasError
from atlas.figures._style import UNDATED, styled
from atlas.query.html import image_html, line_html

if TYPE_CHECKING:
    from atlas.query.answer import Answer

DPI = 110
"""Dots per inch in a notebook: a panel of 3.3 inches is as wide as a table of five columns."""


def figure_html(answer: Answer) -> str:
    """The answer's figure as a picture inside a page, or in words why there is none."""
    try:
        figure = answer.plot().figure
    except AtlasError as error:
        return line_html(error.message)
    from matplotlib import pyplot as plt

    drawn = BytesIO()
    with styled():
        figure.savefig(drawn, format="png", dpi=DPI, metadata=UNDATED[".png"])
    plt.close(figure)  # which a notebook would show once more
    return image_html(f"data:image/png;base64,{b64encode(drawn.getvalue()).decode()}", "figure of the rows above")
