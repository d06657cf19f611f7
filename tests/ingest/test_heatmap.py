"""Heatmaps of a random LLaVA on the small world: against a pass of their own, masks, stored exemplars, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_llava

from atlas import Atlas
from atlas.errors import UsageError
from atlas.live.finite import NotFinite
from atlas.live.hooks import tracing
from atlas.live.layout import locate
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from ingest.analyse.heat import Look, look_at
from ingest.analyse.heat_examples import ToShow, exemplars
from ingest.data.examples import BadMedia
from ingest.datasets import scenes
from ingest.datasets.scenes import Scenes
from ingest.run.generate import open_picture

PICTURE = "scenes:held_out/0"  # shows a dog
POINTER = "held_out/0"


@pytest.fixture(scope="module")
def atlas(stored_atlas: Path) -> Atlas:
    return Atlas.open(stored_atlas)


def own_pass(live: LiveModel, layer: int, neuron: int) -> tuple[Any, Any]:
    """The values of one neuron at every position of the default prompt, and which of these are the picture's."""
    prompt = live.encoder.prompt("what is this?", [open_picture(PICTURE)])
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(live.batch([prompt]))
    token = live.encoder.role_of.media_ids["image"]
    return capture.values[layer][0, :, neuron].numpy(), np.array(prompt.ids) == token


def test_a_row_and_its_panel_are_of_the_pictures_tokens(atlas: Atlas, llava: LiveModel) -> None:
    answer = atlas.heatmap("1/7", image=PICTURE)
    values, of_picture = own_pass(llava, 1, 7)
    [row], [panel] = answer.to_pylist(), answer.panels
    assert answer.neurons == (Neuron("language", 1, 7),)
    assert row["max"] == pytest.approx(values[of_picture].max(), abs=1e-6)
    assert row["mean"] == pytest.approx(values[of_picture].mean(), abs=1e-6)
    assert row["above_zero"] == pytest.approx((values[of_picture] > 0).mean())
    assert np.allclose(panel.values, values[of_picture], atol=1e-6)
    side = round(of_picture.sum() ** 0.5)
    assert panel.heat.shape == panel.shown.pixels.shape[:2] and side > 1
    corners = panel.heat[[0, 0, -1, -1], [0, -1, 0, -1]]  # a map is constant between an outermost centre and the edge
    assert np.allclose(corners, values[of_picture][[0, side - 1, -side, -1]], atol=1e-6)
    assert (panel.shown.pixels == np.asarray(open_picture(PICTURE))).all()
    assert row["iou"] is None and row["pointing"] is None and "random" not in answer.parts


def test_iou_and_pointing_are_of_the_concepts_own_pixels_beside_random_neurons(atlas: Atlas) -> None:
    answer = atlas.heatmap("1/7", image=PICTURE, concept="dog", mask_percentile=80)
    region = scenes.build().mask(POINTER, "dog")
    [row], [panel] = answer.to_pylist(), answer.panels
    assert region.any() and (panel.shown.region == region).all()
    above = panel.heat > np.percentile(panel.heat, 80)
    assert row["iou"] == pytest.approx((above & region).sum() / (above | region).sum(), abs=1e-3)
    assert row["pointing"] == float(region.ravel()[panel.heat.argmax()])
    random = answer.parts["random"]
    assert 10 <= len(random) <= 20 and set(random["layer"].to_pylist()) == {1} and 7 not in random["neuron"].to_pylist()
    assert answer.facts["random_iou"] == pytest.approx(np.mean(random["iou"].to_pylist()), abs=1e-6)
    again = atlas.heatmap("1/7", image=PICTURE, concept="dog", mask_percentile=80)
    other = atlas.heatmap("1/7", image=PICTURE, concept="dog", mask_percentile=80, seed=100)
    assert again.parts["random"] == random != other.parts["random"]
    assert any(" of random neurons of the same layers" in note for note in answer.notes)


