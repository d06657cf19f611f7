"""Edits as weights: hooked == baked, restored bit for bit, and a checkpoint that plain transformers loads."""

from __future__ import annotations

import copy
import errno
import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, safe_open, save_file
from small_models import Int8, assert_same, gap, small, state

from atlas.edits import kinds
from atlas.edits.edit import Change, Edit, Intervention, with_deltas
from atlas.edits.positions import Positions
from atlas.errors import AtlasError, IntegrityError, Unsupported, UsageError
from atlas.live.bake.bake import bake
from atlas.live.bake.checkpoint import CARD, UNDO, save_baked, unbake
from atlas.live.edit.apply import changing
from atlas.live.model import LiveModel
from atlas.neurons import GATE, LANGUAGE, Neuron


@pytest.fixture(scope="module")
def models(random_llava: Any, opt: LiveModel) -> dict[str, Any]:
    """Gated, without and with biases; gated with no biases to switch on; plain ones with [B*T] and [B, T] values."""
    llama = {"num_key_value_heads": 2}
    return {
        "llava": random_llava(seed=3)[0],
        "opt": opt.model,
        "neox": small("GPTNeoX"),
        "qwen2": small("Qwen2", **llama),
        "llama_with_biases": small("Llama", mlp_bias=True, **llama),
        "phi": small("Phi"),
    }


NAMES = ("llava", "opt", "neox", "qwen2", "llama_with_biases", "phi")
IDS = torch.tensor([[5, 9, 17, 33, 60, 61], [1, 4, 250, 7, 8, 40]])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS.to(model.device), use_cache=False).logits
    return found


def change(layer: int, index: int, gain: float = 1.0, bias: float = 0.0, **more: Any) -> Change:
    return Change(Neuron(LANGUAGE, layer, index), gain, bias, **more)


