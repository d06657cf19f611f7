"""Answers for the tests of figures, and what every figure must keep: texts inside, none on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas import Atlas
from atlas.query.answer import Answer
from atlas.stats import cross_ablation, dose_response, leaderboard, role_values

EFFECT = {"method": None, "dose": None, "reduce": None, "target": None, "edit": "no-dog@1", "concept": "dog"}
EFFECT |= {"source": "text", "run": "7c45fccc", "seeds": 3}
RANDOM = {"before": 0.9, "edit": 0.2, "random": 0.85}
LAYERS = 3


def effects(tasks: Sequence[str] = ("*", "does"), metrics: Sequence[str] = ("accuracy",)) -> Answer:
    """An edit before, edited and with random neurons, on its concept and on others; no interval of single tasks."""
    rows = []
    for metric in metrics:
        for task in tasks:
            for subset, shift in (("concept", 0.0), ("others", 0.05)):
                for condition, value in RANDOM.items():
                    low, high = (value - 0.1, value + 0.05) if task == "*" else (None, None)
                    row = {"task": task, "subset": subset, "condition": condition, "metric": metric}
                    row |= {"value": value + shift, "low": low, "high": high, "examples": 12}
                    rows.append(EFFECT | row)
    cost = {"task": "*", "subset": "model", "condition": "edit", "metric": "seconds", "value": 0.1, "examples": 0}
    return Answer(pa.Table.from_pylist([*rows, EFFECT | {"source": "*", "low": None, "high": None} | cost]))


def dose_rows() -> Answer:
    """Two doses of two methods by text."""
    rows = []
    for method in ("contribution", "activation"):
        for place, dose in enumerate(("1%", "2%"), 1):
            row = {"source": "text", "method": method, "reduce": "contrast", "metric": "accuracy", "dose": dose}
            row |= {"neurons": 20 * place, "share": 0.01 * place, "own": 0.6 / place, "others": 0.9, "concepts": 7}
            row |= {"own_low": 0.1, "own_high": 0.7, "random_own": 0.95, "random_own_low": 0.9, "random_own_high": 1.0}
            rows.append(row)
    return Answer(pa.Table.from_pylist(rows, schema=dose_response.SCHEMA))


def cross_rows(names: Sequence[str] = ("cat", "dog", "fish", "horse"), metric: str = "accuracy") -> Answer:
    """What ablating each concept's neurons does to each concept: most to its own, and something to the next one."""
    pattern = {"source": "text", "method": "contribution", "dose": "2%", "reduce": "contrast", "metric": metric}
    pattern |= {"random": -0.01, "before": 0.9, "seeds": 3, "run_id": "91b584f6"}
    rows = []
    for place, ablated in enumerate(names):
        for other, asked in enumerate(names):
            effect = {0: -0.8, 1: -0.125}.get(other - place, 0.02)
            rows.append(pattern | {"ablated": ablated, "asked": asked, "effect": effect, "n": 12 - (other != place)})
    found = cross_ablation.diagonal_dominance(cross_ablation.matrix_of(rows, names))
    facts = {"concepts": list(names), "dominance": found.dominance, "relative": found.relative, "p": found.p_value}
    return Answer(pa.Table.from_pylist(rows, schema=cross_ablation.SCHEMA), facts=facts)


def leaderboard_rows(sources: Sequence[str] = ("text",)) -> Answer:
    """Two methods with effects, and one without."""
    effect = {"top": "40", "own": 0.2, "own_low": 0.1, "own_high": 0.4, "others": 0.95, "random_own": 0.9}
    effect |= {"random_own_low": 0.8, "random_own_high": 1.0, "random_others": 0.9, "concepts": 18}
    rows = []
    for source in sources:
        for place, method in enumerate(("gradient_x_activation", "contribution", "activation")):
            row = {"method": method, "source": source, "reduce": "contrast", "metric": "accuracy", "ranked": 34}
            row |= {"correlation": 0.8 - 0.3 * place, "selectivity": 0.7}
            row |= {"correlation_low": 0.7 - 0.3 * place, "correlation_high": 0.9 - 0.3 * place}
            rows.append(row | ({"effects": [effect], "ablated": 18} if place < 2 else {"effects": None}))
    return Answer(pa.Table.from_pylist(rows, schema=leaderboard.SCHEMA), facts={"reference": "ablation"})


