"""Neurons of drawn pictures: where the picture comes from is told by finite differences and by brute force."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_gill import build as build_gill
from small_gill import save_pipeline

from atlas.edits.edit import Change, Intervention
from atlas.errors import Unsupported, UsageError
from atlas.live.draw.drawer import DrawOptions
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from atlas.maintain.check import check
from atlas.neurons import Neuron
from atlas.store.database import open_readonly
from ingest.attribution.estimators import normalised
from ingest.attribution.item import Item
from ingest.data.targets import Target
from ingest.datasets import scenes
from ingest.draw.drawings import Drawings
from ingest.draw.image_trace import ImageTrace, drawn
from ingest.job import Execution, make_job
from ingest.methods import nam_image
from ingest.run.ingest import ingest
from ingest.run.plan import plan
from ingest.run.resolve import complete
from ingest.segmenters import colour, hf, none

pytestmark = pytest.mark.filterwarnings("ignore")
WORLD = scenes.build()
EYES = frozenset({"image", "text"})
TEXTS = ("draw a dog .", "draw a red cat and a dog .")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GILL that answers everything with a picture."""
    pytest.importorskip("diffusers")
    folder = save_pipeline(tmp_path_factory.mktemp("gill"))
    model, processor = build_gill()
    with torch.no_grad():
        head = model.get_output_embeddings()
        decoder = model.get_decoder()
        first = model.config.img_token_ids[0]
        # One constant of the stream says [IMG0], whatever else there is.
        decoder.final_layer_norm.bias[0] += 30
        head.weight[first, 0] = 5
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def live(folder: Path) -> LiveModel:
    return LiveModel.load(folder)


def job_of(**more: Any) -> Any:
    content = {"tasks": ["draw"], "concepts": ["cat", "dog"], "segmenter": "none", "drawing": {"steps": 4, "looks": 2}}
    return complete(make_job({**content, **more}), WORLD, EYES)


def items_of(live: LiveModel, concepts: tuple[tuple[str, ...], ...] = (("dog",), ("cat", "dog"))) -> list[Item]:
    items = []
    for number, (text, names) in enumerate(zip(TEXTS, concepts, strict=True)):
        prompt = live.encoder.prompt(text)
        [answer] = live.generate([prompt], max_new_tokens=9)
        places = live.drawer.places(answer)
        assert places is not None
        targets = tuple(Target(name, place, 1 / len(places)) for name in names for place in places)
        items.append(Item(number, prompt.answered(answer), targets))
    return items


def traced(live: LiveModel, items: list[Item], *, grad: bool = False, drawings: Drawings | None = None) -> ImageTrace:
    drawings = drawings or Drawings(live, WORLD, job_of())
    with drawn(live, items, "text", drawings, layers=None, tap="product", grad=grad) as (trace, missing):
        assert trace is not None and not missing
        return trace


def test_importance_is_the_finite_difference_of_the_energy(live: LiveModel) -> None:
    drawings = Drawings(live, WORLD, job_of())
    how, drawer = drawings.how, live.drawer
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(2, 8, 32, generator=generator)
    pictures = drawer.draw(states, torch.zeros(2, 8), [3, 4], how)
    masks = (torch.rand(2, 16, 16, generator=generator) > 0.5).float()
    found = drawer.importance(states, pictures, masks, how)
    for _ in range(4):
        step = torch.randn(states.shape, generator=generator)
        ahead, behind = (drawer.energy(states + s * step, pictures, masks) for s in (1e-3, -1e-3))
        measured = (ahead - behind) / 2e-3
        torch.testing.assert_close((found * step).sum((1, 2)), measured, rtol=0.02, atol=1e-4)
    # Of one row only, and nothing of it through the other's mask.
    alone = drawer.importance(states, pictures, torch.stack([masks[0], torch.zeros(16, 16)]), how)
    torch.testing.assert_close(alone[0], found[0])
    assert not alone[1].any()


