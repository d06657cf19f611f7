"""One small figure for each attribution method, drawn from runs of the embedded models: `make figures`.

Left: which layers the method's best 1 % of neurons lie in, beside as many random neurons. Right, for methods that score
concepts: how much of all that single neurons do, by exact ablation, the method's best k neurons do; for methods
that score modalities: how many of the best k of two modalities are the same. The same runs give the same bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atlas.figures import _style
from atlas.figures._style import COLOURS, GREY, WIDTH
from cli.main import main as atlas

FOLDER = Path(__file__).parent / "methods" / "figures"
CONCEPT_METHODS = (
    "ablation,activation,contribution,gradient,gradient_x_activation,integrated_gradients,iou,knowledge_neurons,"
    "logprob_increase,nam_text,random,schwettmann,two_stage"
)
MODALITY_METHODS = "lape,miner,modality_profile"
METHODS = sorted([*CONCEPT_METHODS.split(","), *MODALITY_METHODS.split(","), "nam_image"])
JOBS = (
    f"--model tiny-llava --dataset scenes --per-concept 3 --inpainter exact --methods {CONCEPT_METHODS}",
    f"--model tiny-llava --dataset scenes --per-concept 3 --methods {MODALITY_METHODS}",
    "--model tiny-gill --dataset scenes --sources text --tasks draw --per-concept 4 "
    "--concepts dog,cat,car,fish,house,tree --methods nam_image,ablation",
)
HEIGHT = 1.75
"""Inches; the width is one column of a paper."""
BY_SOURCE = {"text": COLOURS[0], "image": COLOURS[1]}
TOP = 0.01
EXACT = "ablation"
PARTS = {"lape": "lape.role", "modality_profile": "modality_profile.share"}
"""What is drawn of methods that have several parts and no map of their own name."""


@dataclass(frozen=True)
class Map:
    """Scores of one map, (layers, width) float, and what it is of."""

    method: str
    concept: str
    source: str
    target: str
    reduce: str
    scores: np.ndarray


def read_maps(atlas_folder: Path) -> list[Map]:
    """Every map of an atlas that scores whole layers, from `runs/` as docs/lake.md describes it."""
    found = []
    for manifest in sorted((atlas_folder / "runs").glob("*/manifest.json")):
        about = json.loads(manifest.read_text(encoding="utf-8"))
        names = [concept["name"] for concept in about["concepts"]]
        shape = (about["model"]["layers"], about["model"]["width"])
        scores = pq.read_table(manifest.parent / "scores.parquet").to_pandas()
        by_map = dict(list(scores.groupby("map_id")))
        for row in pq.read_table(manifest.parent / "maps.parquet").to_pylist():
            grid = np.full(shape, -np.inf)  # what a method leaves out is in no top
            mine = by_map[row["map_id"]]
            grid[mine["layer"], mine["neuron"]] = mine["score"]
            concept = "*" if row["concept_id"] is None else names[row["concept_id"]]
            found.append(Map(row["method"], concept, row["source"], row["target"], row["reduce"], grid))
    return found


def best(scores: np.ndarray, draw: int = 0) -> np.ndarray:
    """Neurons from the best on, as flat positions. Equal scores by lot, a draw the same each time: where few scores are
    above 0, most would be of the first layers, and two maps would share them for no reason."""
    return np.lexsort((np.random.default_rng(draw).permutation(scores.size), -scores.ravel()))


def of_method(maps: Sequence[Map], method: str, target: str) -> dict[str, list[Map]]:
    """A method's maps of a target by source (of a modality method: by role), contrasted where there are such."""
    mine = [m for m in maps if m.method == PARTS.get(method, method) and m.target == target]
    reduced = "contrast" if any(m.reduce == "contrast" for m in mine) else "mean"
    chosen = [m for m in mine if m.reduce == reduced]
    by_source = {source: [m for m in chosen if m.source == source] for source in BY_SOURCE}
    return {source: these for source, these in by_source.items() if these}


def steps(number: int) -> np.ndarray:
    """Whole numbers from 1 on, evenly spaced on a logarithmic axis."""
    return np.unique(np.geomspace(1, number, 120).astype(int))


