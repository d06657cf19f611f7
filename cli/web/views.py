"""What all pages have in common: the atlas, the templates, and how a page is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from atlas.errors import UsageError
from cli.text import visible
from cli.web import links
from cli.web.asking import Asking
from cli.web.copy_as import command_line
from cli.web.section import Part, Section


def _shown(value: Any) -> Any:
    """What a template writes: text without characters that do something instead of being seen."""
    return visible(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


TEMPLATES = Path(__file__).parent / "templates"

Page = Callable[["Views", Request], "Rendered | Response"]


class Rendered:
    """A template, the parts of a page, and what else it shows. answered: parts that were asked already, by key."""

    def __init__(
        self, template: str, parts: Sequence[Part] = (), answered: Mapping[str, Section] | None = None, **shown: Any
    ):
        self.template, self.parts, self.answered, self.shown = template, parts, dict(answered or {}), shown


class Views:
    """Makes pages of one atlas."""

    def __init__(self, asking: Asking):
        self.asking = asking
        self._static = asking.settings.static
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {"links": links, "atlas_name": asking.path.resolve().name}
        self._environment.globals["has_live"] = asking.worker is not None
        self._environment.filters["command"] = command_line

    def html(self, template: str, shown: Mapping[str, Any], *, embed: bool = False) -> str:
        """A template with what it shows; everything is escaped."""
        return self._environment.get_template(template).render(
            {"embed": embed, "searched": None, "lead": (), "static": self._static} | {**shown}
        )

    async def respond(self, request: Request, page: Page) -> Response:
        """A page, or the one part of it that `?part=` asks for, made in a thread of its own; or 304."""

        def made() -> Response:
            rendered = page(self, request)
            return rendered if isinstance(rendered, Response) else HTMLResponse(self._page(request, rendered))

        return await self.asking.respond(request, made)

    def _page(self, request: Request, rendered: Rendered) -> str:
        given = request.query_params
        if (key := given.get("part")) is not None:
            for part in rendered.parts:
                if part.key == key:
                    section = rendered.answered.get(key) or part.answered(self.asking)
                    return self.html("part.html", {"section": section})
            raise UsageError(f"this page has no part '{key}'")
        sections: list[tuple[Part, Section | None, str]] = []
        for part in rendered.parts:
            later = part.deferred and not self._static and given.get("whole") != "1"
            shown = rendered.answered.get(part.key) or (None if later else part.answered(self.asking))
            sections.append((part, shown, f"?{urlencode([*given.multi_items(), ('part', part.key)])}"))
        return self.html(rendered.template, {**rendered.shown, "sections": sections}, embed=given.get("embed") == "1")

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
        """An error as a page."""
        shown = {"status": status, "name": HTTPStatus(status).phrase, "detail": detail}
        return HTMLResponse(self.html("problem.html", shown), status, headers=dict(headers or {}))
