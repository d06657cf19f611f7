"""Text as a terminal may have it: nothing in it that moves the cursor, changes a colour, or hides what it says."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_JOINERS = "\u200c\u200d"
"""Format characters that words and emoji are written with."""


def visible(text: str, keep: str = "") -> str:
    """Text in which control characters (also those of C1), line separators, lone surrogates and what turns the
    direction of writing are escapes: `\\x1b`. keep: some that stay, such as the newline."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not moves(c) else repr(c)[1:-1] for c in text)


def moves(character: str) -> bool:
    """Whether a character does something to a terminal, or to the text around it, instead of being seen."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character not in _JOINERS)


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(c) for c in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or character in _JOINERS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


LEAST = 8
"""Columns of a table that a text keeps, however narrow the terminal is."""


def fitted(text: str, columns: int, more: str = "...") -> str:
    """A text cut to so many columns, with `more` where something is left out; between words where that costs little."""
    if width(text) <= columns:
        return text
    shown, columns_left = "", max(columns - len(more), 0)
    for character in text:
        columns_left -= _columns(character)
        if columns_left < 0:
            break
        shown += character
    words = shown[: shown.rfind(" ") + 1]
    if 3 * len(words) > 2 * len(shown):
        shown = words
    return (shown + more)[: max(columns, 1)] if columns < len(more) else shown + more


def narrowed(widths: Sequence[int], flexible: Sequence[bool], room: int) -> list[int]:
    """Widths of a table's columns that fit the room, the widest of the flexible ones cut first."""
    narrow = list(widths)
    while sum(narrow) + 2 * (len(narrow) - 1) > room:
        able = [i for i, bends in enumerate(flexible) if bends and narrow[i] > LEAST]
        if not able:
            break
        widest = max(able, key=lambda i: narrow[i])
        narrow[widest] -= 1
    return narrow


def blocks(widths: Sequence[int], keys: int, room: int) -> list[list[int]]:
    """The columns of a table as lists of them that fit the room, one below the other; the first `keys` columns, which
    say what a row is, are in each."""
    repeated = list(range(keys))
    lists: list[list[int]] = [repeated[:]]
    for column in range(keys, len(widths)):
        chosen = [*lists[-1], column]
        too_wide = sum(widths[i] for i in chosen) + 2 * (len(chosen) - 1) > room
        if too_wide and len(lists[-1]) > keys:
            lists.append([*repeated, column])
        else:
            lists[-1] = chosen
    return lists
