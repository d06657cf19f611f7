"""photo-vlm: its assembly from published parts, the training of its projector, and what its card says."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import EfficientNetModel, LlamaConfig, LlamaForCausalLM

import ingest.zoo
from atlas.testing.models import tokenizer
from ingest.data.examples import Example, Mention
from ingest.datasets import photos
from ingest.zoo import photo_vlm
from ingest.zoo.train import photo_classes, photo_corpus, photo_measure, photo_projector
from ingest.zoo.train.photo_vlm import class_names

FOLDER = Path(ingest.zoo.__file__).parent / "photo-vlm"


def published() -> dict[str, torch.Tensor]:
    """Random weights under the names that the published file has."""
    torch.manual_seed(0)
    with torch.device("meta"):
        names = EfficientNetModel(photo_vlm.eyes_config()).state_dict()
    outer = {stock: own for own, stock in photo_vlm._OUTER_NAMES.items()}
    inner = {stock: own for own, stock in photo_vlm._BLOCK_NAMES.items()}
    state: dict[str, torch.Tensor] = {"_fc.weight": torch.randn(1000, 1280), "_fc.bias": torch.randn(1000)}
    for name, value in names.items():
        if ".squeeze_excite." in name:
            continue
        for stock, own in [
            *outer.items(),
            *((f"encoder.blocks.{i}.{s}", f"_blocks.{i}.{o}") for i in range(16) for s, o in inner.items()),
        ]:
            if name.startswith(f"{stock}."):
                shape = value.shape
                random = torch.rand(shape) + 0.5 if "running_var" in name else torch.randn(shape) * 0.05
                state[f"{own}.{name.removeprefix(f'{stock}.')}"] = (
                    random if value.is_floating_point() else torch.zeros(shape, dtype=value.dtype)
                )
    return state


def test_the_eyes_have_every_weight_and_open_gates() -> None:
    state = published()
    tower = EfficientNetModel(photo_vlm.eyes_config()).eval()
    tower.load_state_dict(photo_vlm.eyes_state(state), strict=True)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        gated = tower(pixels).last_hidden_state
        for block in tower.encoder.blocks:
            block.squeeze_excite = nn.Identity()
        assert torch.equal(gated, tower(pixels).last_hidden_state)
    assert gated.shape[1] == photo_vlm.FEATURES
    with pytest.raises(ValueError, match="has no weight called _blocks.0._se_reduce.weight"):
        photo_vlm.eyes_state({**state, "_blocks.0._se_reduce.weight": torch.zeros(1)})
    del state["_conv_head.weight"]
    with pytest.raises(ValueError, match="lack encoder.top_conv.weight"):
        photo_vlm.eyes_state(state)


@pytest.fixture(scope="module")
def language() -> tuple[Any, Any]:
    torch.manual_seed(0)
    words = tokenizer()
    words.chat_template = photo_vlm.CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False), words


def shown(*captions: str, seed: int = 0) -> photo_corpus.Shown:
    generator = torch.Generator().manual_seed(seed)
    return photo_corpus.Shown(torch.randn(2, 49, 1280, generator=generator).half(), captions, 1)


def test_captions_in_one_sequence_cost_what_each_costs_alone(language: tuple[Any, Any]) -> None:
    model, words = language
    corpus = [shown("a dog", "two dogs and a cat", "red ."), shown("a cat", "this is what", seed=1)]
    loss = photo_projector.CaptionLoss(model, words, corpus, rare=0.5)
    pictures = torch.randn(2, 49, 32)
    captions = [item.captions[:2] for item in corpus]
    together = float(torch.no_grad()(loss)(pictures, "what is this ?", captions))
    total, weight = 0.0, 0.0
    for row, texts in enumerate(captions):
        for text in texts:
            weights = [loss.weight[t] for t in words(text + words.eos_token, add_special_tokens=False).input_ids]
            total += float(torch.no_grad()(loss)(pictures[row : row + 1], "what is this ?", [[text]])) * sum(weights)
            weight += sum(weights)
    assert together == pytest.approx(total / weight, rel=1e-4)
    assert loss.weight[words("red").input_ids[0]] > loss.weight[words("a").input_ids[0]], "rare tokens count more"


def test_only_the_projector_learns_and_the_loss_falls(language: tuple[Any, Any]) -> None:
    model, words = language
    before = {name: value.clone() for name, value in model.state_dict().items()}
    corpus = [shown("a dog"), shown("a cat", seed=1), shown("red", seed=2), shown("two dogs", seed=3)]
    options = photo_projector.ProjectorOptions(steps=30, batch=2, captions=1, rate=1e-2, warmup=2, unseen=2, judged=10)
    projector = photo_projector.initial(corpus, words, model.get_input_embeddings().weight, options)
    loss = photo_projector.CaptionLoss(model, words, corpus, options.rare)
    judges = [corpus[0], corpus[2]]
    first = photo_projector.judge(projector, loss, judges, options)
    judged = photo_projector.train(projector, loss, corpus, options, 0, lambda line: None)
    assert len(judged) == 4 and judged[0] == pytest.approx(first)
    assert photo_projector.judge(projector, loss, judges, options) == pytest.approx(min(judged)), "the best is kept"
    seen = [corpus[1], corpus[3]]
    fresh = photo_projector.initial(corpus, words, model.get_input_embeddings().weight, options)
    photo_projector.train(fresh, loss, seen, replace(options, unseen=3), 0, lambda line: None)
    assert photo_projector.judge(fresh, loss, seen, options) < photo_projector.judge(
        photo_projector.initial(corpus, words, model.get_input_embeddings().weight, options), loss, seen, options
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    features = torch.randn(3, 49, 1280)
    plain = projector.plain()
    assert torch.allclose(features @ plain["weight"].T + plain["bias"], projector(features), atol=1e-4)


def test_crops_stay_inside_and_captions_are_sentences() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    for seed in range(50):
        crop = photo_corpus.random_crop(picture, 0.1, 0.7, np.random.default_rng(seed))
        assert 1 <= crop.width <= 90 and 1 <= crop.height <= 60
        assert 0.08 <= crop.width * crop.height / (90 * 60) <= 0.75
    assert photo_corpus.sentence("  a dog\nruns . ") == "A dog runs."


def test_names_of_classes_are_read_and_not_run(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(1000)]
    source = f"import nothing_of_this_name\nIMAGENET_CLASSNAMES = {names!r}\n"
    assert class_names(source) == tuple(names)
    with pytest.raises(ValueError, match="no list IMAGENET_CLASSNAMES"):
        class_names("IMAGENET_CLASSNAMES = ['a']")


def test_what_a_class_looks_like_is_the_pattern_and_not_the_filter() -> None:
    """Planted: features are patterns plus correlated noise, and the classifier is the best linear one for them."""
    random = torch.Generator().manual_seed(0)
    size, classes = 60, 6
    patterns = 0.3 * torch.randn(classes, size, generator=random)
    axes = torch.linalg.qr(torch.randn(size, size, generator=random)).Q
    spread = torch.linspace(0.2, 1.0, size)
    labels = torch.arange(20000) % classes
    pooled = patterns[labels] + torch.randn(20000, size, generator=random) * spread @ axes.T + 3
    weight = patterns @ (axes / spread**2) @ axes.T
    looks = photo_classes.Looks(pooled, weight, -(weight @ torch.full((size,), 3.0)) - (weight * patterns).sum(1) / 2)
    centred = patterns - patterns.mean(0)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(looks.directions, centred).min() > 0.9
    assert cosine(weight - weight.mean(0), centred).max() < 0.8
    cells = pooled[:49].clamp(0, 6)
    for label in range(classes):
        made = list(looks.of(label, cells, 0.5, (1.0, 2.0)))
        assert made, "a picture can be made to look like every class"
        for features in made:
            assert features.shape == cells.shape and features.min() >= 0 and features.max() <= 6
            assert int((features.mean(0) @ weight.T + looks._bias).argmax()) == label


def test_classes_have_the_names_that_people_use() -> None:
    names = [f"sort {i}" for i in range(1000)]
    names[207], names[985], names[639] = "Golden Retriever", "daisy", "swimsuit (one piece) / bathing suit"
    plain = photo_classes.plain_names(names)
    assert (plain[207], plain[985], plain[639], plain[281]) == ("dog", "daisy", "swimsuit", "cat")
    ranges = Counter(name for name in plain if not name.startswith("sort"))
    assert ranges["dog"] == 118 and ranges["bird"] == 18 + 21 + 20
    places = [part for ranges in photo_classes.PLAIN_NAMES.values() for part in ranges.split()]
    ends = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in places)]
    covered = [label for first, last in ends for label in range(first, last + 1)]
    assert len(covered) == len(set(covered)) and max(covered) < 1000, "no class has two names"


def test_the_eyes_say_what_they_take_a_crop_for() -> None:
    names = ["Golden Retriever" if i == 207 else "airliner" if i == 404 else f"sort {i}" for i in range(1000)]
    eyes = photo_corpus.Eyes(EfficientNetModel(photo_vlm.eyes_config()), published(), names)
    assert eyes.captions(207)[-2:] == ("A close up of a dog.", "A photo of a Golden Retriever.")
    assert eyes.captions(404)[0] == "A photo of an airplane." and eyes.captions(404)[3] == "An airplane in a photo."
    photographs = [shown("a dog", seed=seed) for seed in range(8)]
    made = list(photo_corpus._made(photographs, eyes, photo_corpus.CorpusOptions(made=1), 0))
    assert all(item.named for item in made) and len({item.captions for item in made}) == len(made)
    dogs = [item.weight for item in made if "A photo of a dog." in item.captions]
    assert all(weight == pytest.approx(118**-0.5) for weight in dogs)


def test_rates_are_counted_beside_those_of_other_photographs() -> None:
    dataset = photos.build()
    example = {
        name: next(
            iter(
                dataset.examples(
                    source="image", split="find", concepts=[name], tasks=["caption"], per_concept=1, seed=0
                )
            )
        )
        for name in ("bear", "toilet")
    }
    examples = list(example.values())
    rates = photo_measure.figures(dataset._photographs, examples, ["A brown bear.", "A bear in a room."])
    assert rates["something shown"] == 0.5 and rates["main object"] == 0.5
    # Handed on by an odd number of places, each photograph gets the other's answer.
    assert rates["something shown of others"] == pytest.approx(0.5)
    assert photo_measure.largest({"person": 9, "dog": 4}, people=True) == "person"
    assert photo_measure.largest({"person": 9, "dog": 4}, people=False) == "dog"
    assert photo_measure.largest({"person": 9}, people=False) is None


def test_hot_dogs_are_no_dogs() -> None:
    dataset = photos.build()
    example = Example("image", "caption", "find", "?", None, (Mention("dog"),), ("images/x.jpg",))
    assert photo_measure.by_class(dataset._photographs, [example] * 5, ["A hot dog."] * 5) == {"dog": (5, 0, 0, 0)}
    assert photo_measure.by_class(dataset._photographs, [example] * 5, ["Two dogs."] * 5) == {"dog": (5, 5, 0, 0)}


def test_the_projector_is_small_and_its_card_has_its_figures() -> None:
    from safetensors.torch import load_file

    file = FOLDER / "projector.safetensors"
    assert file.stat().st_size <= 1_600_000
    state = load_file(file)
    assert {name: tuple(value.shape) for name, value in state.items()} == {"weight": (576, 1280), "bias": (576,)}
    figures = json.loads((FOLDER / "figures.json").read_text())
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("something shown", "main object", "main object, no person"):
        assert f"{100 * figures[name]:.1f} %" in card and f"{100 * figures[f'{name} of others']:.1f} %" in card, name


@pytest.mark.nightly
def test_the_real_model_names_what_its_card_says() -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = ingest.zoo.get("photo-vlm")
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()
    dataset, examples = photo_measure.read(str(photos.FOLDER))
    answers = photo_measure.captions(model, AutoProcessor.from_pretrained(folder), dataset, examples)
    on_the_card = json.loads((FOLDER / "figures.json").read_text())
    for name, rate in photo_measure.figures(dataset, examples, answers).items():
        assert rate == pytest.approx(on_the_card[name], abs=0.02), name
