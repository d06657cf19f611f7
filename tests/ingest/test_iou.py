"""IoU of every neuron: a planted neuron through the whole of ingest, a loop over neurons, and what a run says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attribution import build, feed, make_items, maps_of
from conftest import build_llava
from PIL import Image

from atlas import Atlas
from atlas.errors import AtlasError, UsageError
from atlas.live.grid.crops import WHOLE
from atlas.live.grid.heatmap import Mask, iou, percentile_mask, picture_maps
from atlas.live.grid.token_grids import grids
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from ingest.attribution.item import Item, Region
from ingest.job import Execution, Job, make_job
from ingest.run.ingest import ingest

SIDE, CELL = 32, 4
BANDS = ((0, 2), (3, 5), (6, 8))
"""Rows of cells, a quarter of the picture each, that have no cell in common."""
PLANTED = (0, 17)


def band_of(first: int, end: int) -> Mask:
    region = np.zeros((SIDE, SIDE), bool)
    region[first * CELL : end * CELL] = True
    return region


def shown(region: Mask) -> Image.Image:
    return Image.fromarray(np.where(region[..., None], np.uint8(255), np.uint8(0)).repeat(3, -1))


@pytest.fixture(scope="module")
def wide() -> LiveModel:
    """A random LLaVA whose pictures have 8 x 8 tokens."""
    return LiveModel(*build_llava(seed=2, side=SIDE), name="wide-llava")


@pytest.fixture(scope="module")
def planted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which neuron 0/17 is 1 on the tokens of white cells and 0 on those of black ones."""
    model, processor = build_llava(seed=2, side=SIDE)
    live = LiveModel(model, processor, name="planted")
    projector, block = model.model.multi_modal_projector, live.layout.layers[0]
    with torch.no_grad():
        for name, weight in model.named_parameters():  # a token sees its own cell only
            if "vision" in name and any(part in name for part in ("position_embedding", "out_proj", "fc2")):
                weight.zero_()
        block.self_attn.o_proj.weight.zero_()
        white, black = (hidden_of(live, projector.act, value) for value in (255, 0))
        step = white - black
        projector.linear_2.weight[0] = step / (step @ step)
        projector.linear_2.bias[0] = -(projector.linear_2.weight[0] @ black)
        layer, neuron = PLANTED
        block.mlp.gate_proj.weight[neuron], block.mlp.up_proj.weight[neuron] = 0, 0
        block.mlp.gate_proj.weight[neuron, 0] = block.mlp.up_proj.weight[neuron, 0] = 1
        block.mlp.up_proj.weight[neuron, 0] /= float(values_of(live, shown(band_of(0, 8)))[layer][0, neuron])
    folder = tmp_path_factory.mktemp("planted") / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def hidden_of(live: LiveModel, module: Any, value: int) -> torch.Tensor:
    """(features,) a module's output for the cells of a picture of one grey."""
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, out: outputs.append(out.detach().reshape(-1, 32)[0]))
    try:
        live.forward(live.batch([live.encoder.prompt("a", [Image.new("RGB", (SIDE, SIDE), (value,) * 3)], "dog")]))
    finally:
        handle.remove()
    return outputs[0]


def values_of(live: LiveModel, picture: Image.Image) -> dict[int, torch.Tensor]:
    """layer -> (image tokens, neurons)."""
    prompt = live.encoder.prompt("a", [picture], "dog")
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(live.batch([prompt]))
    image = torch.tensor(prompt.ids) == live.encoder.role_of.media_ids["image"]
    return {layer: of[0, : len(image)][image] for layer, of in capture.values.items()}


