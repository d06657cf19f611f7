"""The live page: ask the model, see which neurons are behind a word, change them and ask again."""

from __future__ import annotations

from starlette.requests import Request

from atlas.edits import library
from atlas.query import saved
from cli.web.live_actions import MOST_CHARACTERS, MOST_TOKENS
from cli.web.live_changes import LARGEST_FACTOR
from cli.web.live_media import MOST_BYTES, MOST_PIXELS, MOST_SECONDS
from cli.web.live_routes import TOKENS, worker_of
from cli.web.views import Rendered, Views


def page(views: Views, request: Request) -> Rendered:
    """`/live?prompt=&neurons=`.

    Raises:
        NotThere: the server has no live model.
    """
    worker = worker_of(views.asking)
    path, given = views.asking.path, request.query_params
    with views.asking.keeper.asking():
        edits = sorted(library.known(path))
    limits = (
        f"At most {MOST_TOKENS} tokens of an answer, {MOST_BYTES >> 20} MiB of a file, {MOST_PIXELS // 1_000_000} "
        f"million pixels of a picture, {MOST_SECONDS:g} seconds of a recording."
    )
    return Rendered(
        "live.html",
        title=f"Ask {worker.name}",
        limits=limits,
        largest={"characters": MOST_CHARACTERS, "tokens": MOST_TOKENS, "bytes": MOST_BYTES, "factor": LARGEST_FACTOR},
        tokens=TOKENS,
        prompt=given.get("prompt", "")[:MOST_CHARACTERS],
        neurons=given.get("neurons", "")[:2000],
        edits=edits,
        selections=saved.names(path),
        write=views.asking.settings.write,
    )
