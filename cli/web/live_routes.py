"""The addresses of the live page: GET shows and changes nothing, POST takes JSON and begins an action, or saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from atlas.errors import UsageError
from cli.interchange import json_text
from cli.web.asking import Asking
from cli.web.live_actions import (
    MOST_TOKENS,
    TOP,
    Asked,
    answer,
    contributions,
    described_rows,
    ids_of,
    number_of,
    prompt_of,
)
from cli.web.live_changes import changes_of, of_random, save_edit, save_selection
from cli.web.live_media import MOST_BYTES, media_of
from cli.web.live_worker import Action, Loaded, Worker
from cli.web.problems import Busy, Forbidden, NotThere
from cli.web.v1 import JSON, json_of

LARGEST_BODY = 4 * MOST_BYTES // 3 + (1 << 20)
"""Bytes of a request: a file in base64, and the words beside it."""

TOKENS = 50

MOST_SEED = 1_000_000

NO_MODEL = "this server has no live model; `atlas serve --model NAME` loads one"


def router(asking: Asking) -> APIRouter:
    """All routes of the live page but the page itself."""
    routes = APIRouter(prefix="/live", include_in_schema=False, default_response_class=Response)
    live = LiveRoutes(asking)
    routes.add_api_route("/status", live.status, methods=["GET"])
    routes.add_api_route("/actions/{action}", live.action, methods=["GET"])
    routes.add_api_route("/actions/{action}/cancel", live.cancel, methods=["POST"])
    routes.add_api_route("/answer", live.answer, methods=["POST"])
    routes.add_api_route("/contributions", live.contributions, methods=["POST"])
    routes.add_api_route("/save", live.save, methods=["POST"])
    return routes


def worker_of(asking: Asking) -> Worker:
    """The server's live model.

    Raises:
        NotThere: it has none.
    """
    if asking.worker is None:
        raise NotThere(NO_MODEL)
    return asking.worker


class LiveRoutes:
    """The routes of one server."""

    def __init__(self, asking: Asking):
        self._asking = asking

    async def status(self, request: Request) -> Response:
        """Whether the model is loaded, and how many actions wait or run."""
        worker = worker_of(self._asking)
        return _json({"state": worker.state, "model": worker.name, "waiting": worker.waiting()})

    async def action(self, request: Request, action: str) -> Response:
        """How far an action is, and what came of it."""
        return _shown(worker_of(self._asking), self._known(action))

    async def cancel(self, request: Request, action: str) -> Response:
        """End an action; one that waits never begins."""
        known = self._known(action)
        worker_of(self._asking).cancel(known)
        return _shown(worker_of(self._asking), known)

    async def answer(self, request: Request) -> Response:
        """Begin an answer."""
        content = await json_of(request, LARGEST_BODY)

        def begun() -> Action:
            tokens = number_of(content, "tokens", MOST_TOKENS, TOKENS)
            seed = number_of(content, "random", MOST_SEED, 1) if "random" in content else None
            asked = self._asked(content)
            if seed is None:
                return self._submit("answer", lambda loaded: answer(loaded, asked, tokens))
            return self._submit("random neurons", lambda loaded: self._with_random(loaded, asked, tokens, seed))

        return await self._begin(begun)

    def _with_random(self, loaded: Loaded, asked: Asked, tokens: int, seed: int) -> dict[str, Any]:
        notes: list[str] = []
        with self._asking.keeper.asking():
            changes = of_random(self._asking.path, loaded.live, asked.changes, seed, notes)
        return answer(loaded, replace(asked, changes=changes), tokens, notes)

    async def contributions(self, request: Request) -> Response:
        """Begin to look for the neurons behind a word of an answer."""
        content = await json_of(request, LARGEST_BODY)

        def begun() -> Action:
            ids, tokens = ids_of(content, "ids"), ids_of(content, "tokens")
            top = number_of(content, "top", 100, TOP)
            asked = self._asked(content)

            def found(loaded: Loaded) -> dict[str, Any]:
                scored = contributions(loaded, asked, ids, tokens, top)
                with self._asking.keeper.asking():
                    return described_rows(self._asking.path, loaded, scored)

            return self._submit("contributions", found)

        return await self._begin(begun)

    async def save(self, request: Request) -> Response:
        """Save what was changed, as a selection or an edit."""
        worker_of(self._asking)
        if not self._asking.settings.write:
            raise Forbidden("this server does not save anything; `atlas serve --model NAME --write` does")
        content = await json_of(request)
        return _json(await run_in_threadpool(self._saved, content))

    def _saved(self, content: Mapping[str, Any]) -> dict[str, str]:
        kinds: dict[str, Callable[..., str]] = {"selection": save_selection, "edit": save_edit}
        kind, name, note = (content.get(key) for key in ("kind", "name", "note"))
        if kind not in kinds:
            raise UsageError("[[kind]] is selection or edit")
        if not isinstance(name, str) or not isinstance(note, str | None):
            raise UsageError("[[name]] and [[note]] are texts")
        changes = self._changes(content)
        with self._asking.keeper.writing():
            saved = kinds[kind](self._asking.path, name, changes, note or None)
        return {"kind": kind, "saved": saved}

    def _known(self, name: str) -> Action:
        known = worker_of(self._asking).action(name)
        if known is None:
            raise NotThere("there is no such action, or it was long ago")
        return known

    def _changes(self, content: Mapping[str, Any]) -> Any:
        loaded = worker_of(self._asking).loaded
        given = content.get("changes") or []
        if not given:
            return []
        if loaded is None:
            raise Busy("the model is still being loaded; try again in a while")
        with self._asking.keeper.asking():
            return changes_of(self._asking.path, loaded.stored, given)

    def _asked(self, content: Mapping[str, Any]) -> Asked:
        return Asked(prompt_of(content), *media_of(content), self._changes(content))

    def _submit(self, about: str, do: Callable[[Loaded], Any]) -> Action:
        return worker_of(self._asking).submit(about, do)

    async def _begin(self, begun: Callable[[], Action]) -> Response:
        worker = worker_of(self._asking)
        return _shown(worker, await run_in_threadpool(begun), 202)


def _shown(worker: Worker, action: Action, status: int = 200) -> Response:
    return _json(action.plain(worker.ahead(action)), status)


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json_text(content), status, {"Cache-Control": "no-store"}, media_type=JSON)