def some(seed: int, *, biases: bool) -> Intervention:
    """A random intervention everywhere: gains (a few of 0 and 1), deltas, and constants where asked for."""
    draw = np.random.default_rng(seed)
    cells = draw.choice(128, size=int(draw.integers(1, 40)), replace=False)
    changes, deltas = [], []
    for cell in cells.tolist():
        gain = float(draw.choice([0.0, 1.0, draw.normal(), 2.5]))
        bias = float(draw.normal()) if biases and draw.random() < 0.6 else 0.0
        changes.append(change(cell // 64, cell % 64, gain, bias))
        deltas.append(draw.normal(size=32).astype(np.float32) if draw.random() < 0.5 else None)
    return with_deltas(changes, deltas)


@pytest.mark.parametrize("name", NAMES)
def test_hooked_equals_baked_and_restoring_is_bit_for_bit(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    before, clean = state(model), logits(model)
    config = model.config.to_dict()
    for seed in range(12):
        what = some(seed, biases=name != "qwen2")
        with changing(model, what):
            hooked = logits(model)
        baked = bake(model, what)
        weighted = logits(model)
        baked.restore()
        assert gap(hooked, clean) > 1e-3, "the edit does something"
        assert gap(hooked, weighted) < 3e-6
        assert torch.equal(logits(model), clean)
        assert_same(state(model), before)
        assert model.config.to_dict() == config
        baked.restore()  # a second time does nothing
        assert_same(state(model), before)


@pytest.mark.parametrize("name", ["opt", "neox", "phi"])  # the norms of the others round to float32
def test_in_double_precision_the_two_agree_to_the_last_digits(name: str, models: dict[str, Any]) -> None:
    model = copy.deepcopy(models[name]).double()
    for seed in range(12, 18):
        what = some(seed, biases=True)
        with changing(model, what):
            hooked = logits(model)
        baked = bake(model, what)
        assert gap(hooked, logits(model)) < 1e-13
        baked.restore()


def test_the_columns_and_biases_are_the_formula(models: dict[str, Any]) -> None:
    model = models["opt"]
    down = model.model.decoder.layers[1].fc2
    weight, bias = down.weight.clone(), down.bias.clone()
    delta = np.arange(32, dtype=np.float32) / 7
    baked = bake(model, with_deltas([change(1, 5, -0.5, 2.0), change(1, 9, 3.0)], [delta, None]))
    with_delta = weight[:, 5] + torch.from_numpy(delta)
    assert torch.equal(down.weight[:, 5], -0.5 * with_delta)
    assert torch.equal(down.weight[:, 9], 3 * weight[:, 9])
    assert torch.allclose(down.bias, bias + 2.0 * with_delta, atol=1e-6)
    others = [i for i in range(64) if i not in (5, 9)]
    assert torch.equal(down.weight[:, others], weight[:, others])
    assert baked.neurons == 2 and baked.numbers == 32 + 32 + 32
    assert not baked.switched
    baked.restore()


def test_a_gain_at_the_gate_is_one_at_the_product(models: dict[str, Any]) -> None:
    model = models["llava"]
    gate = replace(some(4, biases=False), tap=GATE)
    with changing(model, gate):
        hooked = logits(model)
    baked = bake(model, gate)
    assert gap(hooked, logits(model)) < 2e-6
    baked.restore()
    with pytest.raises(Unsupported, match="constant at the gate tap.*atlas edit apply"):
        bake(model, replace(some(4, biases=True), tap=GATE))
    plain = replace(some(4, biases=True), tap=GATE)  # an FFN without a gate has one tap
    with changing(models["opt"], plain):
        hooked = logits(models["opt"])
    baked = bake(models["opt"], plain)
    assert gap(hooked, logits(models["opt"])) < 2e-6
    baked.restore()


def test_the_biases_of_a_llama_are_switched_on_in_every_layer_and_off_again(models: dict[str, Any]) -> None:
    model = models["llava"]
    baked = bake(model, Intervention((change(0, 3, 0.0, 1.5),)))
    assert baked.switched and model.config.text_config.mlp_bias is True
    for layer in model.model.language_model.layers:
        assert layer.mlp.config.mlp_bias is True
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            assert projection.bias is not None and projection.bias.requires_grad == projection.weight.requires_grad
    assert not bool(model.model.language_model.layers[0].mlp.gate_proj.bias.any())
    assert bool(model.model.language_model.layers[0].mlp.down_proj.bias.any())
    baked.restore()
    assert model.config.text_config.mlp_bias is False
    assert not [n for n, _ in model.named_parameters() if ".mlp." in n and n.endswith("bias") and "language" in n]


def test_half_precision_is_computed_in_float32_and_rounded_once(random_llava: Any) -> None:
    model = random_llava(seed=3)[0].to(torch.bfloat16)
    down = model.model.language_model.layers[1].mlp.down_proj
    weight = down.weight.clone()
    delta = np.full(32, 1e-3, np.float32)
    baked = bake(model, with_deltas([change(1, 5, 1.1)], [delta]))
    assert torch.equal(down.weight[:, 5], (1.1 * (weight[:, 5].float() + 1e-3)).to(torch.bfloat16))
    baked.restore()
    assert torch.equal(down.weight, weight)
    with pytest.raises(UsageError, match="too large for float16"):
        bake(model.to(torch.float16), Intervention((change(1, 5, 1e6),)))


def test_what_weights_cannot_do_is_refused_and_changes_nothing(models: dict[str, Any], random_llava: Any) -> None:
    llava, qwen = models["llava"], models["qwen2"]
    before = state(llava)
    cases = [
        (change(0, 1, 0.0, where=Positions(("image",))), "acts only where role=image.*atlas edit apply"),
        (change(0, 1, noise=0.5), "draws new noise at every position.*atlas edit apply"),
    ]
    for what, message in cases:
        with pytest.raises(Unsupported, match=message):
            bake(llava, Intervention((change(0, 2, 0.5), what)))
    with pytest.raises(
        Unsupported, match="needs a bias on the down projection of layer 1.*Qwen2ForCausalLM does not have"
    ):
        bake(qwen, Intervention((change(0, 1, 0.5), change(1, 2, 1.0, 0.1))))
    with pytest.raises(UsageError, match="no neuron 0/64"):
        bake(llava, Intervention((change(0, 64, 0.0),)))
    with pytest.raises(UsageError, match="twice"):
        bake(llava, Intervention((change(0, 1, 0.0), change(0, 1, 2.0))))
    assert_same(state(llava), before)
    own, _ = random_llava(seed=5)
    mlp = own.model.language_model.layers[1].mlp
    mlp.down_proj = Int8(mlp.down_proj)
    with pytest.raises(
        Unsupported, match=r"layer 1 is a .*Int8 and not a plain torch.nn.Linear.*or apply it with hooks"
    ):
        bake(own, Intervention((change(1, 1, 0.0),)))
    bake(own, Intervention((change(0, 1, 0.0),))).restore()  # the other layer is plain
    own.is_quantized = True
    with pytest.raises(Unsupported, match="model is quantised"):
        bake(own, Intervention((change(0, 1, 0.0),)))
    with torch.device("meta"):
        empty = type(qwen)(qwen.config)
    with pytest.raises(Unsupported, match="not in memory"):
        bake(empty, Intervention((change(0, 1, 0.0),)))
    shared = small("Qwen2", num_key_value_heads=2)
    shared.model.layers[1].mlp.down_proj.weight = shared.model.layers[0].mlp.down_proj.weight
    with pytest.raises(Unsupported, match="shared with another layer"):
        bake(shared, Intervention((change(0, 1, 0.0),)))


def test_a_config_that_only_names_mlp_bias_is_not_believed(models: dict[str, Any]) -> None:
    model = small("Qwen2", num_key_value_heads=2)
    model.config.mlp_bias = False  # Qwen2's FFN never reads it: the checkpoint would load without its biases
    with pytest.raises(Unsupported, match="needs a bias"):
        bake(model, Intervention((change(0, 1, 0.0, 1.0),)))
    assert model.config.mlp_bias is False and model.model.layers[0].mlp.down_proj.bias is None


def test_an_interrupt_while_the_weights_are_written_puts_them_back(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.live.bake import bake as module

    model, write = models["llava"], module._write
    before, written = state(model), []

    def once(down: Any, *new: Any) -> int:
        if written:
            raise KeyboardInterrupt
        written.append(down)
        return write(down, *new)

    monkeypatch.setattr(module, "_write", once)
    with pytest.raises(KeyboardInterrupt):
        bake(model, Intervention((change(0, 1, 0.0, 2.0), change(1, 2, 0.0, 1.0))))
    assert written
    assert_same(state(model), before)
    assert model.config.text_config.mlp_bias is False


def edit_of(live: LiveModel, intervention: Intervention, name: str = "no-dog") -> Edit:
    model = {"name": live.name, "revision": None, "fingerprint": live.fingerprint, "d_model": live.layout.d_model}
    maps = [{"method": "contribution", "concept": "dog", "source": "text", "model": live.name}]
    origin = {"maps": maps, "fingerprint": live.fingerprint}
    return Edit(
        name, 1, model, "dog", origin, intervention, "2026-11-03T10:00:00+00:00", "the animal,\nnot the sausage"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("biases", [False, True])
def test_a_baked_checkpoint_loads_with_plain_transformers_and_unbakes_bit_for_bit(
    dtype: str, biases: bool, llava_folder: Path, picture: Any, tmp_path: Path
) -> None:
    original = tmp_path / "original"
    LiveModel.load(llava_folder, dtype=dtype).model.save_pretrained(original)
    transformers.AutoProcessor.from_pretrained(llava_folder).save_pretrained(original)
    live = LiveModel.load(original, dtype="auto")
    assert live.dtype == dtype
    before = state(live.model)
    edit = edit_of(live, some(1, biases=biases))
    with changing(live, edit.intervention):
        hooked = logits(live.model)
    baked = save_baked(live, edit, tmp_path / "baked")
    assert_same(state(live.model), before)
    assert (
        baked.numbers > 32
        and baked.neurons == len(edit.neurons)
        and baked.switched is biases
        and live.fingerprint == edit.fingerprint
    )

    loaded = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "baked", dtype="auto").eval()
    assert str(loaded.dtype) == f"torch.{dtype}"
    assert loaded.config.text_config.mlp_bias is biases
    assert gap(hooked, logits(loaded)) < {"float32": 2e-6, "bfloat16": 2e-2}[dtype]
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "baked")
    asked = processor(text=["<image> what"], images=[picture], return_tensors="pt")
    assert bool(loaded.generate(**asked.to(loaded.dtype), max_new_tokens=2, do_sample=False).numel())

    assert unbake(tmp_path / "baked", tmp_path / "again") == "no-dog@1"
    names = sorted(p.name for p in original.iterdir())
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == names
    assert_same(load_file(tmp_path / "again/model.safetensors"), load_file(original / "model.safetensors"))
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (original / name).read_bytes(), name
    assert not list(tmp_path.glob(".*"))


@pytest.mark.filterwarnings("ignore:.*has no chat template")
def test_a_checkpoint_with_tied_embeddings_and_biases_unbakes(opt: LiveModel, tmp_path: Path) -> None:
    edit = edit_of(opt, some(2, biases=True))
    opt.model.save_pretrained(tmp_path / "original")
    baked = save_baked(opt, edit, tmp_path / "baked")
    assert not baked.switched
    unbake(tmp_path / "baked", tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("original", "again"))
    assert_same(first, second)


def test_the_model_card_says_what_was_done(llava: LiveModel, tmp_path: Path) -> None:
    edit = edit_of(llava, Intervention((change(0, 1, 0.0), change(1, 2, 0.0, 0.5))))
    baked = save_baked(llava, edit, tmp_path / "baked")
    card = (tmp_path / "baked" / CARD).read_text(encoding="utf-8")
    with safe_open(tmp_path / "baked" / UNDO, "pt") as handle:
        said = json.loads(handle.metadata()["atlas_edit"])
    assert said["edit"] == "no-dog@1" and said["base"] == llava.fingerprint and said["mlp_bias"] is True
    assert said["baked"] == LiveModel.load(tmp_path / "baked").fingerprint != llava.fingerprint
    assert card.startswith('---\nbase_model: "random-llava"\n')
    shown = (
        *("no-dog@1", "2026-11-03T10:00:00", "neurons chosen by contribution", "**Concept:** dog"),
        *("the animal, not the sausage", f"2 neurons, {baked.numbers} numbers", "mlp_bias", "atlas edit unbake"),
        *(llava.fingerprint, said["baked"]),
    )
    for text in shown:
        assert text in card, text
    solved = replace(edit, provenance={"solver": {"name": "rome"}, "fingerprint": llava.fingerprint})
    save_baked(llava, solved, tmp_path / "solved")
    assert "computed by the solver `rome`" in (tmp_path / "solved" / CARD).read_text(encoding="utf-8")


def test_other_weights_and_an_edit_of_nothing_are_refused(llava: LiveModel, random_llava: Any, tmp_path: Path) -> None:
    edit = edit_of(llava, Intervention((change(0, 1, 0.0),)))
    other = LiveModel(*random_llava(seed=8), name="other")
    with pytest.raises(UsageError, match="no-dog@1 was made for random-llava"):
        save_baked(other, edit, tmp_path / "baked")
    with pytest.raises(UsageError, match="was made for"):
        bake(other.model, edit)
    half = LiveModel(random_llava()[0].to(torch.bfloat16), llava.encoder.processor, name="half")
    slight = edit_of(llava, Intervention((change(0, 1, 1.0001),)))
    with pytest.raises(UsageError, match="changes no weight in bfloat16"):
        save_baked(half, slight, tmp_path / "baked")
    assert not list(tmp_path.iterdir())


def test_folders_with_files_are_never_written_over(llava: LiveModel, tmp_path: Path) -> None:
    edit = edit_of(llava, Intervention((change(0, 1, 0.0),)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for there in (tmp_path / "full", tmp_path / "full/mine.txt"):
        with pytest.raises(UsageError, match="not empty; choose another folder with out"):
            save_baked(llava, edit, there)
        with pytest.raises(UsageError, match="not empty"):
            unbake(tmp_path, there)
    assert [p.name for p in tmp_path.rglob("*.txt")] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    save_baked(llava, edit, tmp_path / "empty")
    assert (tmp_path / "empty" / CARD).is_file()


def test_a_full_disk_leaves_nothing_and_the_model_as_it_was(
    llava: LiveModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = edit_of(llava, Intervention((change(0, 1, 0.0),)))
    before = state(llava.model)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # the weights have half a megabyte
    try:
        with pytest.raises(AtlasError, match="cannot write .*nothing was kept"):
            save_baked(llava, edit, tmp_path / "baked")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(llava.encoder.processor, "save_pretrained", full)
    with pytest.raises(AtlasError, match="No space left on device"):
        save_baked(llava, edit, tmp_path / "baked")
    assert not list(tmp_path.iterdir())
    assert_same(state(llava.model), before)
    (tmp_path / "file").write_text("")
    with pytest.raises(AtlasError, match="cannot write"):
        save_baked(llava, edit, tmp_path / "file" / "baked")


def test_a_baked_folder_that_was_changed_or_damaged_is_not_unbaked(llava: LiveModel, tmp_path: Path) -> None:
    edit = edit_of(llava, Intervention((change(0, 1, 0.0), change(1, 3, 2.0))))
    save_baked(llava, edit, tmp_path / "baked")
    with pytest.raises(UsageError, match="has no atlas_edit.safetensors"):
        unbake(tmp_path, tmp_path / "out")

    def copy_of(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "baked", tmp_path / name))

    trained = copy_of("trained")
    weights = load_file(trained / "model.safetensors")
    weights["multi_modal_projector.linear_1.weight"][0, 0] *= 1 + 2**-20  # far below what a fingerprint sees
    save_file(weights, trained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="are not those that were baked"):
        unbake(trained, tmp_path / "out")
    flipped = copy_of("flipped")
    content = bytearray((flipped / UNDO).read_bytes())
    content[-3] ^= 1  # the lowest bits of one column
    (flipped / UNDO).write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match="its content does not match its checksum"):
        unbake(flipped, tmp_path / "out")
    cut = copy_of("cut")
    (cut / UNDO).write_bytes((cut / UNDO).read_bytes()[:40])
    with pytest.raises(IntegrityError, match="is damaged"):
        unbake(cut, tmp_path / "out")
    foreign = copy_of("foreign")
    save_file({"x": torch.zeros(1)}, foreign / UNDO)
    with pytest.raises(IntegrityError, match="its format is None"):
        unbake(foreign, tmp_path / "out")
    elsewhere = copy_of("elsewhere")
    with safe_open(elsewhere / UNDO, "pt") as handle:
        said = json.loads(handle.metadata()["atlas_edit"])
    header = {"atlas_edit": json.dumps(said | {"exact_base": "0" * 64})}
    save_file(load_file(elsewhere / UNDO), elsewhere / UNDO, metadata=header)
    with pytest.raises(IntegrityError, match="does not restore the base model"):
        unbake(elsewhere, tmp_path / "out")
    half = copy_of("half")
    transformers.LlavaForConditionalGeneration.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    with pytest.raises(IntegrityError, match="are not those that were baked"):
        unbake(half, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_bake_and_unbake(own_atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from atlas import Atlas
    from cli.main import main

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        return (main(["edit", *map(str, arguments)]), *capsys.readouterr())

    atlas = Atlas(own_atlas)
    atlas.create_edit("no-dog", atlas.query("dog", source="text", top=5), kinds.ablate())
    code, out, err = run("bake", "no-dog", "--out", tmp_path / "baked", "--atlas", own_atlas)
    assert (code, out) == (0, f"{tmp_path / 'baked'}\n")
    assert "no-dog@1: 5 neurons, 160 numbers of float32 weights" in err
    live = LiveModel.load(tmp_path / "baked")
    for neuron in atlas.edit("no-dog").data.neurons:
        assert not bool(live.layout.write_vectors(neuron.layer)[:, neuron.index].any())
    code, out, err = run("unbake", tmp_path / "baked", "--out", tmp_path / "again")
    assert (code, out) == (0, f"{tmp_path / 'again'}\n") and "no-dog@1 was taken out" in err
    assert LiveModel.load(tmp_path / "again").fingerprint == atlas.edit("no-dog").data.fingerprint
    code, _, err = run("bake", "no-dog", "--out", tmp_path / "baked", "--atlas", own_atlas)
    assert code == 2 and "not empty" in err
    code, _, err = run("bake", "no-cat", "--out", tmp_path / "other", "--atlas", own_atlas)
    assert code == 2 and "no edit called 'no-cat'" in err
