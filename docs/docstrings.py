"""Docstrings of this project as Sphinx reads them: plain text, `code`, indented examples, `Raises:` and `Returns:`.

Everything else means itself, so that a `*` in a formula or a name that ends in `_` needs no escape in the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

SECTIONS = {"Raises:": ":raises {}: {}", "Returns:": ":returns: {}", "Yields:": ":yields: {}"}
INDENT = "    "


def processed(_app: Any, _what: str, _name: str, _subject: Any, _options: Any, lines: list[str]) -> None:
    """For the event `autodoc-process-docstring`: rewrites the lines in place."""
    lines[:] = [line for block in _blocks(lines) for line in [*_written(block), ""]]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Paragraphs; a section's heading begins one."""
    block: list[str] = []
    for line in [*lines, ""]:
        if block and (not line.strip() or line in SECTIONS):
            yield block
            block = []
        if line.strip():
            block.append(line.rstrip())


def _written(block: list[str]) -> list[str]:
    if block[0] in SECTIONS:
        return list(_fields(SECTIONS[block[0]], block[1:]))
    if all(line.startswith(INDENT) for line in block):
        return [".. code-block:: python" if ">>>" in block[0] else "::", "", *block]
    if block[0].startswith(">>>"):
        return block
    return [plain(line) for line in block]


def _fields(form: str, lines: list[str]) -> Iterator[str]:
    """`Name: what it means` with its continuation lines as a field; of `Returns:` there is no name."""
    entries: list[str] = []
    for line in lines:
        deeper = line.startswith(INDENT * 2) or ("{}: {}" not in form and entries)
        if entries and deeper:
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line.strip())
    for entry in entries:
        if form.count("{}") == 1:
            yield form.format(plain(entry))
        else:
            names, _, told = entry.partition(": ")
            yield form.format(names, plain(told))


def plain(text: str) -> str:
    """reST in which only what is in backquotes is marked."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*|_`])", r"\\\1", p) for p in parts)
