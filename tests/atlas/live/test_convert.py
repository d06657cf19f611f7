"""The official checkpoint of MiniGPT-4, in its layout and tiny, becomes a folder that does what the parts do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from dictated import picture, saying

from atlas.errors import UsageError
from atlas.live.bake import convert
from atlas.live.model import LiveModel
from cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore")


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


def llamas(*pieces: str) -> Any:
    """A tokenizer that marks spaces as Llama's does, and whose vocabulary has these pieces of "###"."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<pad>", "<s>", "</s>", "\u2581", *"abcdefghijklmnopqrstuvwxyzAHI?:<>/", "#", "\n"]
    known = {piece: i for i, piece in enumerate([*letters, *pieces])}
    merges = {
        "##": ("#", "#"),
        "\u2581#": ("\u2581", "#"),
        "\u2581##": ("\u2581#", "#"),
        "\u2581###": ("\u2581##", "#"),
    }
    raw = Tokenizer(models.BPE(vocab=known, merges=[merges[p] for p in pieces]))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def test_an_answer_of_minigpt4_ends_where_the_demo_ends_it(parts: dict[str, Path], tmp_path: Path) -> None:
    text = llamas("\u2581#", "\u2581##", "\u2581###", "##")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "vicuna").mkdir(exist_ok=True)
        (tmp_path / "vicuna" / name).write_bytes((parts["vicuna"] / name).read_bytes())
    text.save_pretrained(tmp_path / "vicuna")
    one, two, three, rest = text.convert_tokens_to_ids(["\u2581###", "##", "a", "#"])
    assert text("a ###", add_special_tokens=False).input_ids[-1] == one, "the demo's first spelling"
    assert text("a\n###", add_special_tokens=False).input_ids[-2:] == [two, rest], "and its second"
    convert.minigpt4(parts["pretrained_minigpt4.pth"], parts["blip2"], tmp_path / "vicuna", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [2, two, one]
    live = LiveModel.load(tmp_path / "out")
    for shown in ([picture()], []):
        prompt = live.encoder.prompt("what is this?", shown)
        for ends in ([one], [two, rest]):
            with saying(live.model.get_output_embeddings(), [three, three, *ends, three]):
                assert live.generate([prompt], max_new_tokens=9) == [[three, three]], (len(shown), ends)
    # Of a tokenizer that has but single signs, none ends an answer: "#1" is not an end.
    assert convert._separators(llamas()) == []


def test_what_is_no_official_checkpoint_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    class Danger:
        def __reduce__(self) -> Any:
            return (print, ("this must never be printed",))

    torch.save({"model": Danger()}, tmp_path / "danger.pth")
    torch.save({"model": {"llama_proj.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth")
    torch.save({"weights": {}}, tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    picture().save(tmp_path / "png.pth", "PNG")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"model": Danger()}))
    whole = parts["pretrained_minigpt4.pth"].read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    for name, match in (
        ("danger.pth", "is not a checkpoint of tensors alone: it asks to run (builtins.)?print, and was not read"),
        ("pickle.pth", "is not a checkpoint of tensors alone"),
        ("cut.pth", "is not a checkpoint of tensors alone, or is damaged"),
        ("text.pth", "is not a torch checkpoint; give the file that the authors published"),
        ("png.pth", "is not a torch checkpoint"),
        (".", "is a folder; give the checkpoint in it"),
        ("none.pth", "there is no file"),
        ("empty.pth", "has no tensors under 'model'"),
        ("other.pth", "llama_proj.weight is \\(3, 3\\), but these parts need \\(32, 16\\)"),
    ):
        with pytest.raises(UsageError, match=match) as found:
            convert.minigpt4(tmp_path / name, parts["blip2"], parts["vicuna"], tmp_path / "out")
        assert "weights_only" not in str(found.value), "torch's advice to run what is in the file is not passed on"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        convert.minigpt4(parts["pretrained_minigpt4.pth"], parts["blip2"], parts["vicuna"], tmp_path / "full")
    assert main(["models", "convert", "llava", "x", "--vision", "x", "--language", "x", "--out", "y"]) == 2