def measure_rows(names: Sequence[str] = ("knn_mixing", "knn_chance")) -> Answer:
    """A measure of layers, by role and condition, with its chance."""
    rows = []
    for name in names:
        for place, role in enumerate(("text", "image")):
            for condition in ("before", "edit", "random"):
                for layer in range(LAYERS):
                    row = {"name": name, "method": None, "concept": None, "source": "image", "layer": layer}
                    row |= {"first": role, "second": None, "condition": condition, "low": None, "high": None}
                    value = 0.5 if name.endswith("chance") else 0.1 * layer + 0.05 * place
                    rows.append(row | {"value": value, "examples": 100, "run": "430d5bab"})
    return Answer(pa.Table.from_pylist(rows))


def property_rows(concepts: Sequence[str] = ("dog", "cat")) -> Answer:
    """A measure of concepts, beside random neurons."""
    rows = []
    for concept in concepts:
        for condition, value in (("before", 0.8), ("random", 0.1)):
            row = {"name": "sensitivity", "method": "contribution", "concept": concept, "source": "image"}
            row |= {"layer": None, "first": "top 10", "second": None, "condition": condition, "value": value}
            rows.append(row | {"low": value - 0.05, "high": value + 0.1, "examples": 12, "run": "b2551255"})
    return Answer(pa.Table.from_pylist(rows))


def many_shared(names: Sequence[str] = ("clock", "fish", "bird")) -> Answer:
    """What two sources share for several concepts, of which the last is not more than chance."""
    rows = []
    for place, name in enumerate(names):
        verdict = "shared" if place < len(names) - 1 else "not shown: as many by other concepts"
        row = {"concept": name, "shared": 30 - 10 * place, "chosen": 40, "top": 40, "verdict": verdict}
        row |= {"expected": 0.8, "expected_matched": 4.0, "expected_mismatched": 3.0, "p": 0.001, "q": 0.002}
        rows.append(row)
    provenance: Any = {"selection": {"top": 40, "shared": ["image", "text"]}}
    return Answer(pa.Table.from_pylist(rows), provenance, facts={"matched": "layer and mean |activation|"})


def similar_rows() -> Answer:
    """Neurons by similarity."""
    rows = [
        {"component": "language", "layer": 3, "neuron": n, "similarity": 0.9 - 0.1 * n, "tokens": [" dog", "\n"]}
        for n in range(3)
    ]
    return Answer(pa.Table.from_pylist(rows))


def point_rows(projections: Sequence[str] = ("pca",), conditions: Sequence[str] = ("before",)) -> Answer:
    """Tokens of two roles in two dimensions, and how far apart these are."""
    rows = [
        {"projection": projection, "source": "image", "layer": 4, "role": role, "x": 0.1 * n + place, "y": 0.2 * n}
        | {"condition": condition}
        for projection in projections
        for condition in conditions
        for place, role in enumerate(("image", "text"))
        for n in range(5)
    ]
    pair = {"source": "image", "first": "text", "second": "image", "examples": 9}
    values = {"before": 0.25, "random": 0.24} | ({"edit": 0.5} if "edit" in conditions else {})
    apart = [pair | {"condition": name, "value": value} for name, value in values.items()]
    return Answer(pa.Table.from_pylist(rows), facts={"layer": 4}, parts={"distances": pa.Table.from_pylist(apart)})


def role_rows(statistics: Sequence[str] = ("modality_profile.share",)) -> Answer:
    """Some neurons' values at three roles; at the last one nothing is known."""
    rows = []
    for name in statistics:
        for place, role in enumerate(("text", "special", "image")):
            row = {"statistic": name, "role": role, "expected": 0.3, "neurons": 5, "positions": 90, "run_id": "a" * 64}
            row |= {"value": 0.6 - 0.2 * place, "low": 0.5 - 0.2 * place, "high": 0.7 - 0.2 * place}
            rows.append(row | ({"value": None, "low": None, "high": None} if role == "image" else {}))
    return Answer(pa.Table.from_pylist(rows, schema=role_values.SCHEMA), facts={"of": "dogs & not cats", "neurons": 5})


