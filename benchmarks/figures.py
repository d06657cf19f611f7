"""Seconds of every figure of one concept, from its answer to a PNG, after everything is imported; beside an empty
panel of matplotlib's. `python benchmarks/figures.py [ATLAS]`, by default the one of `atlas demo`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from _timing import interleaved, report

from atlas.api.atlas import Atlas
from atlas.errors import AtlasError
from atlas.query.answer import Answer
from atlas.store.default_path import default_path
from cli.main import main as command

MODEL, CONCEPT = "tiny-llava", "dog"
METHODS = ("contribution", "activation", "ablation", "gradient_x_activation")
QUESTIONS: Mapping[str, Callable[[Atlas], Answer]] = {
    "query": lambda atlas: atlas.query(CONCEPT, model=MODEL),
    "neuron": lambda atlas: atlas.neuron("3/265", model=MODEL),
    "layers": lambda atlas: atlas.layers(CONCEPT, model=MODEL, sources=("image", "text")),
    "shared": lambda atlas: atlas.shared(CONCEPT, "contribution", model=MODEL),
    "only": lambda atlas: atlas.only(CONCEPT, "contribution", model=MODEL),
    "shared of all concepts": lambda atlas: atlas.shared(concepts="all", method="contribution", model=MODEL),
    "overlap": lambda atlas: atlas.overlap(CONCEPT, model=MODEL, methods=METHODS),
    "concept_matrix": lambda atlas: atlas.concept_matrix(model=MODEL, source="image"),
    "concept_matrix of 34 concepts": lambda atlas: atlas.concept_matrix(model=MODEL, source="text"),
    "cross_ablation": lambda atlas: atlas.cross_ablation(model=MODEL),
    "agreement": lambda atlas: atlas.agreement(model=MODEL),
    "agreement of pairs": lambda atlas: atlas.agreement(pairs=True, model=MODEL, concept=CONCEPT, source="image"),
    "leaderboard": lambda atlas: atlas.leaderboard(model=MODEL),
    "dose_response": lambda atlas: atlas.dose_response(model=MODEL),
    "effects": lambda atlas: atlas.effects(edit="no-dog@1"),
    "search": lambda atlas: atlas.search(f"a {CONCEPT} that barks", model=MODEL),
    "match": lambda atlas: atlas.match(MODEL, MODEL, concept=CONCEPT, method="contribution"),
    "labels": lambda atlas: atlas.labels(),
    "roles": lambda atlas: atlas.roles(concept=CONCEPT, model=MODEL),
    "measures of layers": lambda atlas: atlas.measures(name="knn_mixing"),
    "points": lambda atlas: atlas.points(projection="pca"),
    "points of all projections": lambda atlas: atlas.points(),
    "similar": lambda atlas: atlas.similar("3/265", space="profile", model=MODEL),
}
"""What can be drawn of the atlas of `atlas demo` when MORE has been run on it."""

MORE = (
    "geometry --model tiny-llava --edit no-dog --per-concept 2",
    "index build --space profile --model tiny-llava",
    "ingest --model tiny-llava --methods modality_profile --per-concept 3",
)
"""Commands that add what the demo's atlas lacks; they do nothing where it has that."""


def saved(figure: Any) -> int:
    """The bytes of a figure's PNG, which is closed."""
    from matplotlib import pyplot as plt

    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=300)
        plt.close(figure)
        return file.tell()


def empty() -> int:
    """The bytes of a panel with nothing in it."""
    from atlas.figures._style import panels, styled

    with styled():
        return saved(panels(1)[0].figure)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default_path()
    try:
        atlas = Atlas.open(path)
        for line in MORE:
            if command([*line.split(), "--quiet", "--atlas", str(path)]):
                raise SystemExit(f"atlas {line} failed")
        answers = {name: ask(atlas) for name, ask in QUESTIONS.items()}
    except AtlasError as error:
        raise SystemExit(f"{error}: run `atlas demo` first, or give its atlas") from None

    def draw(answer: Answer) -> int:
        return saved(answer.plot().figure)

    sides = {name: partial(draw, answer) for name, answer in answers.items()}
    seconds = interleaved({"empty": empty, **sides}, 5)
    nothing = seconds.pop("empty")
    for name, taken in seconds.items():
        report(f"figure {name}, seconds", taken, "<= 0.5", f"{taken / nothing:.1f} times an empty panel's")


if __name__ == "__main__":
    main()
