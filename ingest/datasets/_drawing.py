"""How each drawn thing looks: shapes on a unit square, in one body colour and a few fixed accents.

A shape is given in numbers from 0 to 1, x to the right and y downwards. Call `draw(name, ...)`; a function called
`_<name>` draws the thing of that name.
"""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

OVERSAMPLING = 4
BLACK, WHITE, GREY, GLASS, WOOD, LEAF = (
    (25, 25, 30),
    (245, 245, 240),
    (120, 120, 125),
    (190, 230, 250),
    (115, 75, 45),
    (60, 140, 60),
)


class Pen:
    """Draws filled shapes with dark outlines; lengths are fractions of the thing's size."""

    def __init__(self, size: int, body: RGB) -> None:
        self.size = size
        self.body = body
        self.dark: RGB = _shade(body, 0.6)
        self.light: RGB = _shade(body, 1.35)
        self.layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.layer)
        self._outline = max(1, round(size * 0.022))

    def _at(self, points: tuple[Point, ...]) -> list[Point]:
        return [(x * (self.size - 1), y * (self.size - 1)) for x, y in points]

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB, *, outline: bool = True) -> None:
        """An ellipse around (x, y) with these radii."""
        box = self._at(((x - rx, y - ry), (x + rx, y + ry)))
        self._draw.ellipse([*box[0], *box[1]], fill, _edge(fill) if outline else None, self._outline)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, *, round_by: float = 0.0) -> None:
        """A rectangle between two corners, rounded by a radius."""
        corners = self._at(((x0, y0), (x1, y1)))
        self._draw.rounded_rectangle([*corners[0], *corners[1]], round_by * self.size, fill, _edge(fill), self._outline)

    def shape(self, *points: Point, fill: RGB) -> None:
        """A polygon."""
        corners = self._at(points)
        self._draw.polygon(corners, fill)
        self._draw.line([*corners, corners[0], corners[1]], _edge(fill), self._outline, joint="curve")

    def line(self, *points: Point, fill: RGB, width: float = 0.05) -> None:
        """A line through points, without an outline."""
        self._draw.line(self._at(points), fill, max(1, round(width * self.size)), joint="curve")

    def arc(self, x: float, y: float, rx: float, ry: float, start: int, end: int, fill: RGB, width: float) -> None:
        """Part of an ellipse's edge, clockwise between two angles in degrees (0 to the right)."""
        box = self._at(((x - rx, y - ry), (x + rx, y + ry)))
        self._draw.arc([*box[0], *box[1]], start, end, fill, max(1, round(width * self.size)))

    def half(self, x: float, y: float, rx: float, ry: float, start: int, end: int, fill: RGB) -> None:
        """A slice of an ellipse, clockwise between two angles in degrees (0 to the right)."""
        box = self._at(((x - rx, y - ry), (x + rx, y + ry)))
        self._draw.pieslice([*box[0], *box[1]], start, end, fill, _edge(fill), self._outline)


def draw(name: str, size: int, body: RGB, *, mirrored: bool) -> Image.Image:
    """The thing on a transparent square of `size` pixels, smooth at its edges."""
    pen = Pen(size * OVERSAMPLING, body)
    globals()[f"_{name}"](pen)
    layer = pen.layer.resize((size, size), Image.Resampling.BOX)
    return layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else layer


def _shade(colour: RGB, factor: float) -> RGB:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _edge(fill: RGB) -> RGB:
    return _shade(fill, 0.45)


def _dog(pen: Pen) -> None:
    pen.line((0.16, 0.5), (0.05, 0.27), fill=pen.dark, width=0.08)
    for x in (0.2, 0.33, 0.55, 0.67):
        pen.box(x, 0.62, x + 0.1, 0.95, pen.body, round_by=0.03)
    pen.box(0.13, 0.45, 0.76, 0.74, pen.body, round_by=0.12)
    pen.oval(0.75, 0.34, 0.19, 0.18, pen.body)
    pen.oval(0.89, 0.41, 0.1, 0.08, pen.light)
    pen.oval(0.96, 0.38, 0.04, 0.035, BLACK)
    pen.oval(0.63, 0.38, 0.08, 0.18, pen.dark)
    pen.oval(0.8, 0.29, 0.035, 0.04, BLACK)


