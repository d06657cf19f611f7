"""Where image tokens look: the grids cover every token once, and a change of one part of a picture is found there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import families
import numpy as np
import pytest
import torch
from family_checks import medium
from PIL import Image

from atlas.live.grid.crops import WHOLE, fine_grid, kept_part
from atlas.live.grid.token_grids import Grid, grids
from atlas.live.hooks import tracing
from atlas.live.media import Clip
from atlas.live.model import LiveModel

pytestmark = pytest.mark.filterwarnings("ignore")
PICTURED = [name for name, (kind, _) in families.FAMILIES.items() if kind == "image"]
WITHOUT = ("InstructBLIP", "BLIP-2 (Llama)", "BLIP-2 (OPT)", "GILL")


def live_of(name: str) -> LiveModel:
    return LiveModel(*families.build(name), name=name)


def of(live: LiveModel, media: list[Any]) -> tuple[Any, list[Grid]]:
    prompt = live.encoder.prompt("what is this?", media, "a dog")
    return prompt, grids(live.encoder, prompt, live.model.config)


@pytest.mark.parametrize("name", PICTURED)
def test_every_picture_has_a_grid_of_its_own_tokens(name: str) -> None:
    live = live_of(name)
    prompt, found = of(live, medium(live, "image") + medium(live, "image", 1))
    if name in WITHOUT:
        assert not found
        return
    assert {grid.picture for grid in found} == {0, 1}
    token = live.encoder.role_of.media_ids["image"]
    inside = [p for grid in found for row in grid.positions for p in row]
    assert len(inside) == len(set(inside)) and all(prompt.ids[p] == token for p in inside)
    for grid in found:
        assert len({len(row) for row in grid.positions}) == 1, "a rectangle"
    # What is left out are the tokens that close rows.
    left = [p for p, one in enumerate(prompt.ids) if one == token and p not in set(inside)]
    if name in ("LLaVA-NeXT", "LLaVA-OneVision", "Emu3"):
        assert len(left) == sum(len(g.positions) for g in found if g.positions[0][-1] + 1 in left)
    else:
        assert not left


@pytest.mark.parametrize("name", ["LLaVA", "FastVLM", "LLaVA-NeXT", "Qwen2-VL", "Idefics3", "InternVL", "PaliGemma"])
def test_a_corner_of_the_picture_is_where_its_grid_says(name: str) -> None:
    """The tokens that change most when a corner is painted over are that corner's."""
    live = live_of(name)
    side = 32 if name == "Idefics3" else 24
    plain = np.full((side, side, 3), 90, np.uint8)
    for corner, (down, right) in {"top left": (0, 0), "bottom right": (1, 1)}.items():
        painted = plain.copy()
        half = side // 2
        noise = np.random.default_rng(3).integers(0, 255, (half, half, 3))
        painted[down * half : (down + 1) * half, right * half : (right + 1) * half] = noise
        seen = []
        for pixels in (plain, painted):
            prompt, found = of(live, [Image.fromarray(pixels)])
            with torch.no_grad(), tracing(live.layout) as capture:
                live.forward(live.batch([prompt]))
            seen.append(capture.calls[0][0][0][0])
        moved = (seen[0] - seen[1]).norm(dim=-1)
        inside, outside = [], []
        for grid in found:
            rows, columns = len(grid.positions), len(grid.positions[0])
            top, left, bottom, far = grid.box
            for r, row in enumerate(grid.positions):
                for c, position in enumerate(row):
                    y = top + (bottom - top) * (r + 0.5) / rows
                    x = left + (far - left) * (c + 0.5) / columns
                    if rows > 1 or (len(found) > 1 and grid.box != (0.0, 0.0, 1.0, 1.0)):
                        mine = (y > 0.5) == bool(down) and (x > 0.5) == bool(right)
                        (inside if mine else outside).append(float(moved[position]))
        assert np.mean(inside) > 1.2 * np.mean(outside), (corner, np.mean(inside), np.mean(outside))