def test_energy_is_what_the_prompt_changes_inside_the_mask(live: LiveModel) -> None:
    """By hand: the diffusion model asked twice, once without a prompt."""
    how, drawer = DrawOptions(steps=4, guidance=2.5, looks=2), live.drawer
    states = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(1))
    pictures = drawer.draw(states, torch.zeros(1, 8), [3], how)
    mask = torch.zeros(1, 16, 16)
    mask[:, :8, :8] = 1
    assert [int(time) for time, _ in pictures.memory] == sorted((int(t) for t, _ in pictures.memory), reverse=True)
    by_hand = []
    for time, latents in pictures.memory:
        unet, pipeline = drawer.painter.pipeline.unet, drawer.painter
        with_prompt = unet(latents, time, encoder_hidden_states=live.model.prompt_embeds(states)).sample
        without = unet(latents, time, encoder_hidden_states=pipeline.encode([""])).sample
        by_hand.append(float(((with_prompt - without) ** 2)[0, :, :4, :4].sum() / 16))
    assert float(drawer.energy(states, pictures, mask)[0]) == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_a_share_is_exact_with_the_norm_and_plain_without(live: LiveModel) -> None:
    """The shares of all neurons of the last layer are what R . h loses without them."""
    items = items_of(live)
    trace = traced(live, items)
    layout = live.layout
    for norm in (True, False):
        found = nam_image.build(norm=norm, weight=0.0).scores(trace)[""]
        by_hand = torch.zeros(2, len(trace.concepts), 64)
        for p, (row, concept) in enumerate(zip(trace.pairs.tolist(), trace.concepts, strict=True)):
            mine = [k for k in range(len(trace.tokens)) if int(trace.pair_of[k]) == p]
            assert len(mine) == 8 and {int(trace.rows[k]) for k in mine} == {row} and concept in ("cat", "dog")
            for k in mine:
                direction = trace.importance[k]
                if norm:
                    x = trace.capture.norm_in[row, trace.positions[k]]
                    scale = 1 / (x.var(unbiased=False) + layout.norm.eps).sqrt()
                    direction = direction * layout.norm.weight * scale
                    direction = direction - direction.mean()
                for layer in range(2):
                    values = trace.capture.values[layer][row, trace.positions[k]]
                    by_hand[layer, p] += values * (direction @ layout.write_vectors(layer)) / 8
        torch.testing.assert_close(found, by_hand / by_hand.abs().amax((0, 2), keepdim=True), rtol=1e-3, atol=1e-5)
    values = torch.stack([trace.to_pairs(trace.at_targets(layer)) for layer in range(2)])
    both = nam_image.build().scores(trace)[""]
    exact = nam_image.build(weight=0.0).scores(trace)[""]
    torch.testing.assert_close(both, torch.maximum(exact, normalised(values)))


def test_the_positions_are_those_of_the_picture_tokens(live: LiveModel) -> None:
    items = items_of(live)
    trace = traced(live, items)
    ids = trace.batch.inputs["input_ids"][trace.rows, trace.positions]
    assert ids.tolist() == trace.tokens.tolist()
    assert set(ids.tolist()) == set(live.model.config.img_token_ids)


def test_what_stands_for_a_logit_is_differentiated_through_the_model(live: LiveModel) -> None:
    """The gradient by a neuron is what R . h changes by, to first order, when its value is nudged."""
    items = items_of(live, (("dog",), ("dog",)))
    trace = traced(live, items, grad=True)
    [(pairs, gradients)] = trace.gradients_of("logit")
    neuron = int(gradients[0][0].abs().sum(0).argmax())
    found = [float(gradients[0][r, :, neuron].sum()) for r in range(2)]
    measured = []
    for step in (1e-2, -1e-2):
        nudged = Intervention((Change(Neuron("language", 0, neuron), bias=step),), "product")
        with changing(live, nudged), torch.no_grad(), tracing(live.layout) as capture:
            live.forward(trace.batch)
        final = capture.norm_out[trace.rows, trace.positions]
        measured.append(trace.to_pairs(trace.outputs(final)))
    slope = (measured[0] - measured[1]) / 2e-2
    assert found == pytest.approx([float(slope[p]) for p in pairs], rel=0.05, abs=1e-4)


