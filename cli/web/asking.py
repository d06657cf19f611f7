"""Questions of requests: on a database that is kept open, within a time, and not again where nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from atlas.query.answer import Answer
from atlas.query.question import Question
from atlas.store.keeper import Keeper
from atlas.store.time_limit import time_limit
from cli.web.live_worker import Worker
from cli.web.settings import Settings
from cli.web.state import state_of

A = TypeVar("A", bound=Answer)

CACHED = "private, no-cache"
"""Browsers keep an answer and ask each time whether it still holds."""


class Asking:
    """What answers requests: one atlas, kept open while they come."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.path = settings.path
        self.keeper = Keeper(settings.path)
        self.worker = Worker(settings, self.keeper) if settings.live.model is not None else None

    def ask(self, question: Question[A]) -> A:
        """The answer to a question, in a thread that may wait.

        Raises:
            UsageError, StoreUnavailable, IntegrityError: as of the question.
            TookTooLong: it takes longer than the server allows.
        """
        with self.keeper.asking(), time_limit(self.settings.seconds):
            return question.ask(self.path)

    def state(self) -> str:
        """What answers depend on: see `cli.web.state`."""
        return state_of(self.path)

    async def respond(self, request: Request, answer: Callable[[], Response]) -> Response:
        """What `answer` gives in a thread of its own, with its mark; or 304 where the browser has it."""
        served = f"{self.settings.live} {self.settings.write} {self.worker and self.worker.state}"
        about = f"{self.state()} {served} {request.method} {request.url}"
        mark = f'W/"{sha256(about.encode()).hexdigest()[:24]}"'
        if request.method in ("GET", "HEAD") and mark in _marks(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers={"ETag": mark, "Cache-Control": CACHED})
        response = await run_in_threadpool(answer)
        if request.method in ("GET", "HEAD") and response.status_code == 200:
            response.headers["ETag"] = mark
            response.headers["Cache-Control"] = CACHED
        return response

    def close(self) -> None:
        """Close the atlas, and end what the live model does."""
        if self.worker is not None:
            self.worker.stop()
        self.keeper.stop()


def _marks(header: str) -> list[str]:
    return [part.strip() for part in header.split(",")]