@pytest.mark.parametrize("size", [(24, 9), (9, 24), (20, 20), (30, 22), (8, 8), (7, 40)])
def test_tiles_are_where_the_processor_cut_them(size: tuple[int, int]) -> None:
    """Of a picture in which one tile's part is painted, only this tile changes, and the whole."""
    live = live_of("InternVL")
    prompt, found = of(live, [Image.new("RGB", size[::-1])])
    token = live.encoder.role_of.media_ids["image"]
    assert [p for g in found for row in g.positions for p in row] == [p for p, i in enumerate(prompt.ids) if i == token]
    pictures = prompt.extras["pixel_values"]
    assert len(found) == len(pictures) and found[-1].box == WHOLE
    for place, grid in enumerate(found[:-1]):
        painted = np.zeros((*size, 3), np.uint8)
        (top, bottom), (left, right) = (
            (round(start * edge) + 1, round(end * edge) - 1)
            for start, end, edge in zip(grid.box[:2], grid.box[2:], size, strict=True)
        )
        painted[top:bottom, left:right] = 255
        other, same = of(live, [Image.fromarray(painted)])
        assert same == found and bottom > top and right > left
        moved = (other.extras["pixel_values"] - pictures).abs().flatten(1).mean(1)
        assert int(moved[:-1].argmax()) == place and moved[-1] > 0
        assert all(float(m) < 0.15 * float(moved[place]) for t, m in enumerate(moved[:-1]) if t != place)


def test_tiles_that_are_cut_in_an_unknown_way_leave_the_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_of("InternVL")
    prompt = live.encoder.prompt("what is this?", [Image.new("RGB", (9, 24))], "a dog")
    monkeypatch.setattr("atlas.live.grid.token_grids.tiling", lambda *_: (5, 1))
    [grid] = grids(live.encoder, prompt, live.model.config)
    token = live.encoder.role_of.media_ids["image"]
    assert len(prompt.extras["pixel_values"]) > 1 and grid.picture == 0
    assert grid.positions == ((max(p for p, one in enumerate(prompt.ids) if one == token),),)


def test_a_clip_has_a_grid_for_every_step_of_time() -> None:
    live = live_of("Qwen2-VL")
    frames = tuple(Image.new("RGB", (24, 16), (n * 40, 0, 0)) for n in range(4))
    prompt, found = of(live, [Clip(frames)])
    assert [(g.picture, g.frame) for g in found] == [(0, 0), (0, 1)]
    assert {(len(g.positions), len(g.positions[0])) for g in found} == {(2, 3)}
    inside = [p for g in found for row in g.positions for p in row]
    assert inside == [p for p, one in enumerate(prompt.ids) if one == live.encoder.role_of.media_ids["video"]]


def processors() -> dict[str, Any]:
    import transformers as t

    crop = {"height": 24, "width": 24}
    return {
        "CLIP": t.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=crop),
        "CLIP, larger": t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop),
        "CLIP, filled up": t.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=crop),
        "CLIP, squeezed": t.CLIPImageProcessorPil(size={"height": 32, "width": 28}, crop_size=crop),
        "CLIP, bounded": t.CLIPImageProcessorPil(size={"shortest_edge": 24, "longest_edge": 30}, crop_size=crop),
        "CLIP, not resized": t.CLIPImageProcessorPil(do_resize=False, crop_size=crop),
        "LLaVA": t.LlavaImageProcessorPil(size={"shortest_edge": 24}, crop_size=crop),
        "LLaVA, padded": t.LlavaImageProcessorPil(size={"shortest_edge": 24}, crop_size=crop, do_pad=True),
        "Chameleon": t.ChameleonImageProcessorPil(size={"shortest_edge": 24}, crop_size=crop),
        "Janus": t.JanusImageProcessorPil(size={"height": 24, "width": 24}, min_size=4),
        "SigLIP": t.SiglipImageProcessorPil(size={"height": 24, "width": 24}),
    }


@pytest.mark.parametrize("size", [(60, 60), (60, 141), (133, 50), (97, 100)])
@pytest.mark.parametrize("name", list(processors()))
def test_what_is_changed_in_a_picture_changes_where_its_box_says(name: str, size: tuple[int, int]) -> None:
    """Bands across and down the picture: those outside the box change nothing, those inside the rows that they are."""
    made = processors()[name]
    box, plain = kept_part(made, size), np.full((*size, 3), 90, np.uint8)
    before = np.asarray(made(Image.fromarray(plain))["pixel_values"][0])
    side = before.shape[1]
    assert before.shape == (3, side, side)
    for axis in range(2):
        start, end = box[axis], box[axis + 2]
        pixel = (end - start) * size[axis] / side  # of the picture, in one of what the model is shown
        for first in range(0, size[axis] - 5, 5):
            painted = plain.copy()
            painted[(slice(None),) * axis + (slice(first, first + 6),)] = 240
            after = np.asarray(made(Image.fromarray(painted))["pixel_values"][0])
            moved = np.abs(after - before).max((0, 2 - axis))
            seen = np.flatnonzero(moved > 0.3 * moved.max()) if moved.max() > 0.05 else np.array([], int)
            edges = [(p / size[axis] - start) / (end - start) * side for p in (first, first + 6)]
            inside = [max(0.0, edges[0]), min(float(side), edges[1])]
            margin = 1.01 + 1 / pixel
            if inside[1] - inside[0] < 0:
                assert not len(seen) or inside[0] - inside[1] < margin, (axis, first, seen)
            elif inside[1] - inside[0] > 1.5:
                assert abs(seen[0] - inside[0]) < margin and abs(seen[-1] + 1 - inside[1]) < margin, (axis, first, seen)


