"""Official checkpoints of MiniGPT-4 and GILL, in their layout and tiny, become folders that do what the parts do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import small_gill
import torch
from PIL import Image

from atlas.errors import UsageError
from atlas.live import convert
from atlas.live.model import LiveModel
from cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore")


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A BLIP-2 over OPT, of which the eyes are taken, a Llama, and the projection between them as it is published."""
    root = tmp_path_factory.mktemp("minigpt4")
    model, processor = families.build("BLIP-2 (OPT)")
    model.save_pretrained(root / "blip2")
    processor.save_pretrained(root / "blip2")
    words, tokenizer = families.build("Llama", seed=1)
    words.save_pretrained(root / "vicuna")
    tokenizer.save_pretrained(root / "vicuna")
    torch.manual_seed(2)
    projection = {"llama_proj.weight": torch.randn(32, 16) * 0.3, "llama_proj.bias": torch.randn(32)}
    torch.save({"model": projection, "epoch": 3}, root / "pretrained_minigpt4.pth")
    return {name: root / name for name in ("blip2", "vicuna", "pretrained_minigpt4.pth")}


def test_minigpt4_is_blip2s_eyes_a_projection_and_a_llama(parts: dict[str, Path], tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "out", parts["pretrained_minigpt4.pth"]
    command = ["models", "convert", "minigpt4", str(checkpoint), "--vision", str(parts["blip2"])]
    assert main([*command, "--language", str(parts["vicuna"]), "--out", str(out)]) == 0
    assert {f.suffix for f in out.rglob("*") if f.is_file()} <= {".json", ".safetensors", ".jinja"}
    live = LiveModel.load(out)
    assert type(live.model).__name__ == "Blip2ForConditionalGeneration" and live.takes == {"text", "image"}
    prompt = live.encoder.prompt("what is this?", [picture()], "a dog")
    text = live.encoder.render("what is this?", ["image"])
    assert text == f"###Human: <Img>{'<image>' * 4}</Img> what is this?###Assistant:"
    batch = live.batch([prompt])
    image = batch.roles[0] == 3
    assert int(image.sum()) == 4 and not image[0], "the queries are where the dialogue says"
    # By hand, from the parts.
    eyes, _ = families.build("BLIP-2 (OPT)")
    words, _ = families.build("Llama", seed=1)
    tensors = torch.load(checkpoint, weights_only=True)["model"]
    with torch.no_grad():
        seen = eyes.vision_model(batch.inputs["pixel_values"]).last_hidden_state
        asked = eyes.qformer(query_embeds=eyes.query_tokens, encoder_hidden_states=seen).last_hidden_state
        inputs = asked @ tensors["llama_proj.weight"].T + tensors["llama_proj.bias"]
        ids = batch.inputs["input_ids"].clone()
        vectors = words.get_input_embeddings()(ids)
        vectors[0, image] = inputs[0]
        expected = words(inputs_embeds=vectors).logits
        found = live.model(**batch.inputs).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, atol=1e-4, rtol=1e-3)


def gill_checkpoint(folder: Path, model: Any) -> dict[str, Any]:
    """What the authors' pruning writes of a trained GILL, names with and without what distributed training adds."""
    ids = model.config.img_token_ids
    state = {f"model.gen_text_hidden_fcs.0.{name}": value for name, value in model.mapper.state_dict().items()}
    state |= {f"model.visual_embeddings.{n}": v for n, v in model.visual_projection.state_dict().items()}
    state["model.input_embeddings.weight"] = model.get_input_embeddings().weight[ids].detach().clone()
    state["model.logit_scale"] = torch.tensor(0.07)
    whole = {"state_dict": {**state, **{f"module.{name}": value for name, value in state.items()}}}
    folder.mkdir()
    torch.save(whole, folder / "pretrained_ckpt.pth.tar")
    arguments = {"text_fc_mode": "gill_mapper", "num_tokens": 8, "n_visual_tokens": 4, "share_ret_gen": True}
    (folder / "model_args.json").write_text(json.dumps(arguments))
    return arguments


