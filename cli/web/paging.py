"""Pages of an answer: at most so many rows at a time, and a cursor behind the last one."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.option import options_of
from atlas.query.question import Question
from cli.interchange import json_text

DEFAULT, MOST = 20, 1000
"""Rows of a page."""

FILE_ROWS = 1_000_000
"""The most rows of a file: CSV or Parquet."""


def has_pages(kind: type[Question[Any]]) -> bool:
    """Whether a question has pages of its own: it takes the cursor of the page before, and `top` is a page's rows."""
    return "after" in options_of(kind)


def page(
    answer: Answer, question: Question[Answer], state: str, limit: int, after: str | None
) -> tuple[Answer, str | None]:
    """At most `limit` rows behind a cursor, and the cursor behind them; None where no rows follow.

    Raises:
        UsageError: the limit is out of range, or the cursor is damaged, of another question, or of an atlas that has
            changed since.
    """
    if not 1 <= limit <= MOST:
        raise UsageError(f"[[limit]] must be from 1 to {MOST:,}")
    mark = _mark(question, state)
    begin = 0 if after is None else _read(after, mark)
    rows = answer[begin : begin + limit]
    following = begin + len(rows)
    return rows, _cursor(mark, following) if following < len(answer) else None


def _mark(question: Question[Answer], state: str) -> str:
    asked = json_text([type(question).__module__, sorted(question.given().items()), state])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _cursor(mark: str, row: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([mark, row]).encode()).decode().rstrip("=")


def _read(text: str, mark: str) -> int:
    try:
        stored, row = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not isinstance(row, int) or row < 0:
            raise ValueError(row)
    except (ValueError, TypeError, RecursionError):
        raise UsageError("[[after]] takes the `next` of the previous page; this is not one") from None
    if stored != mark:
        raise UsageError("[[after]] is of another question, or the atlas has changed since; ask again without it")
    return int(row)