def _cat(pen: Pen) -> None:
    pen.arc(0.85, 0.66, 0.12, 0.24, 250, 100, pen.dark, 0.07)
    pen.oval(0.5, 0.74, 0.29, 0.24, pen.body)
    pen.shape((0.22, 0.32), (0.24, 0.02), (0.47, 0.2), fill=pen.body)
    pen.shape((0.78, 0.32), (0.76, 0.02), (0.53, 0.2), fill=pen.body)
    pen.oval(0.5, 0.36, 0.3, 0.24, pen.body)
    for x in (0.39, 0.61):
        pen.oval(x, 0.33, 0.06, 0.06, WHITE)
        pen.oval(x, 0.33, 0.025, 0.05, BLACK)
    pen.shape((0.46, 0.43), (0.54, 0.43), (0.5, 0.48), fill=BLACK)
    for y in (0.42, 0.5):
        pen.line((0.06, y), (0.38, 0.46), fill=BLACK, width=0.02)
        pen.line((0.94, y), (0.62, 0.46), fill=BLACK, width=0.02)


def _horse(pen: Pen) -> None:
    pen.shape((0.14, 0.42), (0.02, 0.55), (0.05, 0.8), (0.15, 0.6), fill=pen.dark)
    for x in (0.16, 0.28, 0.54, 0.66):
        pen.box(x, 0.56, x + 0.08, 0.97, pen.body)
        pen.box(x, 0.9, x + 0.08, 0.98, BLACK)
    pen.oval(0.43, 0.5, 0.32, 0.17, pen.body)
    pen.shape(
        (0.56, 0.5), (0.68, 0.12), (0.82, 0.12), (0.98, 0.3), (0.92, 0.38), (0.78, 0.33), (0.74, 0.55), fill=pen.body
    )
    pen.shape((0.55, 0.45), (0.56, 0.2), (0.68, 0.06), (0.72, 0.16), (0.62, 0.4), fill=pen.dark)
    pen.shape((0.7, 0.14), (0.72, 0.02), (0.78, 0.13), fill=pen.body)
    pen.oval(0.8, 0.2, 0.025, 0.025, BLACK)
    pen.half(0.43, 0.37, 0.12, 0.14, 0, 180, WOOD)


def _bird(pen: Pen) -> None:
    pen.line((0.45, 0.7), (0.42, 0.96), (0.52, 0.96), fill=BLACK, width=0.035)
    pen.line((0.57, 0.7), (0.56, 0.96), (0.66, 0.96), fill=BLACK, width=0.035)
    pen.shape((0.28, 0.5), (0.02, 0.42), (0.03, 0.62), (0.3, 0.66), fill=pen.dark)
    pen.oval(0.48, 0.56, 0.28, 0.22, pen.body)
    pen.oval(0.7, 0.3, 0.17, 0.16, pen.body)
    pen.shape((0.85, 0.25), (1.0, 0.32), (0.85, 0.38), fill=(250, 180, 30))
    pen.oval(0.74, 0.27, 0.03, 0.03, BLACK)
    pen.half(0.42, 0.5, 0.2, 0.2, 0, 180, pen.dark)


def _fish(pen: Pen) -> None:
    pen.shape((0.3, 0.5), (0.02, 0.26), (0.1, 0.5), (0.02, 0.74), fill=pen.dark)
    pen.shape((0.42, 0.32), (0.5, 0.1), (0.7, 0.3), fill=pen.dark)
    pen.shape((0.45, 0.68), (0.5, 0.86), (0.62, 0.69), fill=pen.dark)
    pen.oval(0.58, 0.5, 0.38, 0.24, pen.body)
    pen.arc(0.66, 0.5, 0.1, 0.2, 110, 250, pen.dark, 0.03)
    for x in (0.34, 0.46):
        pen.arc(x, 0.5, 0.06, 0.11, 290, 70, pen.dark, 0.025)
    pen.oval(0.8, 0.44, 0.06, 0.06, WHITE)
    pen.oval(0.81, 0.44, 0.03, 0.03, BLACK)


