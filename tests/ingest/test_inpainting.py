"""Counterfactual pictures: exact ones, filled ones, and what is kept of them on disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atlas.errors import Unsupported, UsageError
from ingest.data.counterfactuals import Counterfactuals, moved_region
from ingest.datasets import scenes
from ingest.job import make_job
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.prepare import collect
from ingest.run.resolve import complete

EYES = frozenset({"image", "text"})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> scenes.Scenes:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return scenes.build()


def _png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, format="PNG")
    return file.getvalue()


def lone(world: scenes.Scenes) -> tuple[str, str]:
    media = next(a for a in world.addresses("find", 50) if len(world.shown(a)) == 2)
    return media, world.shown(media)[0]


def test_the_exact_twin_is_the_worlds_own_counterfactual(world: scenes.Scenes) -> None:
    twins = Counterfactuals(world, "exact", {})
    media, thing = lone(world)
    region = twins.shown(media, thing)
    assert (
        region is not None and twins.shown(media, next(t for t in world.drawn if t not in world.shown(media))) is None
    )
    made = twins.without(media, world.image(media), region)
    assert np.array_equal(np.asarray(made), np.asarray(world.counterfactual(media, thing)))


def test_a_random_region_has_the_same_shape_and_lies_inside() -> None:
    region = np.zeros((20, 30), bool)
    region[3:8, 4:11] = np.random.default_rng(0).random((5, 7)) > 0.3
    region[3, 4] = region[7, 10] = True
    moved = [moved_region(region, seed) for seed in range(30)]
    assert all(m.sum() == region.sum() and m.shape == region.shape for m in moved)
    assert len({m.tobytes() for m in moved}) > 20
    assert not any((m & region).any() for m in moved)  # there is room beside it
    assert np.array_equal(moved[3], moved_region(region, 3))


def test_classical_filling_changes_the_region_and_little_else(world: scenes.Scenes, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    twins = Counterfactuals(world, "classical", {"margin": 1})
    media, thing = lone(world)
    picture, region = world.image(media), world.mask(media, thing)
    made = twins.without(media, picture, region)
    before, after = (np.asarray(p).astype(int) for p in (picture, made))
    exact = np.asarray(world.counterfactual(media, thing)).astype(int)
    changed = (before != after).any(-1)
    assert changed[region].mean() > 0.9 and changed[~region].mean() < 0.2
    # The fill is nearer to what is really behind the thing than the thing is.
    assert np.abs(after - exact)[region].mean() < 0.3 * np.abs(before - exact)[region].mean()
    (file,) = tmp_path.rglob("*.png")
    assert twins.without(media, picture, region, 1).tobytes() != made.tobytes()
    assert len(list(tmp_path.rglob("*.png"))) == 2
    for damaged in (b"half a file", _png(7, 5)):  # made again
        file.write_bytes(damaged)
        assert twins.without(media, picture, region).tobytes() == made.tobytes()
    stamp = file.stat().st_mtime_ns
    assert twins.without(media, picture, region).tobytes() == made.tobytes() and file.stat().st_mtime_ns == stamp


def test_a_classical_option_that_does_not_exist(world: scenes.Scenes) -> None:
    with pytest.raises(UsageError, match="no algorithm called 'magic'"):
        Counterfactuals(world, "classical", {"algorithm": "magic"})


def test_exact_needs_a_dataset_that_knows_what_is_behind(world: scenes.Scenes) -> None:
    class Plain:
        name = "plain"
        mask = world.mask

    media, thing = lone(world)
    with pytest.raises(Unsupported, match="use inpainter='classical'"):
        Counterfactuals(Plain(), "exact", {}).without(media, world.image(media), world.mask(media, thing))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion for inpainting, from its components."""
    pytest.importorskip("diffusers")
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    made = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "background": 2, "<unk>": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="<pad>")
    words.model_max_length = 8
    text = CLIPTextConfig(vocab_size=4, hidden_size=32, intermediate_size=37, num_hidden_layers=1)
    text.num_attention_heads, text.max_position_embeddings = 4, 8
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=9,
        out_channels=4,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
    )
    whole = StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("diffusion")
    whole.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_a_diffusion_pipeline_fills_the_region_and_leaves_the_rest(world: scenes.Scenes, pipeline: Path) -> None:
    options = {"model": str(pipeline), "steps": 2}
    media, thing = lone(world)
    picture, region = world.image(media), world.mask(media, thing)
    made = Counterfactuals(world, "diffusion", options).without(media, picture, region)
    assert made.size == picture.size
    before, after = np.asarray(picture), np.asarray(made)
    assert np.array_equal(before[~region], after[~region])
    assert (before[region] != after[region]).any(-1).mean() > 0.9
    fresh = Counterfactuals(world, "diffusion", options)
    fresh.folder = fresh.folder / "elsewhere"  # not from the disk: the seed alone
    assert fresh.without(media, picture, region).tobytes() == made.tobytes()


@pytest.mark.filterwarnings("ignore")
def test_a_diffusion_pipeline_that_cannot_be_loaded(world: scenes.Scenes, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    media, thing = lone(world)
    with pytest.raises(UsageError, match="needs a pipeline: inpainting='model="):
        Counterfactuals(world, "diffusion", {})
    nowhere = Counterfactuals(world, "diffusion", {"model": str(tmp_path)})
    with pytest.raises(UsageError, match="as an inpainting pipeline"):
        nowhere.without(media, world.image(media), world.mask(media, thing))


def test_the_feed_gives_every_concept_its_twins(world: scenes.Scenes, llava: Any) -> None:
    job = make_job({"methods": {"two_stage": {}}, "concepts": ["cat", "dog"], "tasks": ["caption"], "per_concept": 4})
    job = complete(make_job({**vars(job), "sources": ["image"]}), world, EYES)
    assert job.inpainter == "exact" and job.inpainting == {}
    feed = ExampleEncoder(llava, world, job)
    examples = collect(job, world)
    items = feed.items(list(enumerate(examples)), 4)
    assert len(items) == len(examples) and not feed.skipped.unplaced
    for item in items:
        assert set(item.twins) == {t.concept for t in item.targets}
        for twins in item.twins.values():
            assert len(twins) == 3  # without it, and two random regions
            assert not bool((twins[0].extras["pixel_values"] == item.prompt.extras["pixel_values"]).all())


def test_two_stage_wants_pictures(world: scenes.Scenes) -> None:
    job = make_job({"methods": {"two_stage": {}}, "sources": ["text"]})
    with pytest.raises(UsageError, match="two_stage scores examples with source image; add it to sources"):
        complete(job, world, EYES)
