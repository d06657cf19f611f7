"""The SQL statement behind an answer, to be timed by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from atlas.query.answer import Answer
from atlas.query.statements import Query


def answered(ask: Callable[[], Answer]) -> tuple[Answer, Query]:
    """An answer, and the statement with its values that `Answer.sql` shows."""
    statements: list[Query] = []
    run = Query.run

    def recorded(statement: Query, *connection: Any) -> Any:
        statements.append(statement)
        return run(statement, *connection)

    with patch.object(Query, "run", recorded):
        answer = ask()
    return answer, next(statement for statement in statements if statement.explained() == answer.sql)
