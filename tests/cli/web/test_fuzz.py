"""The API asked by a machine: what its document allows, and what not. Nothing may fail but in a way it describes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

EXAMPLES = 4
"""Requests a route."""

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.fixture(scope="module")
def api(stored_atlas: Path) -> Iterator[Any]:
    from cli.web.app import build
    from cli.web.settings import Settings

    app = build(Settings(stored_atlas, names=("testserver",)))
    yield schemathesis.openapi.from_asgi("/v1/openapi.json", app)
    app.state.asking.close()


def operations() -> list[tuple[str, str]]:
    """Every path and method of the committed document."""
    paths = json.loads((Path(__file__).parents[3] / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
    return [(path, method.upper()) for path, methods in paths.items() for method in methods]


ASKED = [(*operation, mode) for operation in operations() for mode in schemathesis.GenerationMode]
ASKED = [(path, method, mode) for path, method, mode in ASKED if mode.is_positive or "." not in path]
"""Files take the same parameters as the rest, so that what is wrong is asked once."""


@pytest.mark.parametrize(("path", "method", "mode"), ASKED)
def test_every_answer_is_one_that_the_document_describes(path: str, method: str, mode: Any, api: Any) -> None:
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    with suppress(Unsatisfiable):  # nothing can be wrong in a request without parameters
        ask()