def bands_folder(folder: Path, count: int = 3) -> str:
    """COCO files of pictures with a dog in white bands."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, instances, captions = [], [], []
    for number, rows in enumerate(BANDS[:count], 1):
        shown(band_of(*rows)).save(folder / "images" / f"{number}.png")
        top, bottom = (CELL * row for row in rows)
        outline = [0, top, SIDE, top, SIDE, bottom, 0, bottom]
        row = {"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE, "split": "find"}
        images.append(row)
        instance = {"id": number, "image_id": number, "category_id": 18, "segmentation": [outline], "iscrowd": 0}
        instances.append(instance | {"bbox": [0, top, SIDE, bottom - top], "area": SIDE * (bottom - top)})
        captions.append({"id": number, "image_id": number, "caption": "a dog"})
    categories = [{"id": 18, "name": "dog", "supercategory": "animal"}]
    instances_file = {"images": images, "categories": categories, "annotations": instances}
    (folder / "annotations" / "instances.json").write_text(json.dumps(instances_file))
    (folder / "annotations" / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return f"coco:{folder}"


def job_of_bands(model: Path, dataset: str, **content: Any) -> Job:
    methods = {"iou": {"percentile": 75}, "contribution": {}}
    whole = {"model": str(model), "dataset": dataset, "methods": methods, "sources": ["image"], "answers": "reference"}
    return make_job(whole | content)


@pytest.mark.filterwarnings("ignore:no held-out examples")
def test_a_neuron_that_is_1_exactly_under_the_concept_has_an_iou_of_1(
    empty_atlas: Path, planted_folder: Path, tmp_path: Path
) -> None:
    layer, neuron = PLANTED
    live = LiveModel.load(str(planted_folder))
    values = values_of(live, shown(band_of(3, 5)))[layer][:, neuron].reshape(8, 8)
    assert torch.allclose(values[3:5], torch.ones(2, 8), atol=1e-5) and not values[[0, 1, 2, 5, 6, 7]].any()
    ingest(empty_atlas, job_of_bands(planted_folder, bands_folder(tmp_path / "bands")), Execution(batch_size=2))
    atlas = Atlas.open(empty_atlas)
    found = atlas.query("dog", "iou", top=64)
    by_neuron = {(row["layer"], row["neuron"]): row for row in found.to_pylist()}
    assert by_neuron[PLANTED]["score"] == pytest.approx(1, abs=1e-6) and by_neuron[PLANTED]["null_score"] == 0
    assert found["score"].to_pylist() == sorted(found["score"].to_pylist(), reverse=True)
    exceeding = atlas.query("dog", "iou", score=">0.3", top=128)
    assert PLANTED in {(row["layer"], row["neuron"]) for row in exceeding.to_pylist()}
    assert 0 < len(exceeding) == sum(row["score"] > 0.3 for row in atlas.query("dog", "iou", top=128).to_pylist()) < 128
    same = atlas.query(where="concept = dog and method = iou and score > 0.3", top=128)
    assert same.neurons == exceeding.neurons
    looking = atlas.query("dog", "contribution", where="iou > 0.3 and layer = 1", top=128)
    scored = {(row["layer"], row["neuron"]) for row in atlas.query("dog", "contribution", top=128).to_pylist()}
    assert set(looking.neurons) == {n for n in exceeding.neurons if n.layer == 1 and (n.layer, n.index) in scored}
    assert atlas.count("dog", "contribution", where="not iou > 0.3").to_pylist()[0]["passing"] == 128 - len(exceeding)
    null = atlas.query("dog", "iou.null", top=128)
    of_null = {(row["layer"], row["neuron"]): row["score"] for row in null.to_pylist()}
    assert "null_score" not in null.table.column_names and all(
        row["null_score"] == pytest.approx(of_null.get(key, 0), abs=1e-6) for key, row in by_neuron.items()
    )
    assert "null_score" not in atlas.query("dog", "contribution").table.column_names
    also = {
        name
        for names in atlas.query("dog", "contribution", reduce="mean", top=128)["also_found_by"].to_pylist()
        for name in names
    }
    also |= {row["method"] for row in atlas.neuron("0/17").to_pylist()}
    assert "iou" in also and "iou.null" not in also, "what chance gives is no other method"


@pytest.mark.filterwarnings("ignore:no held-out examples")
def test_one_picture_alone_has_no_null_and_the_run_says_so(
    empty_atlas: Path, planted_folder: Path, tmp_path: Path
) -> None:
    done = ingest(empty_atlas, job_of_bands(planted_folder, bands_folder(tmp_path / "one", 1)), Execution())
    assert done.outcome["notes"] == [
        "iou: no other picture of the run shows where dog is, so it has no null; ingest more examples with "
        "[[per_concept]]"
    ]
    found = Atlas.open(empty_atlas).query("dog", "iou", top=3)
    assert "null_score" not in found.table.column_names and found["score"][0].as_py() == pytest.approx(1, abs=1e-6)


@pytest.mark.filterwarnings("ignore:no held-out examples")
@pytest.mark.parametrize(
    ("name", "found", "message"),
    [("grids", [], "whose tokens have a known place"), ("sees", False, "that says where the concept is")],
)
def test_a_run_in_which_nothing_can_be_compared_says_why(
    empty_atlas: Path,
    planted_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    found: object,
    message: str,
) -> None:
    monkeypatch.setattr(f"ingest.run.regions.{name}", lambda *_: found)
    job = job_of_bands(planted_folder, bands_folder(tmp_path / "bands"))
    with pytest.raises(AtlasError, match=rf"no picture could be compared with a neuron's map: .*{message} \(dog 3x\)"):
        ingest(empty_atlas, replace(job, methods={"iou": {}}), Execution())
    beside = ingest(empty_atlas, job, Execution())
    assert {row["method"] for row in Atlas.open(empty_atlas).sql("SELECT method FROM maps").to_pylist()} == {
        "contribution"
    }
    assert beside.outcome["skipped"]["ungridded" if name == "grids" else "unplaced"] == {"dog": 3}


def by_hand(live: LiveModel, item: Item, region: Region, mask: Mask, size: tuple[int, int], percentile: float) -> Any:
    """(layers, neurons): a loop over neurons, of one picture."""
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(live.batch([item.prompt]))
    scores = np.zeros((2, 64))
    for layer in range(2):
        for neuron in range(64):
            heat = picture_maps(region.grids, capture.values[layer][0, :, neuron].numpy(), size)
            scores[layer, neuron] = iou(percentile_mask(heat, percentile), mask, ~np.isnan(heat))
    return scores


@pytest.mark.parametrize(("width", "height", "percentile"), [(48, 48, 95.0), (48, 72, 95.0), (64, 48, 60.0)])
def test_scores_are_those_of_each_neurons_own_map(wide: LiveModel, width: int, height: int, percentile: float) -> None:
    """At full resolution; a picture that is not a square loses its edges to the processor, and tokens see a part."""
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side, draw = 48, np.random.default_rng(3)
    regions = [np.zeros((side, side), bool) for _ in range(2)]
    for region in regions:
        top, left = draw.integers(8, 24, 2)
        region[top : top + 15, left : left + 12] = True
    items = make_items(wide, Image.fromarray(noise), ["a dog", "a red cat"], regions=regions, turn=90)
    found = maps_of(feed(build("iou", side=side, percentile=percentile), wide, [items], "image"))
    for concept, item in zip(("dog", "cat"), items, strict=True):
        [region] = item.regions[concept]
        for key, mask in ((("dog", "mean"), regions[0]), (("dog", "mean", "null"), regions[1])):
            expected = by_hand(wide, item, region, mask, (side, side), percentile)
            assert np.allclose(found[concept, *key[1:]].scores, expected, atol=1e-5)
            assert expected.max() > 0.1 and expected.std() > 0.01


def test_several_pictures_and_concepts_of_an_example_count_once_each(wide: LiveModel) -> None:
    """The mean over an example's pictures; a concept without a region, or whose region is cropped away, is left out."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    first, second, both = (band_of(0, 3), band_of(4, 7), band_of(0, 8))
    [item] = make_items(wide, picture, ["a dog and a cat"], regions=(first, second))
    [of_first] = item.regions["dog"]

    def scores(regions: dict[str, tuple[Region, ...]]) -> Any:
        return maps_of(feed(build("iou"), wide, [[replace(item, regions=regions)]], "image"))

    def region(own: Mask, other: Mask | None) -> tuple[Region, ...]:
        return (Region(of_first.grids, own, other),)

    one, two = (scores({"dog": region(own, None)})["dog", "mean"].scores for own in (first, second))
    found = scores({"dog": (*region(first, both), *region(second, None)), "cat": region(second, first)})
    assert torch.allclose(found["dog", "mean"].scores, (one + two) / 2, atol=1e-6)
    alone = scores({"dog": region(both, None)})["dog", "mean"].scores
    assert torch.allclose(found["dog", "mean", "null"].scores, alone, atol=1e-6)
    assert torch.equal(found["cat", "mean"].scores, two) and torch.equal(found["cat", "mean", "null"].scores, one)
    assert {key[0] for key in scores({"cat": region(second, None)})} == {"cat"}
    nothing = np.zeros_like(first)
    assert not scores({"cat": region(nothing, first)})
    assert {len(key) for key in scores({"cat": region(first, nothing)})} == {2}, "no null"


@pytest.mark.parametrize("values", [{"percentile": 100.0}, {"percentile": -1.0}, {"side": 1}, {"side": 2000}])
def test_an_impossible_value_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="iou: percentile must be from 0"):
        build("iou", **values)


def test_grids_of_a_llava_are_what_the_reference_uses(wide: LiveModel) -> None:
    prompt = wide.encoder.prompt("a", [shown(band_of(0, 2))], "dog")
    [grid] = grids(wide.encoder, prompt, wide.model.config)
    assert (len(grid.positions), len(grid.positions[0]), grid.box) == (8, 8, WHOLE)
