"""The server: the API, the pages and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from atlas.errors import AtlasError
from atlas.missing_extra import missing_extra
from cli.web import describe, heat, live_routes, routes, v1
from cli.web.asking import Asking
from cli.web.guard import Guard
from cli.web.problems import RETRY, detail_of, problem, status_of
from cli.web.settings import Settings
from cli.web.views import Views

TITLE = "Neuron atlas"


def build(settings: Settings) -> FastAPI:
    """The application of one atlas. Nothing of the atlas is opened before the first request."""
    asking = Asking(settings)

    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:
        if asking.worker is not None:
            asking.worker.start()
        yield
        asking.close()

    app = FastAPI(
        title=TITLE,
        version=version("neuron-atlas"),
        lifespan=closing,
        openapi_url="/v1/openapi.json",
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # nothing leaves
        docs_url=None,
        redoc_url=None,
    )
    app.state.asking = asking
    views = Views(asking)
    app.include_router(v1.router(asking))
    app.include_router(routes.router(views))
    app.include_router(live_routes.router(asking))
    app.include_router(heat.router(asking))
    app.mount("/static", StaticFiles(directory=routes.STATIC), name="static")
    errors = Errors(views)
    app.add_exception_handler(AtlasError, errors.of_the_atlas)
    app.add_exception_handler(ModuleNotFoundError, errors.of_what_is_not_installed)
    app.add_exception_handler(HTTPException, errors.of_http)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Guard, settings=settings)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The API's own document, with the objects that all answers share."""
    if not app.openapi_schema:
        document = get_openapi(title=TITLE, version="1", routes=app.routes, description=DESCRIPTION)
        app.openapi_schema = describe.share(document)
    return app.openapi_schema


DESCRIPTION = (
    "One route a question. `GET /v1/QUESTION?...` takes its fields as parameters, `POST /v1/QUESTION` as a JSON "
    "object; `/v1/QUESTION.csv` and `/v1/QUESTION.parquet` give all rows as a file. Nothing here changes the atlas."
)


class Errors:
    """Errors as problem objects; as pages where a browser asks for one."""

    def __init__(self, views: Views):
        self._views = views

    async def of_the_atlas(self, request: Request, error: Exception) -> Response:
        """What the atlas refuses."""
        assert isinstance(error, AtlasError)
        status = status_of(error)
        return self._answer(request, status, detail_of(error), RETRY if status == 503 else None)

    async def of_what_is_not_installed(self, request: Request, error: Exception) -> Response:
        """A package of an extra; any other missing module is a defect of ours."""
        if (needed := missing_extra(error)) is None:
            raise error
        return self._answer(request, 501, f"this needs {needed}")

    async def of_http(self, request: Request, error: Exception) -> Response:
        """No such address, or another method."""
        assert isinstance(error, HTTPException)
        detail = f"there is nothing at {request.url.path}" if error.status_code == 404 else str(error.detail)
        return self._answer(request, error.status_code, detail, error.headers)

    def _answer(self, request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
        page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1/")
        return self._views.problem(status, detail, headers) if page else problem(status, detail, headers=headers)
