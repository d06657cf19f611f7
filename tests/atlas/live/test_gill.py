"""GILL: stock behaviour around a model of our own, its picture tokens, its mapper, and its painter."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_gill import IMG, QUERIES, WIDTH, build, save_pipeline
from torch import Tensor

from atlas.edits.edit import Change, Intervention
from atlas.errors import Unsupported, UsageError
from atlas.live.draw import gill_model
from atlas.live.draw.diffusion import Painter
from atlas.live.draw.gill_model import GillConfig, GillForConditionalGeneration, GillProcessor
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.layout import locate
from atlas.live.model import LiveModel
from atlas.neurons import LANGUAGE, Neuron
from atlas.token_roles import ROLES


@pytest.fixture(scope="module")
def built() -> tuple[Any, Any]:
    return build()


def photo(seed: int) -> Image.Image:
    import numpy as np

    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8))


def asked(processor: Any, *texts: str, pictures: int = 0) -> dict[str, Tensor]:
    images = [photo(number) for number in range(pictures)] or None
    made: dict[str, Tensor] = dict(processor(text=list(texts), images=images, padding=True, return_tensors="pt"))
    return made


def leaning(model: Any) -> None:
    """Make [IMG0] the likeliest token everywhere."""
    with torch.no_grad():
        norm = model.get_decoder().final_layer_norm
        torch.nn.init.zeros_(norm.weight)
        torch.nn.init.ones_(norm.bias)
        model.get_output_embeddings().weight[model.config.img_token_ids[0]] = 5.0


@pytest.mark.parametrize("tied", [False, True])
def test_saved_and_loaded_it_gives_the_same_logits(tied: bool, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    model, processor = build(tied)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    for _ in range(2):
        gill_model.register()
    assert isinstance(AutoConfig.from_pretrained(tmp_path), GillConfig)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True).eval()
    reader = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert (type(again), type(reader)) == (GillForConditionalGeneration, GillProcessor)
    reader.tokenizer.padding_side = "left"
    inputs = asked(processor, "USER: <image> what is this ?", "a dog barks", pictures=1)
    read = asked(reader, "USER: <image> what is this ?", "a dog barks", pictures=1)
    assert all(torch.equal(inputs[key], read[key]) for key in inputs)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)
    shared = again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert shared == tied


def test_official_sizes_are_the_defaults() -> None:
    config = GillConfig()
    assert (config.mapper_width, config.mapper_queries, config.prompt_width, config.visual_tokens) == (512, 77, 768, 4)
    assert config.img_token_ids == list(range(50272 - 8, 50272))
    assert GillConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_one_placeholder_becomes_the_visual_tokens_and_takes_the_picture(built: tuple[Any, Any]) -> None:
    model, processor = built
    inputs = asked(processor, "<image> what is this ?", pictures=1)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4
    with torch.no_grad():
        seen = model(**inputs).logits
        other = model(**inputs | {"pixel_values": inputs["pixel_values"].flip(-1)}).logits
    assert not torch.allclose(seen, other)
    with pytest.raises(UsageError, match="1 pictures are 4 visual tokens, but input_ids has 0"):
        model(input_ids=torch.tensor([[5, 6]]), pixel_values=inputs["pixel_values"])
    with pytest.raises(UsageError, match="input_ids"):
        model(inputs_embeds=torch.zeros(1, 4, 32), pixel_values=inputs["pixel_values"])


def test_a_picture_through_the_chat_template(built: tuple[Any, Any]) -> None:
    _, processor = built
    message = [{"role": "user", "content": [{"type": "image", "image": photo(0)}, {"type": "text", "text": "a dog"}]}]
    made = processor.apply_chat_template(
        message, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert (made["input_ids"] == processor.image_token_id).sum() == 4
    assert made["pixel_values"].shape == (1, 3, 8, 8)


@pytest.mark.parametrize("pictures", [0, 2])
def test_generating_with_the_cache_is_generating_without(built: tuple[Any, Any], pictures: int) -> None:
    model, processor = built
    start = "<image>" if pictures else ""
    inputs = asked(processor, f"{start} what is this ?", f"{start} two dogs", pictures=pictures)
    cached = model.generate(**inputs)
    assert torch.equal(cached, model.generate(**inputs, use_cache=False))
    assert cached.shape[1] > inputs["input_ids"].shape[1]


def test_a_row_padded_on_the_left_answers_as_it_does_alone(built: tuple[Any, Any]) -> None:
    model, processor = built
    texts = ("<image> what is this ? describe the picture", "<image> a dog")
    inputs = asked(processor, *texts, pictures=2)
    assert (inputs["attention_mask"] == 0).any()
    together = model.generate(**inputs)
    for i, text in enumerate(texts):
        alone = dict(processor(text=text, images=photo(i), return_tensors="pt"))
        length = alone["input_ids"].shape[1]
        assert model.generate(**alone)[0, length:].tolist() == together[i, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}])
def test_the_first_picture_token_brings_the_seven_others(options: dict[str, Any]) -> None:
    model, processor = build()
    leaning(model)
    inputs = asked(processor, "a dog", "what is this ? a hot dog")
    written = model.generate(**inputs, max_new_tokens=16, **options)[:, inputs["input_ids"].shape[1] :]
    assert written.tolist() == [model.config.img_token_ids * 2] * 2
    assert processor.decode(written[0, :8], skip_special_tokens=True) == "".join(IMG)


def test_no_other_picture_token_is_ever_chosen() -> None:
    model, processor = build()
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.img_token_ids[1:]] = torch.randn(7, 32) * 50
        model.get_output_embeddings().weight[model.config.img_token_ids[0]] = 0
    inputs = asked(processor, "a dog")
    written = model.generate(**inputs, do_sample=True, max_new_tokens=20)
    assert not set(written[0].tolist()) & set(model.config.img_token_ids[1:])
    begun = torch.cat([inputs["input_ids"], torch.tensor([model.config.img_token_ids[:3]])], 1)
    rest = model.generate(input_ids=begun, attention_mask=torch.ones_like(begun), max_new_tokens=5)
    assert rest[0, -5:].tolist() == model.config.img_token_ids[3:]


def test_its_neurons_are_those_of_opt_and_can_be_traced_and_edited(built: tuple[Any, Any]) -> None:
    model, processor = built
    layout = locate(model)
    layers = model.language_model.model.decoder.layers
    assert list(layout.down) == [layer.fc2 for layer in layers]
    assert layout.norm is model.language_model.model.decoder.final_layer_norm
    assert layout.head is model.language_model.lm_head
    live = LiveModel(copy.deepcopy(model), processor, name="gill")
    picture = photo(0)
    batch = live.batch([live.encoder.prompt("what is this ?", [picture], "a dog"), live.encoder.prompt("a dog")])
    assert (batch.roles[0] == ROLES.index("image")).sum() == 4
    with torch.no_grad(), tracing(live.layout) as plain:
        live.forward(batch)
    assert plain.values[1].shape == (*batch.inputs["input_ids"].shape, 64)
    assert (plain.values[1] > 0).any()
    off = Intervention(tuple(Change(Neuron(LANGUAGE, 0, number), gain=0.0) for number in range(64)))
    with torch.no_grad(), changing(live, off), tracing(live.layout) as changed:
        live.forward(batch)
        without = live.ask("what is this ?", [picture], max_new_tokens=8)
    assert not torch.allclose(plain.norm_out, changed.norm_out)
    with torch.no_grad(), tracing(live.layout) as after:
        live.forward(batch)
    assert torch.equal(plain.norm_out, after.norm_out)
    with torch.no_grad():  # with `where` everywhere, an edit is the same as edited weights
        live.layout.down[0].weight.zero_()
    assert live.ask("what is this ?", [picture], max_new_tokens=8) == without


def test_image_states_are_those_at_the_last_pictures_tokens(built: tuple[Any, Any]) -> None:
    model, _ = built
    ids = torch.full((2, 30), 7)
    run = torch.tensor(model.config.img_token_ids)
    ids[0, 3:11] = ids[0, 15:23] = ids[1, 22:30] = run
    hidden = torch.randn(2, 30, 32)
    states = model.image_states(hidden, ids)
    assert torch.equal(states, torch.stack([hidden[0, 15:23], hidden[1, 22:30]]))
    for broken in (ids[:, :29], ids[:, :5], ids.roll(1, 0)[:, :20]):
        with pytest.raises(UsageError, match="\\[IMG0\\] to \\[IMG7\\]"):
            model.image_states(hidden[:, : broken.shape[1]], broken)


def test_image_states_are_behind_the_final_norm(built: tuple[Any, Any]) -> None:
    model, _ = built
    ids = torch.tensor([[5, 6, *model.config.img_token_ids]])
    with torch.no_grad():
        whole = model(input_ids=ids, output_hidden_states=True)
        plain = model.get_decoder()(input_ids=ids).last_hidden_state
    assert torch.equal(model.image_states(whole.hidden_states[-1], ids), plain[:, 2:])


def test_the_mapper_is_what_the_paper_says(built: tuple[Any, Any]) -> None:
    """Step by step: states plus embeddings, a pre-norm transformer with learned queries, a projection."""
    model, _ = built
    mapper = model.mapper
    states = torch.randn(3, 8, 32)
    embeddings = model.get_input_embeddings().weight[model.config.img_token_ids]
    x = mapper.fc(states + embeddings)
    for layer in mapper.tfm.encoder.layers:
        x = x + attend(layer.self_attn, layer.norm1(x), layer.norm1(x))
        x = x + layer.linear2(layer.linear1(layer.norm2(x)).relu())
    memory = mapper.tfm.encoder.norm(x)
    y = mapper.query_embs.expand(3, -1, -1)
    for layer in mapper.tfm.decoder.layers:
        y = y + attend(layer.self_attn, layer.norm1(y), layer.norm1(y))
        y = y + attend(layer.multihead_attn, layer.norm2(y), memory)
        y = y + layer.linear2(layer.linear1(layer.norm3(y)).relu())
    expected = mapper.model(mapper.tfm.decoder.norm(y))
    assert expected.shape == (3, QUERIES, WIDTH)
    torch.testing.assert_close(model.prompt_embeds(states), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model.prompt_embeds(states), expected, rtol=1e-4, atol=1e-4)


def attend(attention: Any, query: Tensor, memory: Tensor) -> Tensor:
    """Multi-head attention from its weights."""
    heads = attention.num_heads
    parts = zip(
        attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), (query, memory, memory), strict=True
    )
    q, k, v = (torch.nn.functional.linear(x, w, b).unflatten(-1, (heads, -1)).transpose(1, 2) for w, b, x in parts)
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    mixed: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return mixed


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tiny random pipeline in it."""
    pytest.importorskip("diffusers")
    return save_pipeline(tmp_path_factory.mktemp("model"))


