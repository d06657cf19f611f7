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
    "ingest --model tiny-llava --methods modality_profile,miner --per-concept 3 --exemplars 5 --no-progress",
    "labels make",
)
WIDTH, GAP, DPI = 13.8, 0.12, 160
"""Inches of the page and between figures, and dots to an inch."""
HEADING = 28
"""Dots of a heading."""
COLOURS = 256
"""Of the palette, so that the page is small."""

Asked = tuple[Callable[[Atlas], Answer], Mapping[str, Any]]
MODEL = "tiny-llava"
METHODS = ("contribution", "activation", "ablation", "gradient_x_activation")
SEES = "3/182"
"""One of the few neurons of the embedded model that are active at the tokens of pictures."""
STATISTICS = ("modality_profile.share", "modality_profile.rate")
FIGURES: Mapping[str, Asked] = {
    "query": (lambda atlas: atlas.query("dog", model=MODEL, top=12), {}),
    "neuron": (lambda atlas: atlas.neuron("3/265", model=MODEL), {}),
    "layers": (lambda atlas: atlas.layers("dog", model=MODEL, sources=("image", "text")), {}),
    "shared": (lambda atlas: atlas.shared("dog", "contribution", model=MODEL), {}),
    "only": (lambda atlas: atlas.only("dog", "contribution", model=MODEL), {}),
    "shared, all": (lambda atlas: atlas.shared(concepts="all", method="contribution", model=MODEL), {}),
    "compare": (lambda a: a.compare("dog", "contribution", source="image", model=MODEL, to="source=text"), {}),
    "overlap": (lambda atlas: atlas.overlap("dog", model=MODEL, methods=METHODS), {}),
    "concept_matrix": (lambda atlas: atlas.concept_matrix(model=MODEL, source="image"), {}),
    "cross_ablation": (lambda atlas: atlas.cross_ablation(model=MODEL, source="image"), {}),
    "agreement": (lambda atlas: atlas.agreement(pairs=True, model=MODEL, source="text", reduce="mean"), {}),
    "leaderboard": (lambda atlas: atlas.leaderboard(model=MODEL, source="text"), {}),
    "dose_response": (lambda atlas: atlas.dose_response(model=MODEL, source="text"), {}),
    "effects": (lambda atlas: atlas.effects(edit="no-dog@1"), {"metric": "accuracy"}),
    "measures": (lambda atlas: atlas.measures(name="knn_mixing"), {}),
    "points": (lambda atlas: atlas.points(layer=2), {}),
    "roles": (lambda atlas: atlas.roles(concept="dog", model=MODEL, statistics=STATISTICS), {}),
    "labels": (lambda atlas: atlas.labels(), {}),
    "match": (lambda atlas: atlas.match(MODEL, MODEL, concept="dog", method="contribution", top=8), {}),
    "search": (lambda atlas: atlas.search("a dog that barks", model=MODEL, top=8), {}),
    "similar": (lambda atlas: atlas.similar("3/265", space="profile", model=MODEL, top=8), {}),
    "edit_answers": (lambda atlas: atlas.edit_answers("no-dog", questions=2), {}),
    "heatmap": (lambda atlas: atlas.heatmap(SEES, exemplars=4, source="image"), {}),
    "heatmaps": (lambda atlas: atlas.heatmaps(SEES, concept="house"), {}),
    "gallery": (lambda atlas: atlas.gallery(SEES, source="image", exemplars=5), {}),
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
    """The pictures on one page, the highest first, each under its heading and as far up as there is room."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), 18)
    gap, width = round(GAP * DPI), round(WIDTH * DPI)
    free = [0] * width  # from which y on every column is free
    places = {}
    for name, picture in sorted(pictures.items(), key=lambda item: -item[1].height):
        span = picture.width + gap
        x = min(range(0, width - span + 1, gap), key=lambda x: (max(free[x : x + span]), x))
        y = max(free[x : x + span])
        places[name] = (x + gap // 2, y)
        free[x : x + span] = [y + HEADING + picture.height + gap] * span
    sheet = Image.new("RGB", (width, max(free)), "white")
    pen = ImageDraw.Draw(sheet)
    for name, (x, y) in places.items():
        pen.text((x, y + 4), name, fill="black", font=font)
        sheet.paste(pictures[name], (x, y + HEADING))
    return sheet


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