@pytest.fixture(scope="module")
def gill_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    """A random GILL taken to pieces as it is published. Its mapper has the official four heads."""
    pytest.importorskip("diffusers")
    from transformers import CLIPImageProcessorPil, OPTForCausalLM

    root = tmp_path_factory.mktemp("gill")
    model, _ = small_gill.build(tied=True, heads=4)
    ids = model.config.img_token_ids
    plain = small_gill.tokenizer()
    plain.save_pretrained(root / "opt")
    before = OPTForCausalLM(model.config.text_config)
    before.load_state_dict(model.language_model.state_dict())
    before.resize_token_embeddings(min(ids))  # [IMG0..7] are the last, and not yet there
    before.save_pretrained(root / "opt")
    model.vision_tower.save_pretrained(root / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(root / "clip")
    small_gill.save_pipeline(root / "sd")
    gill_checkpoint(root / "official", model)
    return model, {
        "language": root / "opt",
        "vision": root / "clip",
        "diffusion": root / "sd" / "diffusion",
        "checkpoint": root / "official",
    }


def test_gill_is_put_together_from_what_is_published(gill_parts: tuple[Any, dict[str, Path]], tmp_path: Path) -> None:
    model, parts = gill_parts
    options = [v for name in ("language", "vision", "diffusion") for v in (f"--{name}", str(parts[name]))]
    out = tmp_path / "out"
    assert main(["models", "convert", "gill", str(parts["checkpoint"]), *options, "--out", str(out)]) == 0
    live = LiveModel.load(out)
    text = live.encoder.tokenizer
    assert text.convert_ids_to_tokens(live.model.config.img_token_ids) == list(convert.IMG)
    batch = live.batch([live.encoder.prompt("what is this ?", [picture()])])
    mine, theirs = live.model.config.img_token_ids, model.config.img_token_ids
    assert int((batch.roles[0] == 3).sum()) == 4
    states = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(live.model.prompt_embeds(states), model.prompt_embeds(states))
    pixels = batch.inputs["pixel_values"]
    torch.testing.assert_close(live.model.visual_embeds(pixels), model.visual_embeds(pixels))
    written = torch.tensor([[1, 20, 30, *mine]])
    before = torch.tensor([[1, 20, 30, *theirs]])
    with torch.no_grad():
        torch.testing.assert_close(live.model.imagine(written), model.imagine(before), atol=1e-5, rtol=1e-4)
    assert len(live.drawer.painter.paint(live.model.imagine(written), seeds=[1], steps=1)) == 1


def test_what_is_no_official_checkpoint_is_refused(
    parts: dict[str, Path], gill_parts: tuple[Any, dict[str, Path]], tmp_path: Path
) -> None:
    class Danger:
        def __reduce__(self) -> Any:
            return (print, ("this must never be printed",))

    torch.save({"model": Danger()}, tmp_path / "danger.pth")
    torch.save({"model": {"llama_proj.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth")
    torch.save({"weights": {}}, tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    for name, match in (
        ("danger.pth", "is no checkpoint of tensors alone"),
        ("text.pth", "is no checkpoint of tensors alone"),
        ("none.pth", "there is no file"),
        ("empty.pth", "has nothing under 'model'"),
        ("other.pth", "llama_proj.weight is \\(3, 3\\), where these parts need \\(32, 16\\)"),
    ):
        with pytest.raises(UsageError, match=match):
            convert.minigpt4(tmp_path / name, parts["blip2"], parts["vicuna"], tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        convert.minigpt4(parts["pretrained_minigpt4.pth"], parts["blip2"], parts["vicuna"], tmp_path / "full")
    _, pieces = gill_parts
    with pytest.raises(UsageError, match="no folder of a diffusion pipeline"):
        convert.gill(pieces["checkpoint"], pieces["language"], pieces["vision"], tmp_path, tmp_path / "out")
    assert main(["models", "convert", "llava", "x", "--vision", "x", "--language", "x", "--out", "y"]) == 2
