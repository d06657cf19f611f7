"""Lists of everything of one kind in an atlas."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.statements import listing
from atlas.store.database import open_readonly


def everything(path: Path, kind: str) -> Answer:
    """The list of one kind. kind: a key of `atlas.query.statements.LISTS`."""
    statement = listing(kind)
    with open_readonly(path) as connection:
        return Answer(statement.run(connection), sql=statement.explained())
