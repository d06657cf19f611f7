"""Checkpoints that lack weights are refused, however they are loaded; what lies beside them is said."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from atlas.errors import AtlasWarning, Unsupported, UsageError
from atlas.live.bake.convert import _part
from atlas.live.model import LiveModel

Tensors = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"


def changed(source: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(source, folder)
    save_file(change(load_file(source / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def narrow(tensors: Tensors) -> Tensors:
    name = "multi_modal_projector.linear_1.weight"
    return tensors | {name: tensors[name][:-1].clone()}


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "DataParallel": (prefixed("module."), r"lacks 64 weights of its Llava.*its own names begin with 'module.': save"),
    "a compiled model": (prefixed("_orig_mod."), r"begin with '_orig_mod.': save the model itself .*model._orig_mod"),
    "PEFT": (prefixed("base_model.model."), r"begin with 'base_model.': .*merge_and_unload"),
    "a projector in a wrapper": (
        lambda tensors: {("module." if "projector" in n else "") + n: value for n, value in tensors.items()},
        r"lacks 4 weights .*its own names begin with 'module.'",
    ),
    "no projector": (
        without("projector"),
        r"lacks 4 weights of its .* \(model.multi_modal_projector.linear_1.bias, .*which would be random.*whole check",
    ),
    "a renamed projector": (
        lambda tensors: {name.replace("projector", "adapter"): value for name, value in tensors.items()},
        r"lacks 4 weights .*it has other names instead \(multi_modal_adapter.linear_1.bias, ",
    ),
    "no unembedding": (without("lm_head"), r"lacks 1 weights of its .* \(lm_head.weight\)"),
    "one layer less": (without("language_model.model.layers.1."), r"lacks 9 weights of its .*layers.1.input_layernorm"),
    "another shape": (
        narrow,
        r"not the Llava.*linear_1.weight is \(31, 16\) in the weights and \(32, 16\) in the config; use the config",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_weights_that_would_be_random_are_refused(what: str, tmp_path: Path, llava_folder: Path) -> None:
    change, message = WRONG[what]
    with pytest.raises(UsageError, match=message):
        LiveModel.load(changed(llava_folder, tmp_path / "wrong", change))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [{"quantization": "8bit"}, {"quantization": "4bit"}, {"device_map": "cpu"}])
def test_so_they_are_quantised_and_spread_over_devices(how: Any, tmp_path: Path, llava_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder = changed(llava_folder, tmp_path / "wrong", without("projector"))
    with pytest.raises(UsageError, match="lacks 4 weights"):
        LiveModel.load(folder, **how)
    assert LiveModel.load(llava_folder, **how).fingerprint


def test_so_they_are_by_a_hub_id(tmp_path: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit, model = 40 * "a", tmp_path / "models--owner--model"
    changed(llava_folder, model / "snapshots" / commit, prefixed("module."))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="'owner/model' lacks 64 weights"):
        LiveModel.load("owner/model")


def test_so_are_the_parts_that_are_converted(tmp_path: Path, llava_folder: Path) -> None:
    import transformers

    folder = changed(llava_folder, tmp_path / "wrong", without("projector"))
    with pytest.raises(UsageError, match="lacks 4 weights"):
        _part(transformers.LlavaForConditionalGeneration, folder, "the language model")


def test_tied_weights_are_not_missing(tmp_path: Path, opt: LiveModel) -> None:
    opt.model.save_pretrained(tmp_path / "tied")
    opt.encoder.tokenizer.save_pretrained(tmp_path / "tied")
    assert not any("lm_head" in name for name in load_file(tmp_path / "tied" / WEIGHTS))
    with pytest.warns(AtlasWarning, match="chat template"):
        live = LiveModel.load(tmp_path / "tied")
    assert live.fingerprint == opt.fingerprint


def test_weights_that_the_model_does_not_have_are_said(tmp_path: Path, llava_folder: Path) -> None:
    folder = changed(llava_folder, tmp_path / "more", lambda t: t | {"value_head.weight": torch.ones(2)})
    match = r"has 1 weights that a LlavaForConditionalGeneration does not have; they are left out \(value_head.weig"
    with pytest.warns(AtlasWarning, match=match):
        live = LiveModel.load(folder)
    assert live.fingerprint == LiveModel.load(llava_folder).fingerprint


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"trainer_state.json": '{"global_step": 500, "max_steps": 1000}'}, r"at step 500 of 1,000 \(trainer_state"),
        ({"trainer_state.json": '{"global_step": 1000, "max_steps": 1000}', "optimizer.pt": ""}, None),
        ({"trainer_state.json": "{"}, r"middle of training \(trainer_state.json\)"),
        ({"optimizer.pt": "", "scheduler.pt": ""}, r"middle of training \(optimizer.pt, scheduler.pt\)"),
        ({"global_step80/x": ""}, r"middle of training \(global_step80\)"),
    ],
)
def test_a_checkpoint_of_a_training_under_way_is_said(
    files: dict[str, str], said: str | None, tmp_path: Path, llava_folder: Path
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    if said is None:
        LiveModel.load(folder)
        return
    with pytest.warns(AtlasWarning, match=said):
        LiveModel.load(folder)


def resized(folder: Path, random_llava: Any, rows: int) -> Path:
    model, processor = random_llava()
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_vocabulary_of_another_size_than_the_embedding_is_said(tmp_path: Path, random_llava: Any) -> None:
    tokens = len(random_llava()[1].tokenizer)
    with pytest.warns(AtlasWarning, match=f"has embeddings of {tokens + 8} tokens and a tokenizer of {tokens}: the o"):
        LiveModel.load(resized(tmp_path / "padded", random_llava, tokens + 8))
    with pytest.warns(AtlasWarning, match=f"a tokenizer of {tokens} tokens and embeddings of {tokens - 2}: a prompt"):
        live = LiveModel.load(resized(tmp_path / "cut", random_llava, tokens - 2))
    with pytest.raises(UsageError, match="the token 'Ġ.' of 'barks .' has no embedding: give the tokenizer"):
        live.encoder.prompt("barks .")
    assert live.encoder.prompt("describe the picture").ids


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "r": 2, "target_modules": ["down_proj"]}


def test_an_adapter_alone_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="is only an adapter, for owner/base: copy its adapter_config.json and adapt"):
        LiveModel.load(tmp_path)


def test_without_peft_an_adapter_beside_a_model_is_said(
    tmp_path: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    usual = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "peft" else usual(n))
    with pytest.warns(AtlasWarning, match=r"is beside .* and was not loaded: .* pip install 'neuron-atlas\[peft\]'"):
        live = LiveModel.load(folder)
    assert live.fingerprint == LiveModel.load(llava_folder).fingerprint


def adapted(folder: Path, llava_folder: Path, seed: int = 0) -> tuple[Path, torch.Tensor]:
    """The random LLaVA with a LoRA on layer 1's down projection, and the projection that this makes."""
    shutil.copytree(llava_folder, folder)
    config = ADAPTER | {"lora_alpha": 6, "target_modules": r".*language_model.layers.1.mlp.down_proj"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    drawn = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 64, generator=drawn), torch.randn(32, 2, generator=drawn)
    at = "base_model.model.model.language_model.layers.1.mlp.down_proj"
    tensors = {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    plain = load_file(llava_folder / WEIGHTS)["language_model.model.layers.1.mlp.down_proj.weight"]
    return folder, plain + 6 / 2 * b @ a


def test_an_adapter_is_merged_and_its_weights_say_which_model_it_is(tmp_path: Path, llava_folder: Path) -> None:
    pytest.importorskip("peft")
    folder, expected = adapted(tmp_path / "model", llava_folder)
    with pytest.warns(AtlasWarning, match="the adapter beside '.*' was merged into its weights"):
        live = LiveModel.load(folder)
    plain = LiveModel.load(llava_folder)
    torch.testing.assert_close(live.layout.down[1].weight, expected)
    assert torch.equal(live.layout.down[0].weight, plain.layout.down[0].weight)  # type: ignore[arg-type]
    assert type(live.layout.down[1]) is torch.nn.Linear and live.fingerprint != plain.fingerprint
    with pytest.warns(AtlasWarning):
        assert LiveModel.load(folder).fingerprint == live.fingerprint
    other, _ = adapted(tmp_path / "other", llava_folder, seed=1)
    with pytest.warns(AtlasWarning):
        assert LiveModel.load(other).fingerprint != live.fingerprint


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_another_model_or_kind_is_refused(tmp_path: Path, llava_folder: Path) -> None:
    pytest.importorskip("peft")
    folder, _ = adapted(tmp_path / "model", llava_folder)
    with pytest.raises(Unsupported, match="cannot be merged into quantised weights"):
        LiveModel.load(folder, quantization="8bit")
    at = folder / "adapter_model.safetensors"
    tensors = {name.replace("layers.1.", "layers.0."): value for name, value in load_file(at).items()}
    save_file(tensors, at, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="is not for this model: 4 of its weights do not match"):
        LiveModel.load(folder)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | {"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(Unsupported, match="of the kind PROMPT_TUNING, which cannot be merged into weights"):
        LiveModel.load(folder)


def test_a_model_without_weights_is_refused_when_it_is_handed_in(random_llava: Any) -> None:
    model, processor = random_llava()
    with pytest.raises(Unsupported, match="have no values .device 'meta'.; load the model with its weights"):
        LiveModel(model.to("meta"), processor, name="empty")