@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_a_seed_decides_its_picture_in_any_batch(painted: Path) -> None:
    painter = Painter.load(painted)
    parts = (painter.pipeline.unet, painter.pipeline.vae, painter.pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    prompts = torch.randn(3, QUERIES, WIDTH)
    together = painter.paint(prompts, seeds=[5, 6, 7], steps=2)
    assert [picture.size for picture in together] == [(16, 16)] * 3
    for i, seed in enumerate((5, 6, 7)):
        (alone,) = painter.paint(prompts[i : i + 1], seeds=[seed], steps=2)
        assert alone.tobytes() == together[i].tobytes()
    (other,) = painter.paint(prompts[:1], seeds=[6], steps=2)
    assert other.tobytes() != together[0].tobytes()
    assert painter.paint(prompts[:0], seeds=[]) == []
    for seeds, steps in (([1], 2), ([1, 2, 3], 0)):
        with pytest.raises(UsageError):
            painter.paint(prompts, seeds=seeds, steps=steps)


@pytest.mark.filterwarnings("ignore")
def test_guidance_is_against_the_empty_caption(painted: Path) -> None:
    painter = Painter.load(painted)
    empty = painter.encode([""])
    assert empty.shape == (1, QUERIES, WIDTH)
    weak, strong = (painter.paint(empty, seeds=[1], steps=2, guidance=weight)[0] for weight in (1.0, 7.5))
    assert weak.tobytes() == strong.tobytes()
    far = torch.randn_like(empty)
    weak, strong = (painter.paint(far, seeds=[1], steps=2, guidance=weight)[0] for weight in (1.0, 7.5))
    assert weak.tobytes() != strong.tobytes()


def test_a_folder_without_a_pipeline_and_a_machine_without_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(UsageError, match="as a diffusion pipeline"):
        Painter.load(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(Unsupported, match="neuron-atlas\\[diffusion\\]"):
        Painter.load(tmp_path)
