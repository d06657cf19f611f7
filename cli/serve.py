"""`atlas serve`: the HTTP API and the pages of an atlas."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from functools import partial
from ipaddress import ip_address
from threading import Timer
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.errors import UsageError
from atlas.store.database import open_readonly
from cli.common import AtlasPath, resolve, say
from cli.groups import grouped
from ingest.requests.load_model import LoadModel

if TYPE_CHECKING:
    import uvicorn

    from cli.web.live_worker import Worker
    from cli.web.settings import Settings

TOKEN = "NEURON_ATLAS_TOKEN"
"""The environment variable of the token: an option would be seen by everyone who lists processes."""

Host = Annotated[
    str, typer.Option("--host", help="Where to listen; elsewhere than on this machine alone needs a token.")
]
Port = Annotated[int, typer.Option("--port", "-p", help="The port; 0 takes a free one.", min=0, max=65535)]
Name = Annotated[list[str], typer.Option("--name", help="A name by which browsers call this server; repeatable.")]
Origin = Annotated[
    list[str], typer.Option("--origin", help="A site whose pages may read answers: https://example.org; repeatable.")
]
Seconds = Annotated[float, typer.Option("--seconds", help="The time that a question may take.", min=0.1)]
WithToken = Annotated[bool, typer.Option("--token", help=f"Ask for a token: ${TOKEN}, or a new one.")]
Write = Annotated[bool, typer.Option("--write", help="Let the live page save selections and edits in the atlas.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")]


@grouped
def serve(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8501,
    name: Name = [],  # noqa: B006
    origin: Origin = [],  # noqa: B006
    token: WithToken = False,
    seconds: Seconds = 20.0,
    live: LoadModel,
    write: Write = False,
    no_browser: NoBrowser = False,
    atlas: AtlasPath = None,
) -> None:
    """Answer questions over HTTP (/v1/QUESTION, described at /v1/openapi.json) until Ctrl-C.

    Nothing changes the atlas, unless with --write. With --model, a model of the atlas is loaded for heatmaps and the
    live page, and everyone needs the token.

    Example: atlas serve --port 8501

    Example: atlas serve --host 0.0.0.0 --name gpu7.example.org

    Example: atlas serve --model tiny-llava --write
    """
    import uvicorn

    from cli.web.app import build
    from cli.web.settings import Settings

    path = resolve(atlas)
    with open_readonly(path):  # there is an atlas
        pass
    needed = token or live.model is not None or not is_loopback(host)
    secret = (os.environ.get(TOKEN) or secrets.token_urlsafe(24)) if needed else None
    listening = listen(host, port)
    settings = Settings(
        path=path,
        host=host,
        port=listening.getsockname()[1],
        names=tuple(name),
        origins=tuple(map(checked_origin, origin)),
        token=secret,
        seconds=seconds,
        live=live,
        write=write,
    )
    address = address_of(settings)
    say(f"{path} is served at {address} (Ctrl-C ends it)")
    if not no_browser and sys.stdout.isatty():
        opening = Timer(0.5, webbrowser.open, [address])
        opening.daemon = True
        opening.start()
    app = build(settings)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="warning", server_header=False, access_log=False)
    )
    run(server, app.state.asking.worker, listening)


def run(server: uvicorn.Server, worker: Worker | None, listening: socket.socket) -> None:
    """Serve until Ctrl-C.

    Raises:
        AtlasError: the live model cannot be loaded, or the atlas does not know it.
    """
    if worker is not None:
        worker.on_failure = partial(setattr, server, "should_exit", True)
    server.run(sockets=[listening])
    if worker is not None and worker.failed is not None:
        raise worker.failed


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: the port is taken, or the address is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}, port {port} ({error.strerror}); give another [[port]] or [[host]]"
        ) from error


def checked_origin(text: str) -> str:
    """An origin as browsers send it.

    Raises:
        UsageError: it is not one, or it is `*`, which would let every site read the atlas.
    """
    scheme, separator, rest = text.rstrip("/").partition("://")
    if scheme not in ("http", "https") or not separator or not rest or "/" in rest or "*" in rest:
        raise UsageError(f"[[origin]] is a site such as https://example.org, not '{text}'")
    return f"{scheme}://{rest.lower()}"


def address_of(settings: Settings) -> str:
    """What to open in a browser, with the token where one is needed."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    if settings.host in ("0.0.0.0", "::"):
        host = settings.names[0] if settings.names else "127.0.0.1"
    return f"http://{host}:{settings.port}/{f'?token={settings.token}' if settings.token else ''}"
