"""The same commands on a GPU and on the CPU: every method's scores, drawn pictures, solved edits, evaluations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atlas import registry
from atlas.store import create
from atlas.store.database import open_readonly
from ingest import methods
from ingest.job import Execution, make_job
from ingest.run.ingest import ingest

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")
DEVICES = ("cpu", "cuda")

EMBEDDED: dict[str, dict[str, Any]] = {
    "tiny-llava": {"sources": ["image", "text"], "methods": {"contribution": {}, "activation": {}, "gradient": {}}},
    "tiny-audio": {"sources": ["audio", "text"], "methods": {"contribution": {}, "gradient_x_activation": {}}},
    "tiny-gill": {"sources": ["text"], "tasks": ["does", "draw"], "methods": {"nam_image": {}, "contribution": {}}},
}


def on_both(folder: Path, content: dict[str, Any]) -> dict[str, Path]:
    """One job on either device, each into an atlas of its own."""
    found = {}
    for device in DEVICES:
        found[device] = folder / f"{device}.atlas"
        create.init(found[device])
        ingest(found[device], make_job(content), Execution(device=device))
    return found


def vectors(atlas: Path) -> dict[tuple[str, ...], dict[tuple[int, int], float]]:
    """Every map's scores by neuron."""
    found: dict[tuple[str, ...], dict[tuple[int, int], float]] = {}
    with open_readonly(atlas) as connection:
        rows = connection.sql(
            "SELECT c.name, m.method, m.source, m.target, m.reduce, s.layer, s.neuron, s.score "
            "FROM scores s JOIN maps m USING (map_id) LEFT JOIN concepts c USING (concept_id)"
        ).fetchall()
    for *named, layer, neuron, score in rows:
        found.setdefault(tuple(str(name) for name in named), {})[layer, neuron] = score
    return found


def unlike(atlases: dict[str, Path]) -> dict[tuple[str, ...], float]:
    """The maps whose scores differ by more than 0.5 % of their greatest: the log-probability of a word that is all but
    certain, and its derivative, are small differences of large numbers."""
    one, other = (vectors(atlases[device]) for device in DEVICES)
    assert one and one.keys() == other.keys()
    found = {}
    for named, scores in one.items():
        assert scores.keys() == other[named].keys(), named
        mine, theirs = (np.array([of[n] for n in sorted(of)]) for of in (scores, other[named]))
        gap = float(np.abs(mine - theirs).max() / max(np.abs(mine).max(), 1e-30))
        if gap > 5e-3:
            found[named] = gap
    return found


def test_every_method_gives_the_scores_of_the_cpu(tmp_path: Path, llava_folder: Path) -> None:
    names = [name for name in registry.folder_names(methods) if "text" in registry.load(methods, name).build().targets]
    content = {
        "model": str(llava_folder),
        "methods": {name: {} for name in names},
        "concepts": ["cat", "dog"],
        "per_concept": 2,
        "negatives": 4,
        "reduce": ["mean", "contrast"],
    }
    assert not unlike(on_both(tmp_path, content))


@pytest.mark.parametrize("model", EMBEDDED)
def test_the_embedded_models_have_the_scores_of_the_cpu(model: str, tmp_path: Path) -> None:
    content = {"model": model, "concepts": ["cat", "dog", "car"], "per_concept": 3, **EMBEDDED[model]}
    found = unlike(on_both(tmp_path, content))
    # A pixel on the edge of a thing may be of it on one device alone.
    assert all(target == "image" and gap < 0.1 for (_, _, _, target, _), gap in found.items()), found


def test_half_precision_finds_the_neurons_of_single(tmp_path: Path) -> None:
    content = {"model": "tiny-llava", "methods": {"contribution": {}}, "concepts": ["dog", "cat"], "per_concept": 4}
    best = {}
    for dtype in ("float32", "bfloat16", "float16"):
        create.init(tmp_path / dtype)
        ingest(tmp_path / dtype, make_job({**content, "dtype": dtype}), Execution(device="cuda"))
        maps = vectors(tmp_path / dtype)
        dog = maps["dog", "contribution", "image", "text", "mean"]
        best[dtype] = set(sorted(dog, key=lambda n: -dog[n])[:40])
    assert all(len(best["float32"] & best[dtype]) >= 34 for dtype in ("bfloat16", "float16"))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """A command line -> what it prints, on an atlas of its own."""
    from cli.main import main

    monkeypatch.setenv("NEURON_ATLAS", str(tmp_path / "own.atlas"))

    def call(line: str) -> str:
        code = main(shlex.split(line))
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    call("init")
    return call


def test_an_edit_is_solved_applied_and_judged_on_a_gpu(run: Callable[[str], str]) -> None:
    run("ingest --model tiny-llava --methods contribution --per-concept 3 --device cuda")
    run("edit solve dog-to-cat --from dog --to cat --sources image --tasks caption --device cuda")
    asked = "edit apply dog-to-cat --image scenes:held_out/0 --prompt 'what is this?' --json --device"
    shown = {device: json.loads(run(f"{asked} {device}"))["rows"] for device in DEVICES}
    assert shown["cuda"] and shown["cpu"] == shown["cuda"]
    asked = "evaluate dog-to-cat --per-concept 2 --seeds 2 --metrics none --json --device"
    judged = {device: json.loads(run(f"{asked} {device}"))["rows"] for device in DEVICES}
    assert judged["cuda"] and same(judged["cpu"], judged["cuda"])


def same(one: Any, other: Any) -> bool:
    """Equal but for rounding, and for what was timed."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one if "seconds" not in k)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return abs(one - other) <= 1e-3 + 1e-2 * abs(one)
    return bool(one == other)


def test_what_is_drawn_is_edited_on_a_gpu(run: Callable[[str], str]) -> None:
    pytest.importorskip("diffusers")
    asked = "ingest --model tiny-gill --sources text --tasks draw --methods nam_image --concepts dog,cat,car"
    run(f"{asked} --per-concept 4 --device cuda")
    asked = "edit solve draw-cat --from dog --to cat --target image --model tiny-gill --method nam_image"
    run(f"{asked} --source text --top 40 --per-concept 8 --device cuda")
    asked = "evaluate draw-cat --sources text --tasks draw --concepts dog,car --per-concept 4 --seeds 1"
    rows = json.loads(run(f"{asked} --json --device cuda"))["rows"]
    drawn = {r["subset"]: r["value"] for r in rows if (r["metric"], r["condition"]) == ("drawn", "edit")}
    assert drawn["concept"] <= 0.25 and drawn["others"] == 1, drawn