def _butterfly(pen: Pen) -> None:
    for side in (-1, 1):
        pen.oval(0.5 + side * 0.26, 0.33, 0.22, 0.24, pen.body)
        pen.oval(0.5 + side * 0.21, 0.7, 0.17, 0.2, pen.light)
        pen.oval(0.5 + side * 0.28, 0.32, 0.09, 0.1, WHITE)
        pen.oval(0.5 + side * 0.22, 0.72, 0.06, 0.07, pen.dark)
        pen.line((0.5, 0.24), (0.5 + side * 0.13, 0.03), fill=BLACK, width=0.03)
    pen.oval(0.5, 0.53, 0.055, 0.34, BLACK)


def _car(pen: Pen) -> None:
    pen.shape((0.2, 0.48), (0.32, 0.26), (0.68, 0.26), (0.82, 0.48), fill=pen.body)
    pen.shape((0.28, 0.47), (0.36, 0.32), (0.48, 0.32), (0.48, 0.47), fill=GLASS)
    pen.shape((0.53, 0.47), (0.53, 0.32), (0.65, 0.32), (0.73, 0.47), fill=GLASS)
    pen.box(0.02, 0.46, 0.98, 0.7, pen.body, round_by=0.08)
    pen.oval(0.93, 0.54, 0.04, 0.04, (255, 240, 130))
    for x in (0.25, 0.75):
        pen.oval(x, 0.7, 0.12, 0.12, BLACK)
        pen.oval(x, 0.7, 0.05, 0.05, WHITE)


def _bus(pen: Pen) -> None:
    pen.box(0.02, 0.12, 0.98, 0.84, pen.body, round_by=0.06)
    for y in (0.18, 0.44):
        for x in (0.07, 0.29, 0.51, 0.73):
            pen.box(x, y, x + 0.18, y + 0.17, GLASS)
    pen.box(0.02, 0.66, 0.98, 0.71, WHITE)
    for x in (0.24, 0.76):
        pen.oval(x, 0.84, 0.1, 0.1, BLACK)
        pen.oval(x, 0.84, 0.04, 0.04, WHITE)


def _sailboat(pen: Pen) -> None:
    pen.line((0.48, 0.04), (0.48, 0.75), fill=WOOD, width=0.045)
    pen.shape((0.52, 0.06), (0.52, 0.66), (0.94, 0.66), fill=WHITE)
    pen.shape((0.44, 0.18), (0.44, 0.66), (0.12, 0.66), fill=WHITE)
    pen.shape((0.03, 0.72), (0.97, 0.72), (0.8, 0.95), (0.2, 0.95), fill=pen.body)
    pen.shape((0.48, 0.04), (0.48, 0.14), (0.32, 0.09), fill=pen.body)


def _rocket(pen: Pen) -> None:
    pen.shape((0.38, 0.78), (0.5, 1.0), (0.62, 0.78), fill=(255, 150, 30))
    pen.shape((0.36, 0.55), (0.14, 0.84), (0.38, 0.78), fill=pen.dark)
    pen.shape((0.64, 0.55), (0.86, 0.84), (0.62, 0.78), fill=pen.dark)
    pen.box(0.34, 0.28, 0.66, 0.8, WHITE)
    pen.shape((0.34, 0.3), (0.42, 0.1), (0.5, 0.01), (0.58, 0.1), (0.66, 0.3), fill=pen.body)
    pen.oval(0.5, 0.45, 0.09, 0.09, GLASS)
    pen.box(0.34, 0.62, 0.66, 0.7, pen.body)


def _tree(pen: Pen) -> None:
    pen.box(0.42, 0.55, 0.58, 0.98, WOOD)
    pen.oval(0.28, 0.48, 0.22, 0.19, pen.body)
    pen.oval(0.72, 0.48, 0.22, 0.19, pen.body)
    pen.oval(0.5, 0.26, 0.28, 0.24, pen.body)
    pen.oval(0.5, 0.45, 0.24, 0.18, pen.body, outline=False)
    for x, y in ((0.4, 0.2), (0.6, 0.34), (0.3, 0.48), (0.7, 0.5), (0.5, 0.5)):
        pen.oval(x, y, 0.04, 0.04, pen.dark, outline=False)


