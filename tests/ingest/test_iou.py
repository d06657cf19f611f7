"""IoU of every neuron: a planted neuron through the whole of ingest, a loop over neurons, the null, what is refused."""

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
from atlas.errors import AtlasError, Unsupported, UsageError
from atlas.live.grid.crops import WHOLE
from atlas.live.grid.heatmap import Mask, iou, percentile_mask, picture_maps, sees
from atlas.live.grid.token_grids import Grid, grids
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from ingest.attribution.item import Item, Region
from ingest.attribution.region_overlap import covered, layout_of, overlaps, positions_of
from ingest.data.examples import Example
from ingest.datasets import scenes
from ingest.datasets.scenes import Scenes
from ingest.job import Execution, Job, make_job
from ingest.requests.left_out import left_out
from ingest.run import prepare
from ingest.run import session as run_session
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.ingest import ingest
from ingest.run.regions import Regions
from ingest.run.resolve import complete
from ingest.run.skipped import Skipped

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
    null = atlas.query("dog", "iou.null", top=128)
    of_null = {(row["layer"], row["neuron"]): row["score"] for row in null.to_pylist()}
    assert "null_score" not in null.table.column_names and all(
        row["null_score"] == pytest.approx(of_null.get(key, 0), abs=1e-6) for key, row in by_neuron.items()
    )
    assert "null_score" not in atlas.query("dog", "contribution").table.column_names


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


@pytest.mark.parametrize(("side", "mean", "most"), [(64, 0.01, 0.05), (32, 0.02, 0.1)])
def test_fewer_points_give_nearly_what_all_pixels_give(side: int, mean: float, most: float) -> None:
    """A 24 x 24 grid, values that follow the region more and less, pictures of 240 x 320."""
    cells, draw, differences = 24, np.random.default_rng(0), []
    grid = Grid(0, tuple(tuple(range(r * cells, (r + 1) * cells)) for r in range(cells)))
    y, x = np.mgrid[:240, :320] / np.array([240, 320])[:, None, None]
    for _ in range(10):
        (top, left), (tall, wide) = draw.uniform(0.3, 0.7, 2), draw.uniform(0.1, 0.25, 2)
        region = ((y - top) / tall) ** 2 + ((x - left) / wide) ** 2 < 1
        share = covered(region, cells).numpy()
        values = np.stack([share + noise * draw.normal(size=share.shape) for noise in (0.1, 0.3, 1.0)], 1)
        layout = layout_of([grid], side, torch.device("cpu"))
        found = overlaps(torch.from_numpy(values).float(), layout, covered(region, side)[:, None], 95.0)[:, 0]
        maps = picture_maps([grid], values.T, region.shape)
        full = [iou(percentile_mask(heat), region, np.ones_like(region)) for heat in maps]
        differences += np.abs(found.numpy() - full).tolist()
    assert np.mean(differences) < mean and max(differences) < most


def test_a_region_smaller_than_a_point_counts_with_its_own_size() -> None:
    region = np.zeros((640, 480), bool)
    region[101:104, 333:337] = True
    shares = covered(region, 16)
    assert int((shares > 0).sum()) == 1 and float(shares.sum()) / 256 == pytest.approx(region.mean(), rel=1e-4)
    whole = covered(np.ones((7, 5), bool), 16)
    assert torch.allclose(whole, torch.ones(256), atol=1e-6)


def test_masks_cut_ties_as_a_heatmap_does() -> None:
    """Values that are equal over much of the picture, and all of it, far from zero."""
    grid, draw = Grid(0, tuple(tuple(range(r * 6, r * 6 + 6)) for r in range(6))), np.random.default_rng(0)
    values = draw.integers(0, 3, (36, 40)).astype(np.float32)
    values[:, 1], values[:, 2], values[:, 3] = 0.3, np.eye(36)[14], 1000 + draw.random(36)
    values[:, 4:10] = draw.random((36, 6)) > 0.9
    values[:, 10:20] = draw.normal(size=10)  # of these and of zeros only rounding would differ from point to point
    region = draw.random((24, 24)) > 0.8
    layout = layout_of([grid], 24, torch.device("cpu"))
    found = overlaps(torch.from_numpy(values), layout, covered(region, 24)[:, None], 95.0)[:, 0]
    maps = picture_maps([grid], values.T, (24, 24))
    expected = [iou(percentile_mask(heat), region, np.ones_like(region)) for heat in maps]
    assert np.allclose(found, expected, atol=1e-6) and not found[10:20].any()


def test_grids_that_lie_over_each_other_are_laid_as_a_heatmap_lays_them() -> None:
    """Any-resolution models: a coarse grid of the whole, a fine one of a part, the positions in any order."""
    order = np.random.default_rng(0).permutation(4 + 24)
    coarse = Grid(0, tuple(tuple(row) for row in order[:4].reshape(2, 2).tolist()), WHOLE)
    fine = Grid(0, tuple(tuple(row) for row in order[4:].reshape(4, 6).tolist()), (0.1, -0.2, 0.9, 1.2))
    values = np.random.default_rng(1).normal(size=(28, 50)).astype(np.float32)
    region = np.random.default_rng(2).random((32, 32)) > 0.7
    layout = layout_of([coarse, fine], 32, torch.device("cpu"))
    ordered = torch.from_numpy(values)[positions_of([coarse, fine])]
    found = overlaps(ordered, layout, covered(region, 32)[layout.seen][:, None], 90.0)[:, 0]
    maps = picture_maps([coarse, fine], values.T, (32, 32))
    expected = [iou(percentile_mask(heat, 90), region, np.ones_like(region)) for heat in maps]
    assert np.allclose(found, expected, atol=1e-6)


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


@pytest.mark.parametrize("values", [{"percentile": 100.0}, {"percentile": -1.0}, {"side": 1}, {"side": 2000}])
def test_an_impossible_value_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="iou: percentile must be from 0"):
        build("iou", **values)


def test_grids_of_a_llava_are_what_the_reference_uses(wide: LiveModel) -> None:
    prompt = wide.encoder.prompt("a", [shown(band_of(0, 2))], "dog")
    [grid] = grids(wide.encoder, prompt, wide.model.config)
    assert (len(grid.positions), len(grid.positions[0]), grid.box) == (8, 8, WHOLE)
