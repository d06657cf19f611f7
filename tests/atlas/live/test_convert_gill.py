"""The official checkpoint of GILL, in its layout and tiny, becomes a folder that does what the parts do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_gill
import torch
from dictated import picture, saying

from atlas.errors import UsageError
from atlas.live.bake import convert
from atlas.live.model import LiveModel
from cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore")


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
            ("input_embeddings.weight is none, but these parts need \\(8, 32\\)", "none", {}),
            ("input_embeddings.weight is \\(9, 32\\), but .* give the OPT", torch.zeros(9, 32), {}),
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
    with pytest.raises(UsageError, match="not a folder of a diffusion pipeline"):
        convert.gill(**pieces | {"diffusion": tmp_path}, out=tmp_path / "out")
