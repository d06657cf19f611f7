"""The pages as files: the same templates, for any static host and for a folder that is opened by itself."""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from atlas.api.atlas import Atlas
from atlas.errors import AtlasError, UsageError
from cli.web import links
from cli.web.app import build
from cli.web.settings import Settings

ATTRIBUTE = re.compile(r'(?P<name>href|src)="(?P<address>[^"]*)"')
"""Every address of a page: the templates write attributes with double quotes, and escape what stands in them."""

PLAIN = ("/", "/card", "/leaderboard", "/matrix", "/runs", "/edits")
"""Pages that every site has."""

LONGEST = 80
"""Characters of a name that is a file's."""

ENDINGS = {
    "text/html": ".html",
    "image/svg+xml": ".svg",
    "image/jpeg": ".jpg",
    "audio/wav": ".wav",
    "text/csv": ".csv",
    "application/json": ".json",
}


@dataclass
class Site:
    """What was written. files: how many of each kind, by ending. missing: addresses that a page loads and that could
    not be made, with the reason."""

    folder: Path
    files: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def write(path: Path, out: Path, *, concepts: Sequence[str] = (), top: int = 12) -> Site:
    """Write the pages of an atlas below a new folder.

    concepts: whose pages there are, by default all. top: the best neurons of each, by source, that have pages.

    Raises:
        UsageError: the folder exists and is not empty, or there is no such concept.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder; give another [[out]]")
    pages = list(pages_of(Atlas.open(path), concepts, top))
    app = build(Settings(path, static=True, seconds=600.0))
    try:
        return asyncio.run(_Writer(app, out, pages).write())
    finally:
        app.state.asking.close()


def pages_of(atlas: Atlas, concepts: Sequence[str], top: int) -> Iterator[str]:
    """The addresses of the site's pages."""
    yield from PLAIN
    stored = {row["concept"]: row["sources"] for row in atlas.concepts().to_pylist() if row["maps"]}
    for name in concepts:
        if name not in stored:
            atlas.query(name, top=1)  # which says the nearest name
    neurons: dict[str, None] = {}
    for name in concepts or stored:
        for source in stored[name]:
            best = atlas.query(name, source=source, top=top)
            model = str(best.provenance["maps"][0]["model"])
            yield links.concept(model, name)
            yield links.concept(model, name, source=source)
            neurons |= dict.fromkeys(links.neuron(model, neuron) for neuron in best.neurons)
    yield from neurons
    yield from (links.run(str(row["run"])) for row in atlas.runs().to_pylist())
    yield from (links.edit(f"{row['name']}@{row['version']}") for row in atlas.edits().to_pylist())


class _Writer:
    """Asks the application for pages and what they load, and writes them with addresses that lead to files."""

    def __init__(self, app: Any, out: Path, pages: Sequence[str]):
        self._app, self._pages = app, dict.fromkeys(pages)
        self._files: dict[str, str | None] = {}
        self._site = Site(out)

    async def write(self) -> Site:
        for page in self._pages:
            status, kind, content = await ask(self._app, page)
            if status != 200:
                raise AtlasError(f"the page {page} cannot be made: {content.decode(errors='replace')[:300]}")
            file = file_of(page)
            await self._load(content.decode())
            self._save(file, kind, self._linked(content.decode(), file).encode())
        return self._site

    async def _load(self, html: str) -> None:
        """Write what a page loads."""
        for found in ATTRIBUTE.finditer(html):
            address = unescape(found["address"])
            if address.startswith(("/static/", "/media/", "/figure/", "/v1/")) and address not in self._files:
                status, kind, content = await ask(self._app, address)
                if status == 200:
                    self._files[address] = name = _loaded_name(address, kind)
                    self._save(name, kind, content)
                else:
                    self._files[address] = None
                    self._site.missing[address] = content.decode(errors="replace")[:200]

    def _linked(self, html: str, file: str) -> str:
        """The page with relative addresses; an address that the site does not have is taken out."""
        here = posixpath.dirname(file)

        def relative(found: re.Match[str]) -> str:
            address = unescape(found["address"])
            if address.startswith(("#", "data:")):
                return found[0]
            plain, mark, part = address.partition("#")
            name = file_of(plain) if plain in self._pages else self._files.get(plain)
            if name is None:
                return ""
            return f'{found["name"]}="{escape(posixpath.relpath(name, here or "."))}{mark}{part}"'

        return ATTRIBUTE.sub(relative, html)

    def _save(self, name: str, kind: str, content: bytes) -> None:
        file = self._site.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        ending = file.suffix
        self._site.files[ending] = self._site.files.get(ending, 0) + 1


def file_of(page: str) -> str:
    """The file of a page: `/m/tiny-llava/c/dog?source=text` -> `m/tiny-llava/c/dog.source=text.html`."""
    parts = urlsplit(page)
    path = "/".join(safe(unquote(part)) for part in parts.path.split("/") if part) or "index"
    return f"{path}{f'.{safe(unquote(parts.query))}' if parts.query else ''}.html"


def safe(name: str) -> str:
    """A name as that of a file on any system; a hash tells apart what would be alike.

    >>> safe("dog"), safe("no-dog@1")[:6], safe("..")[:2]
    ('dog', 'no-dog', '__')
    """
    plain = re.sub(r"[^\w=.-]", "_", name).replace("..", "__")
    if plain == name and len(name) <= LONGEST:
        return name
    return f"{plain[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _loaded_name(address: str, kind: str) -> str:
    """The file of what a page loads."""
    parts = urlsplit(address)
    if parts.path.startswith("/static/"):
        return parts.path[1:]
    first, _, rest = parts.path[1:].partition("/")
    name = safe(rest.partition(".")[0].replace("/", "-"))
    digest = hashlib.sha256(address.encode()).hexdigest()[:10]
    return f"{first}/{name}-{digest}{ENDINGS[kind]}"


async def ask(app: Callable[..., Any], address: str) -> tuple[int, str, bytes]:
    """Status, media type and content of what an application answers, without a server between."""
    parts = urlsplit(address)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
    }
    answer: dict[str, Any] = {"body": b""}

    request = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Mapping[str, Any]:
        if (message := next(request, None)) is None:
            await asyncio.Event().wait()  # nothing more comes, and nobody goes away
        return message or {}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer["status"], answer["headers"] = message["status"], dict(message["headers"])
        else:
            answer["body"] += message.get("body", b"")

    await app(scope, receive, send)
    kind = answer["headers"].get(b"content-type", b"").decode().partition(";")[0]
    return answer["status"], kind, answer["body"]
