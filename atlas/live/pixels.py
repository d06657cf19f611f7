"""Pictures with any kind of pixels as RGB, scaled by the range of their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

EIGHT_BITS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "La", "PA", "RGBA", "RGBa")
"""Pillow's modes that it converts to RGB over their whole range."""

WIDE = ("I;16", "I;16L", "I;16B", "I;16N")
"""Its unsigned modes of 16 bits; it would clip everything above 255."""

DARK = 16
"""A picture whose brightest value is below 1/16 of its assumed range would be black: it has another range."""

BITS_TAG = 258  # TIFF's BitsPerSample


def rgb(picture: Image) -> Image:
    """The picture as RGB of 8 bits: wider numbers scaled by their range, transparent parts on white.

    Whole numbers of 16 bits go from 0 to 65,535 (12 in a TIFF: to 4,095), floats from 0 to 1, or to 255 as in Pillow.

    Raises:
        UsageError: numbers whose range is not known; the message has the mode and the values.
    """
    from PIL import Image

    mode = picture.mode
    if mode == "RGB" and not picture.has_transparency_data:
        return picture
    if mode in EIGHT_BITS:
        if not picture.has_transparency_data:
            return picture.convert("RGB")
        convertible = picture.convert("LA") if mode == "La" else picture  # what La can be converted to
        shown = convertible.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    values = np.asarray(picture, dtype=np.float64)
    grey = np.rint(values * (255 / _top(picture, values))).astype(np.uint8)
    if "transparency" in picture.info:
        grey[values == picture.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _top(picture: Image, values: np.ndarray) -> float:
    """The number that means white."""
    mode = picture.mode
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    top = None
    if mode in WIDE:
        top = float(2 ** _bits(picture) - 1)
    elif mode == "I" and picture.format == "PPM":  # its reader scales what is wider than 8 bits to 16
        top = 65_535.0
    elif mode == "F":
        top = 1.0 if most <= 1 else 255.0
    if top is None or not (0 <= least <= most <= top) or 0 < most < top / DARK:
        raise UsageError(
            f"a picture of mode {mode} with values from {least:,.6g} to {most:,.6g} has no known white "
            "value; save it with 8 bits a channel, or as floats from 0 to 1"
        )
    return top


def _bits(picture: Image) -> int:
    bits = getattr(picture, "tag_v2", {}).get(BITS_TAG, (16,))
    return int(bits[0] if isinstance(bits, tuple) else bits)
