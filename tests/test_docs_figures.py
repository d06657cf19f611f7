"""The figures of docs/methods: one a method, small, in colours that everyone can tell apart, the same each time."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

import ingest.methods
from atlas import registry
from atlas.figures._style import GREY

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "methods"
METHODS = registry.names(ingest.methods)
OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}
GREYS = {GREY, "#ffffff"}


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("docs_figures", ROOT / "docs" / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page_with_its_figure_and_parameters(method: str) -> None:
    text = (PAGES / f"{method}.md").read_text(encoding="utf-8")
    assert f"(figures/{method}.svg)" in text
    assert f"<!-- parameters: {method} -->" in text
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Score",
        "Cost",
        "When to trust it",
        "When not",
        "Parameters",
    ]


def test_there_is_no_page_or_figure_of_anything_else() -> None:
    assert sorted(page.stem for page in PAGES.glob("*.md")) == sorted(METHODS)
    assert sorted(file.stem for file in (PAGES / "figures").iterdir()) == sorted(METHODS)


def test_figures_are_small_and_their_colours_those_that_everyone_can_tell_apart() -> None:
    files = sorted((PAGES / "figures").glob("*.svg"))
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for file in files:
        text = file.read_text(encoding="utf-8")
        width = ElementTree.fromstring(text).attrib["width"]
        assert float(width.removesuffix("pt")) / 72 == pytest.approx(3.3, abs=0.01)
        assert set(re.findall(r"#[0-9a-f]{6}\b", text)) <= OKABE_ITO | GREYS, file.name


def test_the_same_maps_are_drawn_as_the_same_bytes(figures: ModuleType, stored_atlas: Path, tmp_path: Path) -> None:
    maps = figures.read_maps(stored_atlas)
    for method in ("contribution", "ablation", "random"):
        first = figures.save(method, maps, tmp_path).read_bytes()
        assert figures.save(method, figures.read_maps(stored_atlas), tmp_path).read_bytes() == first


def test_the_curves_are_what_the_maps_say(figures: ModuleType, stored_atlas: Path) -> None:
    """Exact ablation's own curve is the most possible; the layers' shares sum to 1."""
    figure = figures.draw("ablation", figures.read_maps(stored_atlas))
    layers, effects = figure.axes
    assert [sum(line.get_ydata()) for line in layers.lines] == pytest.approx([1.0] * len(layers.lines))
    by_method, most = effects.lines[0].get_ydata(), effects.lines[1].get_ydata()
    assert by_method == pytest.approx(most)
    assert most[-1] == pytest.approx(1.0)
