"""Official checkpoints of MiniGPT-4 and GILL, in their layout and tiny, become folders that do what the parts do."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def saying(head: Any, tokens: list[int]) -> Iterator[None]:
    """The unembedding says these tokens one after another, and the last one from there on."""
    left = list(tokens)

    def say(_module: Any, _arguments: Any, logits: torch.Tensor) -> torch.Tensor:
        said = torch.zeros_like(logits)
        said[..., left.pop(0) if len(left) > 1 else left[0]] = 100.0
        return said

    handle = head.register_forward_hook(say)
    try:
        yield
    finally:
        handle.remove()


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
    # Of a tokenizer that has but single signs, none ends an answer: "#1" is no end.
    assert convert._separators(llamas()) == []


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


def opts_tokenizer() -> Any:
    """As OPT's, it begins every text with the token that also ends it."""
    from tokenizers import processors

    plain = small_gill.tokenizer()
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    plain.bos_token = "</s>"
    return plain


@pytest.fixture(scope="module")
def gill_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    """A random GILL taken to pieces as it is published. Its mapper has the official four heads."""
    pytest.importorskip("diffusers")
    from transformers import CLIPImageProcessorPil, OPTForCausalLM

    root = tmp_path_factory.mktemp("gill")
    model, _ = small_gill.build(tied=True, heads=4)
    ids = model.config.img_token_ids
    opts_tokenizer().save_pretrained(root / "opt")
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


