"""Tables for a text that is set: Markdown, and LaTeX with the rules of booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

Cells = Sequence[Sequence[str]]
"""Rows of columns, the names of the columns first."""

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def markdown(cells: Cells, numeric: Sequence[bool]) -> str:
    """A table with pipes; numbers are on the right."""
    head, *rows = [[_in_markdown(cell) for cell in row] for row in cells]
    rule = ["--:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _in_markdown(cell: str) -> str:
    """Text without a meaning in Markdown or HTML."""
    escaped = re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", cell)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex(cells: Cells, numeric: Sequence[bool]) -> str:
    """A tabular that needs the package booktabs; numbers are on the right."""
    head, *rows = [" & ".join(_in_latex(cell) for cell in row) + r" \\" for row in cells]
    columns = "".join("r" if right else "l" for right in numeric)
    lines = (
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    )
    return "\n".join(lines)


def _in_latex(cell: str) -> str:
    return "".join(LATEX.get(character, character) for character in cell)
