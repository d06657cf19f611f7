"""Where an example's pictures show its concepts: the null, what is left out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas.errors import Unsupported, UsageError
from atlas.live.grid.heatmap import sees
from atlas.live.grid.token_grids import Grid
from atlas.live.model import LiveModel
from ingest.attribution.item import Item
from ingest.data.examples import Example
from ingest.datasets import scenes
from ingest.datasets.scenes import Scenes
from ingest.job import Execution, make_job
from ingest.requests.left_out import left_out
from ingest.run import prepare
from ingest.run import session as run_session
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.ingest import ingest
from ingest.run.regions import Regions
from ingest.run.resolve import complete
from ingest.run.skipped import Skipped


def encoded(world: Scenes, live: LiveModel, batch: int, **content: Any) -> tuple[list[Item], ExampleEncoder, Any]:
    content = {"methods": {"iou": {}}, "concepts": ["dog", "cat"], "per_concept": 3, "sources": ["image"]} | content
    job = complete(make_job(content), world, frozenset({"text", "image"}))
    examples = prepare.collect(job, world)
    encoder, items = ExampleEncoder(live, world, job, examples=examples), list[Item]()
    for first in range(0, len(examples), batch):
        items += encoder.items(list(enumerate(examples))[first : first + batch], batch)
    return items, encoder, examples


def test_the_null_is_another_picture_of_the_concept_and_the_same_for_every_batch(llava: LiveModel) -> None:
    world = scenes.build()
    items, encoder, examples = encoded(world, llava, 16)
    again, _, _ = encoded(world, llava, 3)
    assert items and not encoder.skipped.unplaced
    drawn = set()
    for item, other in zip(items, again, strict=True):
        example: Example = examples[item.number]
        for concept, (region,) in item.regions.items():
            assert (region.own == world.mask(example.media[0], concept)).all() and region.other is not None
            pointers = {p for e in examples if concept in {m.concept for m in e.mentions} for p in e.media}
            same = [p for p in pointers - {*example.media} if (world.mask(p, concept) == region.other).all()]
            assert same and (other.regions[concept][0].other == region.other).all()
            drawn.add((concept, same[0]))
    assert len(drawn) > 4
    assert not encoded(world, llava, 16, methods={"activation": {}})[0][0].regions


def test_a_concept_without_outline_or_grid_is_left_out_and_told(
    llava: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = scenes.build()
    mask = Scenes.mask
    monkeypatch.setattr(Scenes, "mask", lambda self, media, name: mask(self, media, name) & (name != "cat"))
    items, encoder, _ = encoded(world, llava, 16)
    asked = sum("cat" in {t.concept for t in item.targets} for item in items)
    assert encoder.skipped.unplaced == {"cat": asked} and not any("cat" in item.regions for item in items)
    monkeypatch.setattr("ingest.run.regions.grids", lambda *_: [])
    items, encoder, _ = encoded(world, llava, 16)
    counts = encoder.skipped.plain()
    assert set(counts["ungridded"]) == {"dog"} and not any(item.regions for item in items)
    assert any("dog: " in line and "have no known place in them" in line for line in left_out(counts, Path(), ""))


def test_an_outline_of_another_picture_is_not_used(llava: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    world = scenes.build()
    monkeypatch.setattr(Scenes, "mask", lambda self, media, name: np.ones((64, 96), bool))
    _, encoder, _ = encoded(world, llava, 16)
    assert set(encoder.skipped.unplaced) == {"cat", "dog"}
    finder = Regions(llava, world, [], Skipped())
    example = prepare.collect(complete(make_job({"concepts": ["dog"]}), world, frozenset({"image"})), world)[0]
    prompt = encoder.prompt(example)
    assert prompt is not None and not finder.of(example, replace(prompt, sizes=((64, 64),)), [])


def test_what_is_seen_of_a_region() -> None:
    region = np.zeros((10, 20), bool)
    region[:, :2] = True
    whole, right = Grid(0, ((0, 1),)), Grid(0, ((0, 1),), (0.0, 0.2, 1.0, 1.0))
    assert sees([whole], region) and not sees([right], region) and sees([right, whole], region) and not sees([], region)
    assert not sees([Grid(0, ((0,),), (0.51, 0.0, 0.52, 1.0))], np.ones((10, 20), bool)), "between two rows' centres"


def test_what_cannot_be_compared_is_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, empty_atlas: Path, llava_folder: Path
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("ingest.run.ingest.load_model", load)
    with pytest.raises(Unsupported, match="iou lays image tokens on the picture, and those of tiny-gill have no place"):
        run_session.prepare_job(make_job({"model": "tiny-gill", "methods": {"iou": {}}}), Execution())
    job = make_job({"model": str(llava_folder), "methods": {"iou": {}, "activation": {}}, "concepts": ["dog"]})
    with pytest.raises(UsageError, match="iou scores examples with source image"):
        ingest(empty_atlas, replace(job, sources=("text",)), Execution())
    monkeypatch.setattr(Scenes, "mask", lambda self, media, name: np.zeros((64, 64), bool))
    with pytest.raises(UsageError, match="iou compares maps with the pixels that show the concept, and scenes knows"):
        ingest(empty_atlas, job, Execution())
    with pytest.raises(AssertionError, match="the model is loaded"):
        ingest(empty_atlas, replace(job, methods={"activation": {}}), Execution())