@pytest.fixture(scope="module")
def converted(gill_parts: tuple[Any, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> LiveModel:
    out = tmp_path_factory.mktemp("converted") / "gill"
    convert.gill(**gill_parts[1], out=out)
    return LiveModel.load(out)


def test_gills_pictures_come_before_the_text_begins(converted: LiveModel) -> None:
    """As the official inference puts them: the picture's vectors, then the text with the tokenizer's first token."""
    encoder, place = converted.encoder, converted.model.config.image_token_id
    official = encoder.tokenizer("what is this ?").input_ids
    assert official[0] == 2 and official.count(2) == 1
    assert list(encoder.prompt("what is this ?", [picture()]).ids) == [place] * 4 + official
    assert list(encoder.prompt("what is this ?", [picture(), picture(1)]).ids) == [place] * 8 + official
    assert list(encoder.prompt("what is this ?").ids) == official
    answered = encoder.prompt("what is this ?", [picture()], "a dog")
    assert list(answered.ids + answered.answer) == [place] * 4 + encoder.tokenizer("what is this ? a dog").input_ids
    batch = converted.batch([encoder.prompt("what is this ?", [picture()])])
    model = converted.model
    with torch.no_grad():
        vectors = torch.cat(
            [model.visual_embeds(batch.inputs["pixel_values"]), model.get_input_embeddings()(torch.tensor([official]))],
            1,
        )
        expected = model.language_model(inputs_embeds=vectors).logits
        torch.testing.assert_close(model(**batch.inputs).logits, expected, atol=1e-5, rtol=1e-4)


def test_an_answer_of_gill_ends_with_its_line(converted: LiveModel) -> None:
    [line] = converted.encoder.tokenizer("\n", add_special_tokens=False).input_ids
    assert converted.model.generation_config.eos_token_id == [2, line]
    prompt = converted.encoder.prompt("what is this ?", [picture()])
    with saying(converted.model.get_output_embeddings(), [20, 30, line, 20]):
        assert converted.generate([prompt], max_new_tokens=9) == [[20, 30]]


def altered(pieces: dict[str, Path], folder: Path, *, table: Any = None, **arguments: Any) -> Path:
    """The official folder with another table of embeddings ("none": without) and other arguments (None: without)."""
    folder.mkdir()
    whole = torch.load(pieces["checkpoint"] / "pretrained_ckpt.pth.tar", weights_only=True)
    for name in (convert.ROWS, f"module.{convert.ROWS}"):
        if isinstance(table, str):
            del whole["state_dict"][name]
        elif table is not None:
            whole["state_dict"][name] = table
    torch.save(whole, folder / "pretrained_ckpt.pth.tar")
    known = json.loads((pieces["checkpoint"] / "model_args.json").read_text()) | arguments
    known = {name: value for name, value in known.items() if value is not None}
    (folder / "model_args.json").write_text(json.dumps(known))
    return folder


def test_other_checkpoints_of_gill_are_read_or_refused(
    gill_parts: tuple[Any, dict[str, Path]], converted: LiveModel, tmp_path: Path
) -> None:
    pieces = gill_parts[1]
    others = {name: pieces[name] for name in ("language", "vision", "diffusion")}
    ids = converted.model.config.img_token_ids
    rows = converted.model.get_input_embeddings().weight[ids]
    count = len(converted.encoder.tokenizer)
    whole = torch.cat([torch.zeros(count - 8, 32), rows])
    first = {"num_tokens": None, "num_gen_tokens": 8, "num_ret_tokens": 8, "text_emb_layers": [-1]}
    for name, one in {
        "first": altered(pieces, tmp_path / "a", **first),
        "unpruned": altered(pieces, tmp_path / "b", table=whole),
    }.items():
        convert.gill(one, **others, out=tmp_path / name)
        found = LiveModel.load(tmp_path / name).model
        assert torch.equal(found.get_input_embeddings().weight[ids], rows), name
    for n, (match, table, arguments) in enumerate(
        [
            ("input_embeddings.weight is none, where these parts need \\(8, 32\\)", "none", {}),
            ("input_embeddings.weight is \\(9, 32\\), where .* give the OPT", torch.zeros(9, 32), {}),
            ("input_embeddings.weight is \\(8, 16\\)", torch.zeros(8, 16), {}),
            ("reads the layers \\[-1, -2\\] \\(text_emb_layers\\)", None, {"text_emb_layers": [-1, -2]}),
            ("another kind of GILL", None, {"num_tokens": None}),
            ("another kind of GILL", None, {"num_tokens": None, "num_gen_tokens": 8, "num_ret_tokens": 4}),
            ("another kind of GILL", None, {"share_ret_gen": False}),
        ]
    ):
        folder = altered(pieces, tmp_path / f"bad{n}", table=table, **arguments)
        with pytest.raises(UsageError, match=match):
            convert.gill(folder, **others, out=tmp_path / "out")


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
    picture().save(tmp_path / "png.pth", "PNG")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"model": Danger()}))
    whole = parts["pretrained_minigpt4.pth"].read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    for name, match in (
        ("danger.pth", "is no checkpoint of tensors alone: it asks to run (builtins.)?print, and was not read"),
        ("pickle.pth", "is no checkpoint of tensors alone"),
        ("cut.pth", "is no checkpoint of tensors alone, or is damaged"),
        ("text.pth", "is not a torch checkpoint; give the file that the authors publish"),
        ("png.pth", "is not a torch checkpoint"),
        (".", "is a folder; give the checkpoint in it"),
        ("none.pth", "there is no file"),
        ("empty.pth", "has nothing under 'model'"),
        ("other.pth", "llama_proj.weight is \\(3, 3\\), where these parts need \\(32, 16\\)"),
    ):
        with pytest.raises(UsageError, match=match) as found:
            convert.minigpt4(tmp_path / name, parts["blip2"], parts["vicuna"], tmp_path / "out")
        assert "weights_only" not in str(found.value), "torch's advice to run what is in the file is not passed on"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        convert.minigpt4(parts["pretrained_minigpt4.pth"], parts["blip2"], parts["vicuna"], tmp_path / "full")
    _, pieces = gill_parts
    with pytest.raises(UsageError, match="no folder of a diffusion pipeline"):
        convert.gill(pieces["checkpoint"], pieces["language"], pieces["vision"], tmp_path, tmp_path / "out")
    assert main(["models", "convert", "llava", "x", "--vision", "x", "--language", "x", "--out", "y"]) == 2