def _flower(pen: Pen) -> None:
    pen.line((0.5, 0.4), (0.5, 0.98), fill=LEAF, width=0.06)
    pen.oval(0.35, 0.76, 0.14, 0.06, LEAF)
    pen.oval(0.65, 0.84, 0.14, 0.06, LEAF)
    for turn in range(6):
        angle = turn * math.pi / 3
        pen.oval(0.5 + 0.2 * math.cos(angle), 0.3 + 0.2 * math.sin(angle), 0.12, 0.12, pen.body)
    pen.oval(0.5, 0.3, 0.11, 0.11, (250, 215, 60))


def _house(pen: Pen) -> None:
    pen.box(0.7, 0.08, 0.82, 0.4, GREY)
    pen.box(0.12, 0.45, 0.88, 0.96, pen.body)
    pen.shape((0.02, 0.48), (0.5, 0.06), (0.98, 0.48), fill=(150, 60, 50))
    pen.box(0.42, 0.64, 0.6, 0.96, WOOD)
    pen.box(0.19, 0.56, 0.36, 0.72, GLASS)
    pen.box(0.66, 0.56, 0.82, 0.72, GLASS)


def _cup(pen: Pen) -> None:
    pen.arc(0.76, 0.52, 0.2, 0.2, 270, 90, pen.dark, 0.07)
    pen.oval(0.45, 0.92, 0.42, 0.06, WHITE)
    pen.shape((0.1, 0.3), (0.8, 0.3), (0.7, 0.9), (0.2, 0.9), fill=pen.body)
    pen.oval(0.45, 0.3, 0.35, 0.08, (90, 55, 35))
    for x in (0.33, 0.55):
        pen.line((x, 0.18), (x + 0.05, 0.12), (x - 0.01, 0.06), (x + 0.04, 0.0), fill=WHITE, width=0.04)


def _umbrella(pen: Pen) -> None:
    pen.line((0.5, 0.1), (0.5, 0.86), fill=WOOD, width=0.05)
    pen.arc(0.59, 0.86, 0.11, 0.11, 0, 180, WOOD, 0.05)
    pen.half(0.5, 0.54, 0.48, 0.46, 180, 360, pen.body)
    for x, fill in ((0.18, pen.dark), (0.5, pen.dark), (0.82, pen.dark)):
        pen.half(x, 0.54, 0.16, 0.1, 180, 360, fill)
    pen.line((0.5, 0.02), (0.5, 0.1), fill=BLACK, width=0.04)


def _ball(pen: Pen) -> None:
    pen.oval(0.5, 0.5, 0.47, 0.47, pen.body)
    pen.oval(0.5, 0.5, 0.31, 0.46, WHITE)
    pen.oval(0.5, 0.5, 0.13, 0.46, pen.body)
    pen.oval(0.5, 0.08, 0.11, 0.05, pen.dark)


def _clock(pen: Pen) -> None:
    pen.oval(0.28, 0.1, 0.12, 0.1, pen.dark)
    pen.oval(0.72, 0.1, 0.12, 0.1, pen.dark)
    pen.line((0.25, 0.85), (0.17, 0.97), fill=pen.dark, width=0.08)
    pen.line((0.75, 0.85), (0.83, 0.97), fill=pen.dark, width=0.08)
    pen.oval(0.5, 0.53, 0.42, 0.42, pen.body)
    pen.oval(0.5, 0.53, 0.31, 0.31, WHITE)
    for turn in range(12):
        angle = turn * math.pi / 6
        pen.oval(0.5 + 0.26 * math.cos(angle), 0.53 + 0.26 * math.sin(angle), 0.018, 0.018, BLACK, outline=False)
    pen.line((0.5, 0.3), (0.5, 0.53), (0.66, 0.62), fill=BLACK, width=0.05)


def _guitar(pen: Pen) -> None:
    pen.line((0.5, 0.5), (0.88, 0.08), fill=WOOD, width=0.08)
    pen.line((0.83, 0.12), (0.95, 0.02), fill=BLACK, width=0.13)
    pen.oval(0.47, 0.53, 0.2, 0.19, pen.body)
    pen.oval(0.29, 0.72, 0.27, 0.25, pen.body)
    pen.oval(0.44, 0.57, 0.17, 0.16, pen.body, outline=False)
    pen.oval(0.41, 0.59, 0.085, 0.085, BLACK)
    pen.line((0.2, 0.74), (0.29, 0.83), fill=BLACK, width=0.05)
    pen.line((0.25, 0.78), (0.86, 0.1), fill=WHITE, width=0.02)
