"""Where image tokens look: the grids cover every token once, and a change of one part of a picture is found there."""

from __future__ import annotations

from typing import Any

import families
import numpy as np
import pytest
import torch
from family_checks import shown
from PIL import Image

from atlas.live.grids import Grid, grids
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
    prompt, found = of(live, shown(live, "image") + shown(live, "image", 1))
    if name in WITHOUT:
        assert not found
        return
    assert {grid.picture for grid in found} == {0, 1}
    token = live.encoder.role_of.media_ids["image"]
    inside = [p for grid in found for row in grid.positions for p in row]
    assert len(inside) == len(set(inside)) and all(prompt.ids[p] == token for p in inside)
    for grid in found:
        assert len({len(row) for row in grid.positions}) == 1, "a rectangle"
    # What is left out are the tokens that close rows, and finer tiles without a place of their own.
    left = [p for p, one in enumerate(prompt.ids) if one == token and p not in set(inside)]
    if name in ("LLaVA-NeXT", "LLaVA-OneVision", "Emu3"):
        assert len(left) == sum(len(g.positions) for g in found if g.positions[0][-1] + 1 in left)
    elif name != "InternVL":
        assert not left


@pytest.mark.parametrize("name", ["LLaVA", "LLaVA-NeXT", "Qwen2-VL", "Idefics3", "PaliGemma"])
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


def test_of_tiles_without_a_place_the_whole_picture_has_a_grid() -> None:
    live = live_of("InternVL")
    prompt, [grid] = of(live, [Image.new("RGB", (9, 24))])
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
