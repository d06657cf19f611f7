"""Who may ask: names of the server, the token, and what browsers are told about every answer.

A page of another site can make a browser send requests here, and can make its own name point to this machine (DNS
rebinding). So the Host header is checked, nothing is changed by GET, and POST takes JSON only, for which a browser asks
first whether the other site may.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from starlette.responses import RedirectResponse

from cli.web.problems import problem
from cli.web.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "atlas_token"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'"
)
"""What a page may load: nothing from elsewhere, and no script or style that stands in the page."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Checks every request before the application sees it, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_headers(scope)]
            await send(message)

        refusal = self._refusal(scope, headers)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Any:
        """What to answer in place of the application, or None where the request may pass."""
        if hostname(headers.get("host", "")) not in self._settings.hosts:
            return problem(400, "this server does not answer to this name; `atlas serve --name NAME` adds one")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return problem(415, "send JSON, with the header Content-Type: application/json")
        if self._settings.token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and same(given, self._settings.token) and scope["method"] == "GET":
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            response = RedirectResponse(f"{scope['path']}{'?' if rest else ''}{rest}", 303)
            response.set_cookie(COOKIE, self._settings.token, httponly=True, samesite="strict")
            return response
        if same(_token_of(headers), self._settings.token):
            return None
        return problem(
            401,
            "this server needs its token: open the address that `atlas serve` printed, or send the header "
            "Authorization: Bearer TOKEN",
            headers={"WWW-Authenticate": "Bearer"},
        )


def hostname(host: str) -> str:
    """The name in a Host header, without the port: `[::1]:80` -> `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def same(given: str | None, token: str) -> bool:
    """Whether a token is the right one, in a time that does not tell how much of it is."""
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def _token_of(headers: Mapping[str, str]) -> str | None:
    """The token of a request: of its Authorization header, or of the cookie."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def _headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What every answer says to browsers. A page with `?embed=1` may stand in a frame of another."""
    embedded = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("embed") == "1"
    policy = f"{POLICY}; frame-ancestors {'*' if embedded else chr(39) + 'none' + chr(39)}"
    return [(n.encode(), v.encode()) for n, v in ({"content-security-policy": policy} | HEADERS).items()]
