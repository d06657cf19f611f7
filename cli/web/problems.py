"""Errors as problem objects (RFC 9457), and as pages where a person asked."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from atlas.errors import AtlasError, IntegrityError, StoreUnavailable, Unsupported, UsageError, spelled
from atlas.store.time_limit import TookTooLong
from cli.interchange import json_text


class NotThere(AtlasError):
    """An address is of nothing, or of a file that is gone."""


class Forbidden(AtlasError):
    """The server was started so that it does not do this."""


class Busy(AtlasError):
    """Too many wait already, or it took too long until it was its turn."""


STATUSES: Mapping[type[AtlasError], int] = {
    NotThere: 404,
    Forbidden: 403,
    Busy: 503,
    UsageError: 400,
    TookTooLong: 503,
    StoreUnavailable: 503,
    Unsupported: 501,
    IntegrityError: 500,
    AtlasError: 500,
}
"""By the class of an error, the first that fits."""

RETRY = {"Retry-After": "2"}
"""In seconds: for a database that somebody writes."""

KIND = "application/problem+json"


def status_of(error: AtlasError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status in STATUSES.items() if isinstance(error, kind))


def detail_of(error: AtlasError) -> str:
    """The message of an error, whose fields are parameters."""
    return spelled(error.message, lambda name, value: name if value is None else f"{name}={value}")


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """A problem object. more: further members."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return Response(json_text(content), status, dict(headers or {}), media_type=KIND)
