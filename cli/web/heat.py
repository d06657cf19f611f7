"""A neuron's activation over a stored example's picture, and where that shows a concept, as pictures for a page."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, Neuron
from cli.web.asking import Asking
from cli.web.live_routes import worker_of
from cli.web.live_worker import Loaded
from cli.web.media import example_row
from cli.web.problems import NotThere

if TYPE_CHECKING:
    from atlas.live.grid.heat_answer import Panel

SIDE = 256
"""Pixels of a map's longer side."""

KEPT = 128
"""Maps that are kept in memory: some 60 MB."""

SECONDS = 60.0
"""That a map is waited for."""

PNG = "image/png"

Pixels = NDArray[np.uint8]

DIMMED = 0.3
"""How bright the part of a picture is that lies below the percentile."""

OUTLINE = (255, 120, 0)
"""The colour in which the concept's outline is drawn."""


def router(asking: Asking) -> APIRouter:
    """`/heat/{example}/{layer}/{index}`, the same with `/overlay`, and `/mask/{example}/{concept}`."""
    routes = APIRouter(include_in_schema=False, default_response_class=Response)
    maps = Maps(asking)

    async def heat(request: Request, example: str, layer: int, index: int) -> Response:
        concept = request.query_params.get("concept") or None
        return await asking.respond(request, lambda: heat_png(maps.panel(example, layer, index, concept)))

    async def overlay(request: Request, example: str, layer: int, index: int) -> Response:
        concept = request.query_params.get("concept") or None
        percentile = percentile_of(request.query_params.get("percentile"))
        return await asking.respond(
            request, lambda: overlay_png(replace(maps.panel(example, layer, index, concept), percentile=percentile))
        )

    async def mask(request: Request, example: str, concept: str) -> Response:
        return await asking.respond(request, lambda: mask_png(asking, example, concept))

    routes.add_api_route("/heat/{example}/{layer}/{index}", heat, methods=["GET"])
    routes.add_api_route("/heat/{example}/{layer}/{index}/overlay", overlay, methods=["GET"])
    routes.add_api_route("/mask/{example}/{concept:path}", mask, methods=["GET"])
    return routes


def percentile_of(text: str | None) -> float:
    """A percentile of an address, 95 by default.

    Raises:
        UsageError: it is none.
    """
    try:
        percentile = float(text or 95)
    except ValueError:
        percentile = -1
    if not 0 <= percentile < 100:
        raise UsageError(f"[[percentile]] must be from 0 to below 100, not '{text}'")
    return percentile


class Maps:
    """Maps by the live model, the newest of them kept as long as the atlas stays as it is."""

    def __init__(self, asking: Asking):
        self._asking = asking
        self._kept: OrderedDict[tuple[Any, ...], Panel] = OrderedDict()
        self._lock = threading.Lock()

    def panel(self, example: str, layer: int, index: int, concept: str | None) -> Panel:
        """A neuron's map over an example's picture, as `atlas plot heatmap` computes it.

        Raises:
            NotThere: no live model or no such example, or its tokens have no place in a picture.
            UsageError: not a neuron of the model. Busy: the model has other things to do.
        """
        worker = worker_of(self._asking)
        key = (self._asking.state(), example, layer, index, concept)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        example_row(self._asking, example)
        neuron = Neuron(LANGUAGE, layer, index)
        panel = worker.wait_for("heatmap", lambda loaded: self._computed(loaded, neuron, example, concept), SECONDS)
        with self._lock:
            self._kept[key] = panel
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return panel

    def _computed(self, loaded: Loaded, neuron: Neuron, example: str, concept: str | None) -> Panel:
        from ingest.data.examples import BadMedia
        from ingest.requests.heatmap import Heatmap
        from ingest.requests.progress import silent

        request = Heatmap(neuron, example=example, concept=concept)
        try:
            with self._asking.keeper.asking():
                answer = request.look(self._asking.path, silent, SIDE, (loaded.live, loaded.stored))
        except BadMedia as error:
            raise NotThere(error.message) from error
        for panel in answer.panels:
            if panel.heat is not None and panel.shown.pixels is not None:
                return panel
        raise NotThere("; ".join(answer.notes) or f"the tokens of the example {example} have no place in a picture")


def heat_png(panel: Panel) -> Response:
    """A map in 256 greys, from its smallest value to its largest; clear where no token sees the picture.

    The headers have its range and, where it is known which pixels show the concept, the IoU with them of the part above
    each percentile from 0 to 99, and that of random neurons above the 95th.
    """
    assert panel.heat is not None
    seen = ~np.isnan(panel.heat)
    least, most = float(np.nanmin(panel.heat)), float(np.nanmax(panel.heat))
    headers = {"X-Heat-Min": repr(least), "X-Heat-Max": repr(most)}
    if panel.shown.region is not None:
        ious = [replace(panel, percentile=float(percentile)).iou for percentile in range(100)]
        headers["X-Heat-IoU"] = ",".join("" if iou is None else f"{iou:.4f}" for iou in ious)
        if panel.random is not None:
            headers["X-Heat-Random-IoU"] = f"{panel.random:.4f}"
    return _png(np.stack([greys(panel.heat), np.where(seen, 255, 0).astype(np.uint8)], -1), headers)


def greys(heat: NDArray[np.floating]) -> Pixels:
    """(height, width): a map's values as 0 to 255; 0 where there is none, or where all are equal."""
    least, most = float(np.nanmin(heat)), float(np.nanmax(heat))
    share = (np.nan_to_num(heat, nan=least) - least) / (most - least or 1.0)
    scaled: Pixels = np.round(255 * share).astype(np.uint8)
    return scaled


def overlay_png(panel: Panel) -> Response:
    """The picture, dimmed where the map is below its percentile, with the concept's outline."""
    assert panel.shown.pixels is not None and panel.mask is not None
    bright = np.where(panel.mask[..., None], 1.0, DIMMED)
    laid: Pixels = np.round(panel.shown.pixels * bright).astype(np.uint8)
    if panel.shown.region is not None:
        laid[outline(panel.shown.region)] = OUTLINE
    iou = panel.iou
    return _png(laid, {} if iou is None else {"X-Heat-IoU": f"{iou:.4f}"})


def outline(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a region that have a neighbour outside of it."""
    wide = np.pad(region, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    edge: NDArray[np.bool_] = region & ~inner
    return edge


def mask_png(asking: Asking, example: str, concept: str) -> Response:
    """Where an example's picture shows a concept, in white.

    Raises:
        NotThere: its dataset does not know, or the picture does not show it.
    """
    from ingest.analyse.heat import pixels_of, region_of
    from ingest.analyse.heat_examples import to_show
    from ingest.data.examples import IMAGE, BadMedia
    from ingest.run.stored_media import StoredMedia

    row = example_row(asking, example)
    if row["source"] != IMAGE:
        raise NotThere(f"the example {example} is no picture")
    try:
        one = to_show(row, (), StoredMedia())
        notes: list[str] = []
        region = region_of(one, one.names[0], concept, pixels_of(one.media[0], SIDE).shape[:2], notes)
    except BadMedia as error:
        raise NotThere(error.message) from error
    if region is None:
        raise NotThere("; ".join(notes))
    return _png(np.where(region, 255, 0).astype(np.uint8), {})


def _png(pixels: Pixels, headers: dict[str, str]) -> Response:
    """A picture of shape (height, width), or with 2 (grey, opacity) or 3 channels."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return Response(written.getvalue(), headers=headers, media_type=PNG)
