"""Every mode of Pillow as RGB: known pixels, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atlas.errors import UsageError
from atlas.live.pixels import rgb
from ingest.data.examples import BadMedia
from ingest.data.media import open_image

RED, GREY, WHITE = (255, 0, 0), (128, 128, 128), (255, 255, 255)

KNOWN: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "1": (1, WHITE),
    "L": (128, GREY),
    "LA": ((128, 255), GREY),
    "La": ((128, 255), GREY),
    "P": (3, (3, 3, 3)),
    "PA": ((3, 255), (3, 3, 3)),
    "RGB": (RED, RED),
    "RGBX": ((255, 0, 0, 0), RED),
    "RGBA": ((255, 0, 0, 255), RED),
    "RGBa": ((255, 0, 0, 255), RED),
    "CMYK": ((0, 255, 255, 0), RED),
    "YCbCr": ((128, 128, 128), GREY),
    "LAB": ((128, 128, 128), (119, 119, 119)),  # L* = 50
    "HSV": ((0, 255, 255), RED),
    "I;16": (128 * 257, GREY),
    "I;16L": (128 * 257, GREY),
    "I;16B": (128 * 257, GREY),
    "I;16N": (128 * 257, GREY),
    "F": (128 / 255, GREY),
}


@pytest.mark.parametrize("mode", KNOWN)
def test_a_known_pixel_of_every_mode(mode: str) -> None:
    value, wanted = KNOWN[mode]
    picture = Image.new(mode, (2, 1), value)
    if mode in ("P", "PA"):
        picture.putpalette([v for n in range(256) for v in (n, n, n)])
    found = rgb(picture)
    assert (found.mode, found.getpixel((1, 0))) == ("RGB", wanted)


@pytest.mark.parametrize(
    ("mode", "value"),
    [("RGBA", (200, 0, 0, 0)), ("RGBa", (0, 0, 0, 0)), ("LA", (9, 0)), ("La", (0, 0)), ("PA", (9, 0))],
)
def test_what_is_transparent_is_white_not_its_hidden_colour(mode: str, value: tuple[int, ...]) -> None:
    assert rgb(Image.new(mode, (1, 1), value)).getpixel((0, 0)) == WHITE


def test_half_transparent_is_half_white() -> None:
    assert rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 51))).getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_a_colour_that_a_png_makes_transparent(tmp_path: Path, mode: str) -> None:
    picture = Image.new(mode, (2, 1), {"I;16": 60_000, "RGB": RED}.get(mode, 1))
    picture.putpixel((1, 0), {"I;16": 30_000, "RGB": GREY}.get(mode, 0))
    if mode == "P":
        picture.putpalette([*GREY, *RED])
    picture.save(tmp_path / "x.png", transparency={"I;16": 30_000, "RGB": GREY}.get(mode, 0))
    found = open_image(tmp_path / "x.png")
    first = {"L": (1, 1, 1), "I;16": (233, 233, 233)}.get(mode, RED)  # 60,000 / 257 = 233.46
    assert (found.getpixel((0, 0)), found.getpixel((1, 0))) == (first, WHITE)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([0, 0.5, 1], [0, 128, 255]), ([0, 64, 255], [0, 64, 255]), ([0, 0, 0], [0, 0, 0])],
)
def test_floats_go_to_1_or_to_255(values: list[float], wanted: list[int]) -> None:
    assert np.asarray(rgb(Image.fromarray(np.array([values], np.float32))))[0, :, 0].tolist() == wanted


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 1.5]], np.float32),
        np.array([[-1, 1]], np.float32),
        np.array([[0, 256]], np.float32),
        np.array([[0, np.nan]], np.float32),
        np.array([[0, np.inf]], np.float32),
        np.array([[0, 255]], np.int32),
        np.array([[0, 65_535]], np.int32),
        np.array([[0, 4095]], np.uint16),
    ],
    ids=str,
)
def test_numbers_of_an_unknown_range_are_refused_with_mode_and_values(values: np.ndarray, tmp_path: Path) -> None:
    picture = Image.fromarray(values)
    with pytest.raises(UsageError, match=f"of mode {picture.mode} with values from .*; save it with 8 bits"):
        rgb(picture)
    picture.save(tmp_path / "x.tif")
    with pytest.raises(BadMedia, match=r"x.tif is a picture of mode"):
        open_image(tmp_path / "x.tif")


def test_twelve_bits_in_a_tiff(tmp_path: Path) -> None:
    """Two pixels packed in three bytes: 0xFFF and 0x800."""
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    rows = b"".join(
        tag.to_bytes(2, "little") + b"\x04\0" + (1).to_bytes(4, "little") + n.to_bytes(4, "little")
        for tag, n in entries
    )
    head = b"II*\0" + (12).to_bytes(4, "little") + bytes([0xFF, 0xF8, 0x00, 0])
    (tmp_path / "x.tif").write_bytes(head + len(entries).to_bytes(2, "little") + rows + bytes(4))
    found = open_image(tmp_path / "x.tif")
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [WHITE, GREY]


@pytest.mark.parametrize(
    ("mode", "name"), [("I;16", "x.png"), ("I;16", "x.tif"), ("I;16B", "x.tif"), ("F", "x.tif"), ("I", "x.pgm")]
)
def test_wide_files_keep_their_shades(tmp_path: Path, mode: str, name: str) -> None:
    picture = Image.new(mode, (2, 1), 1.0 if mode == "F" else 65_535)
    picture.putpixel((1, 0), 128 / 255 if mode == "F" else 128 * 257)
    picture.save(tmp_path / name)
    found = open_image(tmp_path / name)
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [WHITE, GREY]


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_pngs_of_sixteen_bits_a_channel(tmp_path: Path, kind: int, channels: int) -> None:
    """Grey, colour, and both with alpha, written by hand; all are opaque."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = np.full((2, channels), 65_535, ">u2")
    pixels[1, : channels - 1 if kind in (4, 6) else channels] = 128 * 257
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + pixels.tobytes()))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))
    found = open_image(tmp_path / "x.png")
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [WHITE, GREY]
