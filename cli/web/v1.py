"""The HTTP API: one route a question, with the same names as in Python and the same answer, as JSON, CSV or Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Request
from starlette.responses import Response

import atlas.questions
from atlas import registry
from atlas.api.ask import question_named
from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.question import Question
from cli.interchange import SCHEMA_VERSION, cells_of, json_text, separated
from cli.web import describe
from cli.web.asking import Asking
from cli.web.paging import DEFAULT, FILE_ROWS, MOST, has_pages, page
from cli.web.parameters import from_json, from_texts

Route = Callable[[Request], Awaitable[Response]]

JSON, CSV, PARQUET = "application/json", "text/csv; charset=utf-8", "application/vnd.apache.parquet"

LARGEST_BODY = 1 << 20
"""Bytes of a question as JSON."""


def router(asking: Asking) -> APIRouter:
    """The routes `/v1/QUESTION`, `/v1/QUESTION.csv` and `/v1/QUESTION.parquet` of every question."""
    routes = APIRouter(prefix="/v1", default_response_class=Response)
    for name in registry.names(atlas.questions):
        kind = question_named(name)
        summary, text = describe.about(kind)
        for path, method, operation, route, extra in _routes(asking, name, kind):
            routes.add_api_route(
                path,
                route,
                methods=[method],
                operation_id=operation,
                summary=summary,
                description=text if operation == name else f"See `GET /v1/{name}`.",
                openapi_extra=extra,
            )
    return routes


def _routes(
    asking: Asking, name: str, kind: type[Question[Any]]
) -> Iterator[tuple[str, str, str, Route, dict[str, Any]]]:
    """Path, method, operation, function and description of a question's routes."""
    paged = not has_pages(kind)
    yield f"/{name}", "GET", name, _get(asking, kind), describe.get(kind, JSON, paged=paged)
    yield f"/{name}", "POST", f"{name}_json", _post(asking, kind), describe.post(kind, JSON, paged=paged)
    for ending, media_type, write in FILES:
        route = _file(asking, kind, media_type, write)
        yield f"/{name}.{ending}", "GET", f"{name}_{ending}", route, describe.file(kind, media_type)


def _get(asking: Asking, kind: type[Question[Any]]) -> Route:
    async def get(request: Request) -> Response:
        pairs = request.query_params.multi_items()
        if has_pages(kind):
            return await _answered(asking, request, from_texts(kind, pairs))
        question = from_texts(kind, pairs, besides=describe.PAGE)
        texts = dict(pairs)
        limit = texts.get("limit") or str(DEFAULT)
        if not limit.isdecimal():
            raise UsageError(f"[[limit]] must be a whole number, not '{limit}'")
        return await _answered(asking, request, question, int(limit), texts.get("after") or None)

    return get


def _post(asking: Asking, kind: type[Question[Any]]) -> Route:
    async def post(request: Request) -> Response:
        content = await json_of(request)
        if has_pages(kind):
            return await _answered(asking, request, from_json(kind, content))
        limit, after = content.pop("limit", DEFAULT), content.pop("after", None)
        if isinstance(limit, bool) or not isinstance(limit, int) or not isinstance(after, str | None):
            raise UsageError("[[limit]] is a whole number, and [[after]] the `next` of the previous page")
        return await _answered(asking, request, from_json(kind, content), limit, after)

    return post


def _file(asking: Asking, kind: type[Question[Any]], media_type: str, write: Callable[[pa.Table], bytes]) -> Route:
    async def file(request: Request) -> Response:
        question = from_texts(kind, request.query_params.multi_items())

        def ask() -> Response:
            answer = asking.ask(question)
            if len(answer) > FILE_ROWS:
                raise UsageError(f"a file has at most {FILE_ROWS:,} rows here, and the answer {len(answer):,}")
            return Response(write(answer.table), media_type=media_type)

        return await asking.respond(request, ask)

    return file


async def _answered(
    asking: Asking, request: Request, question: Question[Any], limit: int | None = None, after: str | None = None
) -> Response:
    """The JSON of an answer; of one without pages of its own, `limit` rows behind `after`."""
    if limit is None and isinstance(top := getattr(question, "top", None), int) and top > MOST:
        raise UsageError(f"[[top]] is at most {MOST:,} here; `next` goes on behind a page")

    def ask() -> Response:
        state = asking.state()
        answer = asking.ask(question)
        rows, following = (answer, answer.next) if limit is None else page(answer, question, state, limit, after)
        return Response(json_text(content_of(rows, following)), media_type=JSON)

    return await asking.respond(request, ask)


def content_of(answer: Answer, following: str | None) -> Mapping[str, Any]:
    """An answer as plain objects. following: the cursor of the next page."""
    return {
        "schema_version": SCHEMA_VERSION,
        "facts": answer.facts,
        "provenance": answer.provenance,
        "defaults": answer.defaults,
        "notes": answer.notes,
        "next": following,
        "rows": answer.to_pylist(),
        "parts": {name: table.to_pylist() for name, table in answer.parts.items()},
    }


async def json_of(request: Request, most: int = LARGEST_BODY) -> dict[str, Any]:
    """The JSON object of a request's body. most: bytes.

    Raises:
        UsageError: it is none, or too long.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise UsageError(f"a question has at most {most >> 10} KiB")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError("send a JSON object with the question's fields")
    return content


def _csv(table: pa.Table) -> bytes:
    lines = [table.column_names, *cells_of(table.column_names, table.to_pylist())]
    return "".join(f"{separated(cells, ',')}\r\n" for cells in lines).encode()


def _parquet(table: pa.Table) -> bytes:
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()


FILES = (("csv", CSV, _csv), ("parquet", PARQUET, _parquet))
"""The endings of files, their media types, and what writes them."""
