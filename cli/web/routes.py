"""The pages' addresses, and what they load: figures, media, styles and scripts."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from atlas.api.ask import question_named
from cli.web.drawing import svg_of
from cli.web.media import media
from cli.web.pages import card, compare, concept, edit, home, live, neuron, plain, search
from cli.web.parameters import from_texts
from cli.web.views import Page, Views

STATIC = Path(__file__).parent / "static"

PAGES: tuple[tuple[str, Page], ...] = (
    ("/", home.page),
    ("/search", search.page),
    ("/leaderboard", plain.leaderboard),
    ("/matrix", plain.matrix),
    ("/runs", plain.runs),
    ("/runs/{run}", plain.run),
    ("/edits", plain.edits),
    ("/live", live.page),
    ("/edits/{label}", edit.page),
    ("/card", card.page),
    ("/compare", compare.newest),
    ("/m/{model:path}/compare", compare.page),
    ("/m/{model:path}/c/{concept:path}", concept.page),
    ("/m/{model:path}/n/{address:path}", neuron.page),
)

DAY = 86_400


def router(views: Views) -> APIRouter:
    """All routes but the API's; none of them changes anything."""
    routes = APIRouter(include_in_schema=False, default_response_class=Response)
    for path, page in PAGES:
        routes.add_api_route(path, _page(views, page), methods=["GET"])

    async def figure(request: Request, name: str) -> Response:
        question = from_texts(question_named(name), request.query_params.multi_items(), besides=("embed",))
        return await views.asking.respond(
            request, lambda: Response(svg_of(views.asking.ask(question)), media_type="image/svg+xml")
        )

    async def medium(request: Request, example: str, number: int) -> Response:
        side = request.query_params.get("side")
        return await views.asking.respond(request, lambda: media(views.asking, example, number, side))

    routes.add_api_route("/figure/{name}", figure, methods=["GET"])
    routes.add_api_route("/media/{example}/{number}", medium, methods=["GET"])
    return routes


def _page(views: Views, page: Page):  # type: ignore[no-untyped-def]
    async def get(request: Request) -> Response:
        return await views.respond(request, page)

    return get
