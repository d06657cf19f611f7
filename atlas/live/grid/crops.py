"""Which part of a picture a model sees, and how any-resolution models lay it out in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Box = tuple[float, float, float, float]
"""top, left, bottom, right: shares of the picture's height and width; below 0 or above 1 where it was padded."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass
class _Canvas:
    """A processed picture: (height, width) of the whole, and where in it the picture begins and how large it is."""

    size: list[int]
    at: list[float]
    extent: list[float]

    def resize(self, size: Sequence[int]) -> None:
        for i, new in enumerate(size):
            self.at[i] *= new / self.size[i]
            self.extent[i] *= new / self.size[i]
        self.size = list(size)

    def cut(self, size: Sequence[int]) -> None:
        """Cut out the middle of that size; where it is larger, pad around."""
        for i, new in enumerate(size):
            self.at[i] -= (self.size[i] - new) // 2
        self.size = list(size)

    def fill(self) -> None:
        """Pad the shorter side to a square."""
        side = max(self.size)
        for i, old in enumerate(self.size):
            self.at[i] += (side - old) // 2
        self.size = [side, side]

    @property
    def box(self) -> Box:
        (height, width), (top, left), (tall, wide) = self.size, self.at, self.extent
        return -top / tall, -left / wide, (height - top) / tall, (width - left) / wide


def kept_part(pictures: Any, size: Sequence[int]) -> Box:
    """The part of a picture of (height, width) that its processor keeps.

    Most squeeze a picture into their square and keep all of it. CLIP's resize the shorter edge and cut the middle out;
    LLaVA's may pad to a square first, and Janus' does so after resizing.
    """
    name, fills = type(pictures).__name__, bool(getattr(pictures, "do_pad", False))
    canvas = _Canvas(list(size), [0.0, 0.0], [float(edge) for edge in size])
    if name.startswith("JanusImageProcessor") and fills:
        share = pictures.size.get("height") / max(size)
        canvas.resize([max(round(edge * share), pictures.min_size) for edge in size])
        canvas.fill()
        return canvas.box
    if name.startswith("LlavaImageProcessor") and fills:
        canvas.fill()
    if getattr(pictures, "do_center_crop", False):
        if getattr(pictures, "do_resize", True):
            canvas.resize(_resized(pictures.size, canvas.size))
        canvas.cut([pictures.crop_size.get("height"), pictures.crop_size.get("width")])
    return canvas.box


def _resized(target: Any, size: Sequence[int]) -> Sequence[int]:
    """(height, width) after a processor's resizing by its `size` setting."""
    short, long = target.get("shortest_edge"), target.get("longest_edge")
    if short and long:
        from transformers.image_transforms import get_size_with_aspect_ratio

        resized: Sequence[int] = get_size_with_aspect_ratio(tuple(size), short, long)
        return resized
    if short:
        return [short if edge == min(size) else int(short * edge / min(size)) for edge in size]
    return [target.get("height"), target.get("width")]


def tiling(pictures: Any, size: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of the tiles into which InternVL's processor cuts a picture of (height, width).

    The arrangement is the nearest to the picture's proportions, and the picture is stretched to fill it. Uses the
    processor's own function."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    tile = pictures.size.get("height"), pictures.size.get("width")
    columns, rows = get_optimal_tiled_canvas(tuple(size), tile, pictures.min_patches, pictures.max_patches)
    return rows, columns


def fine_grid(config: Any, size: Sequence[int]) -> tuple[int, int, Box]:
    """(rows, columns, box) of the fine tokens that LLaVA-NeXT and LLaVA-OneVision make of a picture of (height, width).

    Uses the models' own functions: the picture is fitted into the best of several resolutions, tile by tile, and padded
    rows and columns are removed. OneVision shrinks grids that would have too many tokens.
    """
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    tile = config.vision_config.image_size
    side = tile // config.vision_config.patch_size
    shape = get_anyres_image_grid_shape(list(size), config.image_grid_pinpoints, tile)
    rows, columns = (tiles * side for tiles in shape)
    unpadded = unpad_image(torch.arange(rows * columns).view(1, rows, columns), list(size))[0]
    if not unpadded.numel():  # nothing is left of a very thin picture
        return unpadded.shape[0], unpadded.shape[1], WHOLE
    first, last = divmod(int(unpadded[0, 0]), columns), divmod(int(unpadded[-1, -1]), columns)
    ends = []
    for i in range(2):  # the picture keeps its shape, in the middle
        target, scale = shape[i] * tile, min(n * tile / edge for n, edge in zip(shape, size, strict=True))
        extent = min(math.ceil(size[i] * scale), target)
        at = (target - extent) // 2
        cell = tile / side
        ends.append(((first[i] * cell - at) / extent, ((last[i] + 1) * cell - at) / extent))
    rows, columns = unpadded.shape
    limit = getattr(config, "vision_aspect_ratio", None)
    if limit is not None:
        ratio = math.sqrt(rows * columns / (int(limit.removeprefix("anyres_max_")) * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    (top, bottom), (left, right) = ends
    return rows, columns, (top, left, bottom, right)