def test_a_concept_that_is_not_in_the_picture_is_left_out(live: LiveModel) -> None:
    class Cats:
        def find(self, picture: Any, concept: Any) -> Any:
            return np.ones((picture.height, picture.width), bool) if concept.name == "cat" else None

    drawings = Drawings(live, WORLD, job_of())
    drawings.segmenter = Cats()
    with drawn(live, items_of(live), "text", drawings, layers=None, tap="product", grad=False) as (trace, missing):
        assert trace is not None and trace.concepts == ["cat"] and sorted(missing) == ["dog", "dog"]
    drawings.segmenter = none.build()
    drawings.segmenter.find = lambda picture, concept: None  # type: ignore[method-assign]
    with drawn(live, items_of(live), "text", drawings, layers=None, tap="product", grad=False) as (trace, missing):
        assert trace is None and sorted(missing) == ["cat", "dog", "dog"]


def test_words_and_pictures_in_one_job(folder: Path, empty_atlas: Path) -> None:
    content = {
        "model": str(folder),
        "methods": {"nam_image": {}, "nam_text": {}, "contribution": {}, "gradient_x_activation": {}, "random": {}},
        "concepts": ["cat", "dog"],
        "sources": ["text"],
        "tasks": ["does", "draw"],
        "per_concept": 2,
        "segmenter": "none",
        "drawing": {"steps": 3, "looks": 1},
        "max_new_tokens": 10,
    }
    told = {row["what"]: row["how_much"] for row in plan(make_job(content), Execution())}
    assert told["pictures"] == "4 to draw"
    done = ingest(empty_atlas, make_job(content), Execution(batch_size=2))
    assert not check(empty_atlas)
    with open_readonly(empty_atlas) as connection:
        rows = connection.sql("SELECT DISTINCT method, target FROM maps ORDER BY ALL").fetchall()
        random = connection.execute(
            "SELECT count(DISTINCT s.score) FROM maps m JOIN scores s USING (map_id) "
            "WHERE m.method = 'random' AND s.layer = 0 AND s.neuron = 0"
        ).fetchone()
    assert random[0] == 4, "two concepts, two targets: four draws"
    both = {(m, t) for m in ("contribution", "gradient_x_activation", "random") for t in ("image", "text")}
    assert set(rows) == both | {("nam_image", "image"), ("nam_text", "text")}
    run = json.loads((empty_atlas / "runs" / done.run_id / "manifest.json").read_text())["run"]["job"]
    assert run["drawing"] == {"steps": 3, "guidance": 2.5, "looks": 1, "side": 0} and run["segmenter"] == "none"


def test_pictures_made_of_tokens_are_explained_by_the_unembedding(empty_atlas: Path, tmp_path: Path) -> None:
    """Emu3's shares are those of the tokens inside the region, as contributions to their logits are."""
    import families

    model, processor = families.build("Emu3")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    content = {"model": str(tmp_path), "methods": {"nam_image": {"norm": False, "weight": 0.0}}, "tasks": ["draw"]}
    content |= {"concepts": ["dog"], "sources": ["text"], "per_concept": 2, "segmenter": "none", "reduce": ["mean"]}
    ingest(empty_atlas, make_job({**content, "drawing": {"side": 2}}), Execution())
    with open_readonly(empty_atlas) as connection:
        rows = connection.sql("SELECT layer, neuron, score FROM scores").fetchall()
    stored = np.zeros((2, 64))
    for layer, neuron, score in rows:
        stored[layer, neuron] = score
    live = LiveModel.load(tmp_path)
    job = complete(make_job({**content, "drawing": {"side": 2}}), WORLD, frozenset({"text"}))
    found = []
    for example in WORLD.examples(source="text", split="find", concepts=["dog"], tasks=["draw"], per_concept=2, seed=0):
        prompt = live.encoder.prompt(example.prompt)
        [answer] = live.drawer.answers([prompt], DrawOptions(**job.drawing), 9)
        batch = live.batch([prompt.answered(answer)])
        with torch.no_grad(), tracing(live.layout) as capture:
            live.forward(batch)
        share = torch.zeros(2, 64)
        for place in live.drawer.places(answer) or ():
            at = batch.starts[0] + place - 1
            row = live.layout.unembedding()[answer[place]]
            for layer in range(2):
                share[layer] += capture.values[layer][0, at] * (row @ live.layout.write_vectors(layer))
        found.append(share / share.abs().max())
    assert np.allclose(stored, torch.stack(found).mean(0).numpy(), atol=1e-4)