def match_rows() -> Answer:
    """Three neurons with their matches: one mutual and above chance, one of neither kind, one mutual only."""
    rows = []
    for place, (mutual, p) in enumerate(((True, 0.05), (False, 0.5), (True, 0.5))):
        row = {"component": "language", "layer": 1, "neuron": place, "rank": place + 1, "match_layer": 0}
        row |= {"match_neuron": 10 + place, "similarity": 0.9 - 0.1 * place, "mutual": mutual, "null": 0.7, "p": p}
        rows.append(row | {"tokens": ["dog"], "match_tokens": [" dog", "\n"]})
    provenance: Any = {"runs": ["c" * 64, "d" * 64]}
    return Answer(pa.Table.from_pylist(rows), provenance, facts={"concepts": ["dog", "cat", "car"]})


def search_rows() -> Answer:
    """Neurons by their words."""
    rows = [
        {"component": "language", "layer": 3, "neuron": n, "match": 0.9 - 0.1 * n, "matched": ["dog"], "concept": "cat"}
        for n in range(3)
    ]
    return Answer(pa.Table.from_pylist([row | {"tokens": [" dog", "\n"]} for row in rows]))


def label_rows() -> Answer:
    """Three labels of two runs."""
    rows = [
        {"run": f"{place}a1b2c3d", "kind": "labels", "model": "tiny", "rule": rule, "label": label, "neurons": neurons}
        for place, (rule, label, neurons) in enumerate((("miner LA_MU 0.02", "text", 20), ("lape: 1", "image", 1500)))
    ]
    return Answer(pa.Table.from_pylist(rows))


def label_layers() -> Answer:
    """Two labels over layers; the layer between them has no text neuron."""
    rows = [(0, "image", 3, 1), (0, "text", 2, 1), (1, "image", 4, 0), (2, "text", 5, 0)]
    names = ("layer", "label", "neurons", "also_other")
    provenance: Any = {"runs": ["e" * 64]}
    return Answer(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), provenance)


def answers(path: Path) -> Mapping[str, Answer]:
    """An answer for every figure, each of which fits in one panel: of an atlas with the concepts cat and dog where it
    has them."""
    atlas = Atlas.open(path)
    return {
        "agreement": atlas.agreement(pairs=True, source="text", reduce="contrast"),
        "compare": atlas.compare("dog", method="contribution", source="image", to="source=text", top=10),
        "concept_matrix": atlas.concept_matrix(method="contribution", source="text", top=10),
        "cross_ablation": cross_rows(),
        "dose_response": dose_rows(),
        "effects": effects(),
        "labels": label_rows(),
        "layers": atlas.layers("dog", sources=("image", "text"), top=10),
        "leaderboard": leaderboard_rows(),
        "match": match_rows(),
        "measures": measure_rows(),
        "neuron": atlas.neuron("1/5", source="text"),
        "only": atlas.only("dog", top=10),
        "overlap": atlas.overlap("dog", methods=("contribution", "activation", "ablation"), source="text", top=10),
        "points": point_rows(),
        "query": atlas.query("dog", top=8),
        "roles": role_rows(),
        "search": search_rows(),
        "shared": atlas.shared("dog", top=20),
        "similar": similar_rows(),
    }


def require_tidy(figure: Any) -> None:
    """Every text lies inside the figure, and no tick label on another."""
    from matplotlib.text import Text

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    unseen = set()
    for axes in figure.findobj(lambda artist: hasattr(artist, "xaxis")):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown = []
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if low <= tick.get_loc() <= high and axes.axison:
                    shown.append(tick.label1)
                else:
                    unseen |= {tick.label1, tick.label2}
            boxes = [label.get_window_extent(renderer) for label in shown if label.get_text() and label.get_visible()]
            for a, b in combinations(boxes, 2):
                apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
                assert apart, f"tick labels of '{axes.get_xlabel()}' lie on each other"
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in unseen:
            box = text.get_window_extent(renderer)
            inside = box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1
            assert inside, f"'{text.get_text()}' is cut off: {box} of {width} x {height}"
