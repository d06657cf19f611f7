"""The SQL statement behind an answer, to be timed by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from atlas.query.answer import Answer
from atlas.query.map_spec import MapSpec
from atlas.query.statements import Query, best_concepts, find_maps
from atlas.questions.neuron import Profile
from atlas.store.database import open_readonly


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


def statement_of(path: Path, asked: Callable[[], Answer]) -> Query | None:
    """The statement that answers a question, where it is one; a neuron's concepts are one of three."""
    if (answer := asked()).sql is not None:
        return answered(asked)[1]
    if not isinstance(answer, Profile):
        return None
    with open_readonly(path) as connection:
        every = find_maps(MapSpec()).run(connection)["map_id"].to_pylist()
    return best_concepts(answer.neuron, every, top=1000)