def test_a_models_grid_is_of_what_its_processor_keeps() -> None:
    live = live_of("LLaVA")
    _, found = of(live, [Image.new("RGB", (32, 16)), Image.new("RGB", (16, 64))])
    assert [g.box for g in found] == [(0.0, 0.25, 1.0, 0.75), (0.375, 0.0, 0.625, 1.0)]


PINPOINTS = {
    "llava_next": (336, 14, [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]),
    "llava_onevision": (384, 14, [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]),
}


@pytest.mark.parametrize("kind", list(PINPOINTS))
def test_fine_grids_are_as_the_models_own_code_lays_them_out(kind: str) -> None:
    """Of pictures of hundreds of sizes: every cell carries where in the padded picture it is, and is packed by the
    model; how many rows and columns there are, and what of the picture each cell is of, is read off."""
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    tile, patch, pinpoints = PINPOINTS[kind]
    side = tile // patch
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=tile, patch_size=patch), image_grid_pinpoints=pinpoints
    )
    if kind == "llava_onevision":
        config.vision_aspect_ratio = "anyres_max_9"
    draw, shrunk = np.random.default_rng(0), 0
    sizes = [[int(n) for n in np.exp(draw.uniform(3, 8, 2))] for _ in range(300)]
    for size in [[158, 506], [506, 158], [1, 900], *sizes]:
        best = select_best_resolution(tuple(size), pinpoints)
        shape = [edge // tile for edge in best]
        y, x = (torch.arange(n * side, dtype=torch.float64).add(0.5) / side * tile for n in shape)
        cells = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
        tiles = cells.view(shape[0], side, shape[1], side, 2).transpose(1, 2).reshape(-1, side * side, 2)
        features = torch.cat([torch.zeros(1, side * side, 2), tiles]).float()
        newline, model = torch.full((2,), -1.0), SimpleNamespace(config=config)
        if kind == "llava_next":
            [packed], _ = LlavaNextModel.pack_image_features(
                model, [features], torch.tensor([size]), "default", image_newline=newline
            )
        else:
            [packed], _ = LlavaOnevisionModel.pack_image_features(
                model, [features], torch.tensor([size]), image_newline=newline
            )
        rows, columns, (top, left, bottom, right) = fine_grid(config, size)
        fine = packed[side * side :]
        assert len(fine) == rows * (columns + 1), size
        lines = fine.view(rows, columns + 1, 2)
        assert (lines[:, -1] == -1).all() and (lines[:, :-1] >= 0).all(), size
        # Where the picture is inside of what was padded, as its processor fits it.
        scale = min(b / s for b, s in zip(best, size, strict=True))
        extent = [min(int(np.ceil(s * scale)), b) for b, s in zip(best, size, strict=True)]
        at = [(b - e) // 2 for b, e in zip(best, extent, strict=True)]
        if not rows or not columns:
            continue
        down = (lines[:, 0, 0].numpy() - at[0]) / extent[0]
        across = (lines[0, :-1, 1].numpy() - at[1]) / extent[1]
        expected = (
            top + (bottom - top) * (np.arange(rows) + 0.5) / rows,
            left + (right - left) * (np.arange(columns) + 0.5) / columns,
        )
        cell = [tile / side / e for e in extent]
        shrunk += columns < round((right - left) / cell[1])
        for found, wanted, one in zip((down, across), expected, cell, strict=True):
            assert np.abs(found - wanted).max() < (0.51 if kind == "llava_onevision" else 1e-3) * one, size
    assert (shrunk > 10) == (kind == "llava_onevision")
    assert kind != "llava_next" or fine_grid(config, [158, 506])[:2] != fine_grid(config, [506, 158])[:2]


def test_pictures_of_different_sizes_side_by_side_are_told_apart() -> None:
    """Without a token between them, by how many tokens each must have."""
    live = live_of("LLaVA-NeXT")
    prompt, found = of(live, [Image.new("RGB", (12, 9)), Image.new("RGB", (30, 12))])
    token = live.encoder.role_of.media_ids["image"]
    places = [p for p, one in enumerate(prompt.ids) if one == token]
    assert places == list(range(places[0], places[0] + len(places))), "one stretch"
    assert [g.picture for g in found] == [0, 0, 1, 1] and found[0].positions[0][0] == places[0]
    inside = [p for g in found for row in g.positions for p in row]
    assert inside == sorted(set(inside)) and set(inside) <= set(places)