def test_a_concepts_best_neurons_have_a_panel_each_and_a_mean(atlas: Atlas) -> None:
    answer = atlas.heatmap(concept="dog", image=PICTURE, top=4, method="activation")
    best = atlas.query("dog", "activation", top=4)
    assert answer.neurons == best.neurons and answer.provenance["maps"] == best.provenance["maps"]
    [mean] = answer.means()
    assert np.allclose(mean.heat, np.mean([panel.heat for panel in answer.panels], 0))
    assert mean.neuron is None and mean.iou == answer.facts["mean_map_iou"]
    assert [panel.neuron for panel in answer[1:3].panels] == list(best.neurons[1:3])
    assert len(answer[:1].means()) == 0
    two = atlas.heatmap(concept="dog", image=[PICTURE, "scenes:held_out/1"], top=2)
    assert two["shown"].to_pylist() == [POINTER] * 2 + ["held_out/1"] * 2 and len(two.means()) == 2


def test_a_concept_may_be_given_by_another_word(atlas: Atlas) -> None:
    named = atlas.heatmap(concept="dog", image=PICTURE, top=2)
    for answer in (
        atlas.heatmap(concept="dogs", image=PICTURE, top=2),
        atlas.heatmap(concept="do*", image=PICTURE, top=2),
    ):
        assert answer.table == named.table and answer.facts["concept"] == "dog"
    alone = atlas.heatmap(named.neurons[0], image=PICTURE, concept="dogs")
    assert alone["iou"].to_pylist() == named["iou"].to_pylist()[:1]
    assert atlas.heatmap("0/1", image=PICTURE, concept="harbour").notes == (
        "scenes has no concept harbour, so there is no IoU on held_out/0",
    )


def test_values_that_are_not_finite_are_refused(llava: LiveModel, picture: Any) -> None:
    one = ToShow("image", "what is this?", (picture,), ("dog.png",))
    model, _ = build_llava()
    with torch.no_grad():
        model.get_decoder().layers[0].mlp.up_proj.weight[3] = torch.inf
    live = object.__new__(LiveModel)
    live.__dict__.update(llava.__dict__)
    live.model, live.layout = model.eval(), locate(model)
    with pytest.raises(NotFinite, match="the neurons of layer 0 of dog.png"):
        list(look_at(live, [one], Look([Neuron("language", 0, 3)]), 1, lambda done, total: None))


def neuron_with(atlas: Atlas, source: str) -> tuple[str, list[dict[str, Any]]]:
    """A neuron with stored exemplars of a source, and these."""
    rows = atlas.sql(f"SELECT layer, neuron FROM exemplars WHERE source = '{source}' AND value > 0.01 LIMIT 1")
    [row] = rows.to_pylist()
    address = f"{row['layer']}/{row['neuron']}"
    return address, atlas.exemplars(address, source=source).to_pylist()


@pytest.mark.parametrize("source", ["image", "text"])
def test_exemplars_are_shown_with_the_values_that_were_stored(atlas: Atlas, source: str) -> None:
    address, stored = neuron_with(atlas, source)
    answer = atlas.heatmap(address, exemplars=3, source=source)
    assert len(answer) == min(3, len(stored)) and not answer.notes
    for panel, expected in zip(answer.panels, stored, strict=False):
        assert panel.shown.stored == (expected["value"], expected["token"])
        if source == "image":
            assert [panel.shown.name] == expected["media"] and panel.heat is not None
        else:
            text = "".join(panel.shown.words)
            assert expected["prompt"].replace(" ", "") in text.replace(" ", "")
            assert float(panel.values.max()) <= expected["value"] + 1e-5, "or where special tokens are"
    [run] = atlas.sql("SELECT run_id FROM runs").to_pylist()
    assert set(answer["run"].to_pylist()) == {run["run_id"]}