def draw_layers(axes: Axes, by_source: dict[str, list[Map]], rng: np.random.Generator) -> None:
    """The share of the best 1 % in each layer, the mean over maps; grey: 95 % of as many random neurons in as many maps
    (of the source with fewer)."""
    first = next(iter(by_source.values()))[0].scores
    layers, width = first.shape
    count = max(1, round(TOP * layers * width))
    for source, maps in by_source.items():
        shares = [
            np.bincount(best(m.scores, draw)[:count] // width, minlength=layers) / count for draw, m in enumerate(maps)
        ]
        axes.plot(range(layers), np.mean(shares, axis=0), "o-", color=BY_SOURCE[source], label=source)
    number = min(map(len, by_source.values()))
    random = rng.hypergeometric(width, (layers - 1) * width, count, size=(2000, number)).mean(axis=1) / count
    axes.axhspan(*np.quantile(random, (0.025, 0.975)), color=GREY, alpha=0.35, lw=0, label="random")
    axes.set(xlabel="layer", ylabel="share of the best 1 %", xticks=range(layers), ylim=(0, None))


def draw_effects(axes: Axes, by_source: dict[str, list[Map]], exact: dict[str, list[Map]]) -> None:
    """The share of all single neurons' positive effects that the best k have; dotted: the best possible."""
    for source, maps in by_source.items():
        effects = {m.concept: np.clip(m.scores, 0, None).ravel() for m in exact[source]}
        pairs = [(m.scores.ravel(), effects[m.concept]) for m in maps if effects[m.concept].sum() > 0]
        ks = steps(len(pairs[0][1]))
        # A neuron that a method leaves out adds nothing: it is never chosen.
        shares = [np.cumsum((e * np.isfinite(s))[best(s)]) / e.sum() for s, e in pairs]
        most = [np.cumsum(np.sort(e)[::-1]) / e.sum() for _, e in pairs]
        # Rounded, as the last digits of exact effects are no more than the order in which a processor adds.
        axes.plot(ks, np.mean(shares, axis=0)[ks - 1].round(3), color=BY_SOURCE[source])
        axes.plot(ks, np.mean(most, axis=0)[ks - 1].round(3), ":", color=BY_SOURCE[source], lw=0.9)
    axes.plot(ks, ks / ks[-1], color=GREY, lw=0.9)
    axes.set(ylabel="share of exact effects")
    of_best_k(axes, ks[-1])


def draw_overlap(axes: Axes, by_source: dict[str, list[Map]]) -> None:
    """Of the best k for each of two roles, the share that is the same; grey: of random sets."""
    one, other = (best(maps[0].scores, draw) for draw, maps in enumerate(by_source.values()))
    ks = steps(len(one))
    axes.plot(ks, [len(np.intersect1d(one[:k], other[:k])) / k for k in ks], color="black")
    axes.plot(ks, ks / len(one), color=GREY, lw=0.9)
    axes.set(ylabel="share in both")
    of_best_k(axes, ks[-1])


def of_best_k(axes: Axes, most: int) -> None:
    """A share against how many of the best neurons, with a tick at every power of ten."""
    ticks = [10**power for power in range(len(str(most)))]
    axes.set(xscale="log", xlabel="best k neurons", ylim=(0, 1.02))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def draw(method: str, maps: Sequence[Map]) -> Figure:
    """The figure of one method."""
    target = "image" if method == "nam_image" else "text"
    by_source = of_method(maps, method, target)
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_layers(left, by_source, np.random.default_rng(0))
    if method in MODALITY_METHODS.split(","):
        draw_overlap(right, by_source)
    else:
        draw_effects(right, by_source, of_method(maps, EXACT, target))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def save(method: str, maps: Sequence[Map], folder: Path) -> Path:
    """Draw and write one figure; the same maps give the same bytes."""
    file = folder / f"{method}.svg"
    with _style.styled():
        figure = draw(method, maps)
    _style.save(figure, file)
    return file


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "figures.atlas"
        for command in (["init"], *(["ingest", *job.split(), "--no-progress"] for job in JOBS)):
            if code := atlas([*command, "--atlas", str(path)]):
                sys.exit(code)
        maps = read_maps(path)
    for method in METHODS:
        save(method, maps, FOLDER)


if __name__ == "__main__":
    main()