def test_a_job_without_pictures_keeps_its_id_whatever_the_segmenter() -> None:
    from ingest.run.prepare import collect
    from ingest.run.resolve import resolved, run_id

    ids = set()
    for segmenter in ("none", "colour"):
        job = replace(job_of(tasks=["does"], segmenter=segmenter), sources=("text",))
        ids.add(run_id(resolved(job, WORLD, collect(job, WORLD), {})))
    assert len(ids) == 1


def test_what_cannot_be_drawn_is_said(llava_folder: Path, empty_atlas: Path) -> None:
    content = {"model": str(llava_folder), "concepts": ["dog"], "tasks": ["draw"], "sources": ["text"]}
    with pytest.raises(Unsupported, match="draws no pictures; ask for text"):
        ingest(empty_atlas, make_job({**content, "methods": {"contribution": {}}}), Execution())
    with pytest.raises(UsageError, match="nam_image explains pictures, and no example is answered in pictures"):
        ingest(empty_atlas, make_job({**content, "tasks": ["does"], "methods": {"nam_image": {}}}), Execution())
    with pytest.raises(UsageError, match="nam_text explains words, and no example is answered in words"):
        ingest(empty_atlas, make_job({**content, "methods": {"nam_text": {}}}), Execution())
    with pytest.raises(UsageError, match="no drawing option called 'step'"):
        job_of(drawing={"step": 3})
    with pytest.raises(UsageError, match="looks must be from 1 to the number of steps, 3, not 4"):
        job_of(drawing={"steps": 3, "looks": 4})


# Segmenters


def test_the_things_of_scenes_stand_out_by_colour() -> None:
    overlaps = []
    for number in range(36):
        media = f"held_out/{number}"
        [name] = WORLD.shown(media)
        found = colour.build().find(WORLD.image(media), WORLD.concepts[name])
        mask = WORLD.mask(media, name)
        overlaps.append(0.0 if found is None else float((found & mask).sum() / (found | mask).sum()))
    assert np.median(overlaps) > 0.85 and np.mean(np.array(overlaps) > 0.6) > 0.85, sorted(overlaps)
    assert colour.build().find(WORLD.background("find/0"), WORLD.concepts["dog"]) is None


def test_a_segmentation_model_is_asked_by_its_labels(tmp_path: Path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    torch.manual_seed(0)
    labels = {0: "wall", 1: "dog, domestic dog", 2: "hot dog"}
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
    )
    model = SegformerForSemanticSegmentation(config).eval()
    reader = SegformerImageProcessorPil(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path)
    reader.save_pretrained(tmp_path)
    picture = WORLD.image("find/0").resize((48, 40))
    segmenter = hf.build(model=str(tmp_path), least=0.0)
    logits = model(**reader(images=picture, return_tensors="pt")).logits
    whole = torch.nn.functional.interpolate(logits, size=(40, 48), mode="bilinear", align_corners=False)[0].argmax(0)
    found = segmenter.find(picture, WORLD.concepts["dog"])
    wanted = (whole == 1).numpy()
    assert np.array_equal(found if found is not None else np.zeros_like(wanted), wanted)
    with pytest.raises(UsageError, match="no label for cat; it has wall, dog, domestic dog, hot dog"):
        segmenter.find(picture, WORLD.concepts["cat"])
    with pytest.raises(UsageError, match="needs a model: segmenting='model="):
        hf.build()
    with pytest.raises(UsageError, match="the segmenter hf cannot load the model"):
        hf.build(model=str(tmp_path / "none"))