def test_files_that_are_gone_are_told_and_the_others_shown(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    address, stored = neuron_with(atlas, "image")
    gone, image = stored[0]["media"][0], Scenes.image

    def without(self: Scenes, media: str) -> Any:
        if media == gone:
            raise BadMedia(f"{media} is missing")
        return image(self, media)

    monkeypatch.setattr(Scenes, "image", without)
    answer = atlas.gallery(address, source="image")
    assert gone not in answer["shown"].to_pylist() and len(answer) == len(stored) - sum(
        e["media"] == [gone] for e in stored
    )
    assert any(f"exemplar 1 ({gone}) cannot be shown: {gone} is missing" in note for note in answer.notes)


def test_a_value_that_is_not_the_stored_one_is_told(stored_atlas: Path, llava: LiveModel) -> None:
    address, _ = neuron_with(Atlas.open(stored_atlas), "image")
    neuron = Neuron.parse(address)
    [one] = exemplars(stored_atlas, neuron, 1, 1, "image").shown
    [seen] = look_at(llava, [replace(one, stored=(99.0, "x"))], Look([neuron]), 1, lambda done, total: None)
    assert "and was 99 when it was stored" in seen.notes[0]
    [seen] = look_at(llava, [one], Look([neuron]), 1, lambda done, total: None)
    assert not seen.notes


def test_a_stored_example_by_its_id(atlas: Atlas) -> None:
    [row] = atlas.sql("SELECT * FROM examples WHERE source = 'image' LIMIT 1").to_pylist()
    answer = atlas.heatmap("0/3", example=row["example_id"][:10], concept=row["concepts"][0])
    assert answer["shown"].to_pylist() == row["media"] and answer["example"].to_pylist() == [row["example_id"]]
    assert answer.facts["iou"] is not None and answer["run"].to_pylist() == [None]
    with pytest.raises(UsageError, match="no stored example's id begins with 'zz'"):
        atlas.heatmap("0/3", example="zz")
    with pytest.raises(UsageError, match=f"several examples' ids begin with '{row['example_id'][0]}'"):
        atlas.heatmap("0/3", example=row["example_id"][0])


def test_words_alone_are_a_strip_of_the_prompts_words(atlas: Atlas) -> None:
    answer = atlas.heatmap("0/3", prompt="what is a dog?")
    [panel] = answer.panels
    assert panel.heat is None and panel.mask is None and panel.iou is None
    assert "".join(panel.shown.words).replace(" ", "") == "whatisadog?" and len(panel.values) == len(panel.shown.words)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": "9/0", "image": PICTURE}, "no neuron 9/0; .* has neurons 0/0 to 1/63"),
        ({"address": "x", "image": PICTURE}, "'x' is not a neuron"),
        ({"address": "vision/0/1", "image": PICTURE}, "of the language model's neurons"),
        ({"image": PICTURE}, "give a neuron, for example 3/117, or a concept"),
        ({"address": "0/1"}, "show one thing: image, audio, video or prompt"),
        ({"address": "0/1", "image": PICTURE, "exemplars": 2}, "show one thing"),
        ({"address": "0/1", "image": PICTURE, "method": "activation"}, "method chooses among a concept's neurons"),
        ({"address": "0/1", "image": PICTURE, "top": 3}, "top chooses among a concept's neurons"),
        ({"address": "0/1", "image": PICTURE, "source": "text"}, "source chooses among a neuron's exemplars"),
        ({"concept": "dog", "exemplars": 2}, "exemplars are of one neuron"),
        ({"address": "0/1", "image": PICTURE, "mask_percentile": 100.0}, "mask_percentile must be from 0 to below 100"),
        ({"address": "0/1", "image": "none.png"}, "there is no picture file none.png; give a file, or DATASET:POINTER"),
        ({"concept": "dgo", "image": PICTURE}, "no stored concept called 'dgo'; did you mean 'dog'"),
    ],
)
def test_bad_input_is_refused_with_what_to_give(atlas: Atlas, given: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, BadMedia), match=message):
        atlas.heatmap(**given)


def test_a_corrupt_picture_is_refused_before_the_model_is_loaded(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8\xff no picture")
    monkeypatch.setattr(LiveModel, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(BadMedia, match="cat.jpg is"):
        atlas.heatmap("0/1", image=str(tmp_path / "cat.jpg"))


def test_a_model_of_other_weights_is_refused(atlas: Atlas, tmp_path: Path) -> None:
    model, processor = build_llava()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    with pytest.raises(
        UsageError, match="the atlas knows no model with the weights of .*other .*it has .*random-llava"
    ):
        atlas.heatmap("0/1", image=PICTURE, model=str(tmp_path / "other"))
    with pytest.raises(UsageError, match="knows no model with the weights"):
        atlas.neuron("0/1").heatmap(PICTURE, model=str(tmp_path / "other"))


def test_a_model_elsewhere_with_the_same_weights_is_taken(atlas: Atlas, tmp_path: Path) -> None:
    model, processor = build_llava()
    model.save_pretrained(tmp_path / "moved")
    processor.save_pretrained(tmp_path / "moved")
    moved = atlas.neuron("1/7").heatmap(PICTURE, model=str(tmp_path / "moved"))
    assert moved.table == atlas.heatmap("1/7", image=PICTURE).table
