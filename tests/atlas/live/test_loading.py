"""How checkpoints become models: precision, quantisation, attention, devices, and code that comes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from atlas.edits.edit import Change, Intervention
from atlas.errors import Unsupported, UsageError
from atlas.live.bake.bake import bake
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.load import checkpoints, processors, remote_code
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from ingest import zoo

OFF = Intervention((Change(Neuron("language", 0, 3), gain=0.0), Change(Neuron("language", 1, 9), gain=2.0)), "product")


def off(neuron: int) -> Intervention:
    return Intervention((Change(Neuron("language", 0, neuron), gain=0.0),), "product")


def logits(live: LiveModel, *pictures: Any) -> torch.Tensor:
    with torch.no_grad():
        return live.forward(live.batch([live.encoder.prompt("what is this ?", pictures, "a dog")])).float()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", checkpoints.QUANTIZATIONS)
@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_a_quantised_model_is_traced_and_edited_and_not_baked(bits: str, device: str) -> None:
    pytest.importorskip("bitsandbytes")
    live = LiveModel.load(zoo.resolve("tiny-llava"), quantization=bits, device=device)
    assert "bitsandbytes" in type(live.layout.down[0]).__module__
    plain = logits(live)
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(live.batch([live.encoder.prompt("what is this ?", answer="a dog")]))
    mlp: Any = live.layout.ffns[0]
    down: Any = live.layout.down[0]
    seen: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    most = int(capture.values[0].abs().amax((0, 1)).argmax())
    with changing(live, off(most)):
        edited = logits(live)
    handle.remove()
    # The neurons are the input of the down projection, whatever that multiplies with.
    by_hand = mlp.act_fn(mlp.gate_proj(seen[0])) * mlp.up_proj(seen[0])
    torch.testing.assert_close(capture.values[0], by_hand, atol=1e-3, rtol=1e-2)
    without = capture.values[0].clone()
    without[..., most] = 0
    assert not torch.equal(down(without), down(capture.values[0])) and not torch.equal(edited, plain)
    assert torch.equal(logits(live), plain), "the model is not as it was"
    with pytest.raises(Unsupported, match="quantised"):
        bake(live, OFF)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", checkpoints.QUANTIZATIONS)
@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_weights_of_quantised_layers_are_those_they_multiply_with(bits: str, device: str) -> None:
    """As read before the first call, and after it, when bitsandbytes keeps their scales elsewhere."""
    pytest.importorskip("bitsandbytes")
    live = LiveModel.load(zoo.resolve("tiny-llava"), quantization=bits, device=device)
    mlp: Any = live.layout.ffns[1]
    readers = ((live.layout.write_vectors, mlp.down_proj), (live.layout.keys, mlp.gate_proj))
    before = [read(1) for read, _ in readers]
    close = {"atol": 2e-3, "rtol": 1e-2}  # called, a layer computes in half precision
    for (read, projection), first in zip(readers, before, strict=True):
        # Of a unit vector, and no other, 8 bits keep everything.
        with torch.no_grad():
            multiplied = projection(torch.eye(projection.in_features, device=device)).T
        assert first.shape == multiplied.shape and first.is_floating_point()
        torch.testing.assert_close(first.float(), multiplied, **close)
        torch.testing.assert_close(read(1).float(), multiplied, **close)
    plain = LiveModel.load(zoo.resolve("tiny-llava"), device=device).layout
    for again, whole in ((before[0], plain.write_vectors(1)), (before[1], plain.keys(1))):
        error = float((again.float() - whole).norm() / whole.norm())
        assert 1e-4 < error < (0.02 if bits == "8bit" else 0.15), error


@pytest.mark.filterwarnings("ignore")
def test_of_gill_the_language_model_alone_is_quantised(caplog: pytest.LogCaptureFixture) -> None:
    """Its mapper is a transformer of torch's own, which multiplies with weights without asking its layers."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    live = LiveModel.load(zoo.resolve("tiny-gill"), quantization="8bit")
    plain = LiveModel.load(zoo.resolve("tiny-gill"))
    inside = {n for n, m in live.model.named_modules() if isinstance(m, bitsandbytes.nn.Linear8bitLt)}
    assert inside and all(name.startswith("language_model.model.decoder.layers.") for name in inside)
    states = torch.randn(1, 8, live.layout.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(live.model.prompt_embeds(states), plain.model.prompt_embeds(states))
    logits(live)
    assert not caplog.records, "bitsandbytes tells at every layer how it works"


@pytest.mark.filterwarnings("ignore")
def test_4_bits_on_a_cpu_are_the_same_with_gradients_and_of_any_size(llava_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    live = LiveModel.load(llava_folder, quantization="4bit")  # layers of 16 x 16, too small to be packed
    down: Any = live.layout.down[0]
    values = torch.randn(5, live.layout.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = down(values)
    torch.testing.assert_close(down(values.requires_grad_()).detach(), plain)
    torch.testing.assert_close(values.detach() @ live.layout.write_vectors(0).float().T, plain)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_a_cpu_keeps_in_another_order_are_read_too() -> None:
    """As in a model that was loaded by transformers alone."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    if not bitsandbytes.nn.Linear4bit(64, 32).support_avx512bf16_for_cpu:
        pytest.skip("this CPU has one order only")
    live = LiveModel.load(zoo.resolve("tiny-llava"), quantization="4bit")
    whole = live.layout.write_vectors(0).clone()
    down: Any = live.layout.down[0]
    down.support_avx512bf16_for_cpu = True
    with torch.no_grad():
        down(torch.zeros(1, live.layout.width))
    assert down.weight.quant_state.packing_format_for_cpu
    with tracing(live.layout):
        again = live.layout.write_vectors(0)
    torch.testing.assert_close(again.float(), whole.float(), atol=2e-3, rtol=1e-2)


def test_without_bitsandbytes_it_says_what_to_install(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = checkpoints.importlib.util.find_spec
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda n: None if n == "bitsandbytes" else usual(n))
    with pytest.raises(Unsupported, match="pip install 'neuron-atlas\\[quantization\\]'"):
        LiveModel.load(llava_folder, quantization="8bit")
    with pytest.raises(UsageError, match="no quantization called '3bit'; there are: 8bit, 4bit"):
        LiveModel.load(llava_folder, quantization="3bit")


def test_the_attention_is_what_was_asked_for(llava_folder: Path, picture: Any) -> None:
    usual, eager = LiveModel.load(llava_folder), LiveModel.load(llava_folder, attention="eager")
    assert eager.model.config._attn_implementation == "eager" != usual.model.config._attn_implementation
    torch.testing.assert_close(logits(eager, picture), logits(usual, picture), atol=1e-4, rtol=1e-3)
    with pytest.raises((UsageError, Unsupported), match="Flash"):
        LiveModel.load(llava_folder, attention="flash_attention_2")


def remote(folder: Path, source: Path) -> Path:
    """The random LLaVA's language model, as a checkpoint whose class comes with it."""
    import transformers

    model = transformers.LlavaForConditionalGeneration.from_pretrained(source)
    text = model.config.text_config
    plain = transformers.LlamaForCausalLM(text)
    plain.model.load_state_dict(model.model.language_model.state_dict())
    plain.lm_head.load_state_dict(model.lm_head.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config |= {"auto_map": own, "model_type": "own_llama", "architectures": ["OwnForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own_llama'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\n\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder


@pytest.mark.filterwarnings("ignore")
def test_code_that_comes_with_a_model_runs_only_when_it_is_trusted(
    tmp_path: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = remote(tmp_path / "own", llava_folder)
    with pytest.raises(UsageError, match="comes with code of its own; read it, then use trust_remote_code"):
        LiveModel.load(folder)
    live = LiveModel.load(folder, trust_remote_code=True)
    assert type(live.model).__name__ == "OwnForCausalLM" and live.takes == {"text"}
    batch = live.batch([live.encoder.prompt("what is this ?", answer="a dog")])
    with torch.no_grad(), tracing(live.layout) as capture:
        plain = live.forward(batch)
    mlp: Any = live.layout.ffns[0]
    assert capture.values[0].shape[-1] == live.layout.width == mlp.down_proj.in_features
    with changing(live, OFF), torch.no_grad():
        assert not torch.equal(live.forward(batch), plain)
    assert live.generate([live.encoder.prompt("what is this ?")], max_new_tokens=3)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "abc123"])
def test_code_of_the_hub_is_pinned(revision: str | None) -> None:
    with pytest.raises(UsageError, match="pin it with revision and all 40 hex digits"):
        LiveModel.load("owner/model", trust_remote_code=True, revision=revision)


OTHER = "other/repo--configuration_own.OwnConfig"


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("config.json", {"auto_map": {"AutoConfig": OTHER}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": OTHER}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, OTHER]}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": OTHER}}),
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": OTHER}}}),
    ],
)
def test_code_of_another_repository_is_refused(
    file: str, value: dict[str, Any], tmp_path: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils
    from transformers.utils import hub

    asked: list[str] = []
    monkeypatch.setattr(dynamic_module_utils, "get_cached_module_file", lambda repo, *_, **__: asked.append(repo))
    folder = remote(tmp_path / "own", llava_folder)
    known = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps(known | value))
    match = f"^{file} of .* from another repository, other/repo, which revision does not pin; download other/repo"
    with pytest.raises(UsageError, match=match):
        LiveModel.load(folder, trust_remote_code=True)
    there = {name.name: str(name) for name in folder.iterdir()}
    monkeypatch.setattr(hub, "cached_file", lambda _name, wanted, **_: there.get(wanted))
    with pytest.raises(UsageError, match=match):
        LiveModel.load("owner/model", trust_remote_code=True, revision="0" * 40)
    # The repository itself, by its whole name, is as pinned as without.
    remote_code.check_own_code("other/repo", "0" * 40)
    assert not asked


def test_a_processor_that_cannot_be_made_names_what_is_missing(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    for text, wanted in (
        ("LlavaImageProcessor requires the Torchvision library", "needs torchvision: pip install 'neuron-atlas.torch"),
        ("Package `num2words` is required", "needs num2words: pip install 'neuron-atlas.smolvlm"),
    ):

        def fails(*_: Any, text: str = text, **__: Any) -> None:
            raise ImportError(text)

        monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", fails)
        with pytest.raises(Unsupported, match=wanted):
            LiveModel.load(llava_folder)


def test_a_damaged_processor_does_not_make_a_text_model(tmp_path: Path, llava_folder: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(llava_folder, tmp_path / "damaged"))
    (folder / "processor_config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot load the model"):
        LiveModel.load(folder)
    assert processors.processor_class(checkpoints.read_config(llava_folder, checkpoints.Loading())) is not None


@pytest.mark.parametrize("revision", [None, "main", "c0ffee" + 34 * "0"])
def test_the_commit_of_a_hub_model_is_recorded(
    revision: str | None, tmp_path: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from huggingface_hub import constants

    commit, model = "c0ffee" + 34 * "0", tmp_path / "models--owner--model"
    shutil.copytree(llava_folder, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    live = LiveModel.load("owner/model", revision=revision)
    assert live.revision == commit and live.of_hub
    assert LiveModel.load(llava_folder).revision is None
