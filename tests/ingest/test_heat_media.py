"""Values on videos, recordings and pictures whose tokens have no place, of families of their own."""

from __future__ import annotations

from typing import Any

import families
import numpy as np
import pytest
import torch
from family_checks import medium

from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from ingest.analyse.heat import Look, Seen, look_at
from ingest.analyse.heat_examples import ToShow

pytestmark = pytest.mark.filterwarnings("ignore")
NEURON = Neuron("language", 1, 5)


def looked(live: LiveModel, source: str, media: list[Any]) -> Seen:
    one = ToShow(source, "what is this?", tuple(media), tuple(f"{source} {i}" for i in range(len(media))))
    [seen] = look_at(live, [one], Look([NEURON]), 4, lambda done, total: None)
    return seen


def values_at(live: LiveModel, kind: str, media: list[Any]) -> Any:
    """The neuron's values at the placeholders of a kind, by a pass of its own."""
    prompt = live.encoder.prompt("what is this?", media)
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(live.batch([prompt]))
    places = [i for i, token in enumerate(prompt.ids) if token == live.encoder.role_of.media_ids[kind]]
    return capture.values[1][0, places, 5].numpy()


@pytest.mark.parametrize("name", ["InstructBLIP", "BLIP-2 (Llama)", "BLIP-2 (OPT)", "GILL"])
def test_tokens_without_a_place_are_a_strip_and_that_is_said(name: str) -> None:
    live = LiveModel(*families.build(name), name=name)
    seen = looked(live, "image", medium(live, "image"))
    [panel] = seen.panels
    assert panel.heat is None and panel.iou is None and panel.shown.pixels is not None
    assert np.allclose(panel.values, values_at(live, "image", medium(live, "image")), atol=1e-6) and len(panel.values)
    assert "have no place in the picture" in seen.notes[0] and name in seen.notes[0]


def test_a_video_has_a_panel_for_every_step_of_time_with_a_frame_of_its_own() -> None:
    live = LiveModel(*families.build("Qwen2-VL"), name="Qwen2-VL")
    [clip] = medium(live, "video")
    seen = looked(live, "video", [clip])
    assert [panel.shown.number for panel in seen.panels] == [0, 1] and len(clip.frames) == 4
    for panel, frame in zip(seen.panels, clip.frames[::2], strict=True):
        assert (panel.shown.pixels == np.asarray(frame)).all() and panel.heat.shape == panel.shown.pixels.shape[:2]
    everything = np.concatenate([panel.values for panel in seen.panels])
    assert np.allclose(everything, values_at(live, "video", [clip]), atol=1e-6)


def test_a_recordings_values_go_with_its_samples() -> None:
    live = LiveModel(*families.build("Qwen2-Audio"), name="Qwen2-Audio")
    [sound] = medium(live, "audio")
    [panel] = looked(live, "audio", [sound]).panels
    assert panel.shown.sound is sound and panel.heat is None
    assert np.allclose(panel.values, values_at(live, "audio", [sound]), atol=1e-6) and len(panel.values) > 1


def test_two_pictures_of_one_prompt_are_two_panels() -> None:
    live = LiveModel(*families.build("LLaVA"), name="LLaVA")
    media = medium(live, "image") + medium(live, "image", 1)
    seen = looked(live, "image", media)
    assert [panel.shown.name for panel in seen.panels] == ["image 0", "image 1"]
    assert all((p.shown.pixels == np.asarray(m)).all() for p, m in zip(seen.panels, media, strict=True))
    assert np.allclose(np.concatenate([p.values for p in seen.panels]), values_at(live, "image", media), atol=1e-6)


def test_a_large_picture_is_compared_smaller() -> None:
    live = LiveModel(*families.build("LLaVA"), name="LLaVA")
    from PIL import Image

    one = ToShow("image", "what is this?", (Image.new("RGB", (300, 150)),), ("wide",))
    [seen] = look_at(live, [one], Look([NEURON], side=100), 1, lambda done, total: None)
    assert seen.panels[0].heat.shape == (50, 100) and seen.panels[0].shown.pixels.shape == (50, 100, 3)
