"""Every figure of one concept on one page: `python docs/contact_sheet.py [ATLAS]` writes docs/images/contact_sheet.png.

Without an atlas, the demo makes one, and `atlas geometry` and `atlas index build` add what it lacks: two minutes or so.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont

from atlas import Atlas
from atlas.query.answer import Answer
from cli.main import main as command

OUT = Path(__file__).parent / "images" / "contact_sheet.png"
COMMANDS = (
    "demo --no-progress",
    "geometry --model tiny-llava --edit no-dog --per-concept 2",
    "index build --space profile --model tiny-llava",
)
WIDTH, GAP, DPI = 10.4, 0.12, 200
"""Inches of the page and between figures, and dots to an inch."""
COLOURS = 256
"""Of the palette, so that the page is small."""

Asked = tuple[Callable[[Atlas], Answer], Mapping[str, Any]]
MODEL = "tiny-llava"
METHODS = ("contribution", "activation", "ablation", "gradient_x_activation")
FIGURES: Mapping[str, Asked] = {
    "query": (lambda atlas: atlas.query("dog", model=MODEL, top=12), {}),
    "neuron": (lambda atlas: atlas.neuron("3/265", model=MODEL), {}),
    "layers": (lambda atlas: atlas.layers("dog", model=MODEL, sources=("image", "text")), {}),
    "shared": (lambda atlas: atlas.shared("dog", "contribution", model=MODEL), {}),
    "only": (lambda atlas: atlas.only("dog", "contribution", model=MODEL), {}),
    "shared, all": (lambda atlas: atlas.shared(concepts="all", method="contribution", model=MODEL), {}),
    "overlap": (lambda atlas: atlas.overlap("dog", model=MODEL, methods=METHODS), {}),
    "concept_matrix": (lambda atlas: atlas.concept_matrix(model=MODEL, source="image"), {}),
    "cross_ablation": (lambda atlas: atlas.cross_ablation(model=MODEL, source="image"), {}),
    "agreement": (lambda atlas: atlas.agreement(pairs=True, model=MODEL, source="text", reduce="mean"), {}),
    "leaderboard": (lambda atlas: atlas.leaderboard(model=MODEL, source="text"), {}),
    "dose_response": (lambda atlas: atlas.dose_response(model=MODEL, source="text"), {}),
    "effects": (lambda atlas: atlas.effects(edit="no-dog@1"), {"metric": "accuracy"}),
    "measures": (lambda atlas: atlas.measures(name="knn_mixing"), {}),
    "points": (lambda atlas: atlas.points(projection="pca"), {}),
    "similar": (lambda atlas: atlas.similar("3/265", space="profile", model=MODEL, top=8), {}),
}
"""Heading -> the question, and options of its figure."""


def make_atlas(path: Path) -> None:
    """The demo's atlas, and what it lacks.

    Raises:
        SystemExit: a command failed.
    """
    import shlex

    for line in COMMANDS:
        if code := command([*shlex.split(line), "--atlas", str(path)]):
            raise SystemExit(code)


def drawn(answer: Answer, options: Mapping[str, Any]) -> Image.Image:
    """An answer's figure in dots."""
    figure = answer.plot(**options).figure
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI)
        plt.close(figure)
        return Image.open(file).convert("RGB")


def page(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """The pictures in rows, the highest first, each under its heading."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), 20)
    gap, heading, width = round(GAP * DPI), 32, round(WIDTH * DPI)
    rows = [*_rows(sorted(pictures.items(), key=lambda item: -item[1].height), width, gap)]
    height = sum(max(picture.height for _, picture in row) + heading + gap for row in rows)
    sheet = Image.new("RGB", (width, height), "white")
    pen, y = ImageDraw.Draw(sheet), 0
    for row in rows:
        x = gap
        for name, picture in row:
            pen.text((x, y + 4), name, fill="black", font=font)
            sheet.paste(picture, (x, y + heading))
            x += picture.width + gap
        y += max(picture.height for _, picture in row) + heading + gap
    return sheet


def _rows(
    pictures: Sequence[tuple[str, Image.Image]], width: int, gap: int
) -> Sequence[Sequence[tuple[str, Image.Image]]]:
    """Each picture in the first row that has room for it."""
    rows: list[list[tuple[str, Image.Image]]] = []
    for name, picture in pictures:
        fits = (row for row in rows if sum(p.width + gap for _, p in row) + picture.width + 2 * gap <= width)
        row = next(fits, None)
        if row is None:
            rows.append(row := [])
        row.append((name, picture))
    return rows


def main(arguments: Sequence[str]) -> None:
    """Write the page. arguments: the atlas, if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments[0]) if arguments else Path(folder) / "demo.atlas"
        if not arguments:
            make_atlas(path)
        atlas = Atlas.open(path)
        pictures = {name: drawn(ask(atlas), options) for name, (ask, options) in FIGURES.items()}
    OUT.parent.mkdir(exist_ok=True)
    page(pictures).quantize(COLOURS).save(OUT, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
