"""GGUF files as models: the same numbers as the weights they were written from, or one line that says why not."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import build_llama, write_gguf

from atlas.errors import AtlasError, AtlasWarning, Unsupported, UsageError
from atlas.live.load.gguf_header import read_header
from atlas.live.load.gguf_model import find_gguf
from atlas.live.model import LiveModel

TEXT = "what is this ? a dog 12 ."


@pytest.fixture(scope="module")
def llama() -> tuple[Any, Any]:
    return build_llama()


@pytest.fixture(scope="module")
def whole(llama: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", *llama)


def load(place: Path, **options: Any) -> LiveModel:
    """Load without the warning that these models have no chat template."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'.*' has no chat template")
        return LiveModel.load(place, **options)


@pytest.mark.parametrize("tied", [False, True])
def test_unquantised_weights_are_the_same_model(tied: bool, tmp_path: Path) -> None:
    model, tokenizer = build_llama(tie_word_embeddings=tied)
    live = load(write_gguf(tmp_path / "model.gguf", model, tokenizer))
    model.save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    assert live.fingerprint == load(tmp_path / "folder").fingerprint
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    assert live.encoder.tokenizer(TEXT).input_ids == ids[0].tolist()
    with torch.no_grad():
        assert torch.equal(live.model(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_quantised_weights_are_dequantised_and_saved_as_the_same_model(
    kind: str, llama: tuple[Any, Any], tmp_path: Path
) -> None:
    import gguf

    with pytest.warns(AtlasWarning, match=rf"weights of model.gguf are quantised \({kind}\); they are dequantised"):
        live = load(write_gguf(tmp_path / "model.gguf", *llama, kind=kind))
    stored = llama[0].model.layers[1].mlp.down_proj.weight.detach().numpy()
    form = gguf.GGMLQuantizationType[kind]
    numbers = torch.from_numpy(gguf.dequantize(gguf.quantize(stored, form), form))
    assert torch.equal(live.layout.write_vectors(1), numbers)
    assert 0 < (numbers - torch.from_numpy(stored)).abs().max() < 0.2
    live.model.save_pretrained(tmp_path / "folder")
    live.encoder.tokenizer.save_pretrained(tmp_path / "folder")
    folder = load(tmp_path / "folder")
    assert (live.fingerprint, live.configuration) == (folder.fingerprint, folder.configuration)


def test_half_precision_and_other_content_have_their_own_fingerprint(llama: tuple[Any, Any], tmp_path: Path) -> None:
    plain = load(write_gguf(tmp_path / "a.gguf", *llama))
    half = load(write_gguf(tmp_path / "b.gguf", *llama, kind="F16"))  # said to be quantised nowhere
    names = {live.fingerprint for live in (plain, half)}
    other, tokenizer = build_llama()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[3] *= 2
    names.add(load(write_gguf(tmp_path / "c.gguf", other, tokenizer)).fingerprint)
    assert len(names) == 3
    assert plain.dtype == "float32" and load(tmp_path / "a.gguf", dtype="bfloat16").dtype == "bfloat16"


def test_a_folder_means_its_only_gguf_file(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("a model")
    assert find_gguf(folder) is None
    (folder / "one.GGUF").write_bytes(whole.read_bytes())
    assert load(folder).fingerprint == load(whole).fingerprint
    (folder / "two.gguf").write_bytes(whole.read_bytes())
    with pytest.raises(UsageError, match=r"has 2 GGUF files \(one.GGUF, two.gguf\); give one: .*one.GGUF"):
        LiveModel.load(folder)
    (folder / "config.json").write_text("{}")
    assert find_gguf(folder) is None and find_gguf("owner/name") is None


def test_what_is_not_there_or_not_read_is_told(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no file .*none.gguf"):
        LiveModel.load(tmp_path / "none.gguf")
    with pytest.raises(UsageError, match=r"whole.gguf is a GGUF file, which is dequantised .* leave out quantization"):
        LiveModel.load(whole, quantization="4bit")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(Unsupported, match=r"needs gguf: pip install 'neuron-atlas\[gguf\]'"):
        LiveModel.load(whole)


SCALED = {"rope_freqs.weight": np.ones(8)}
REFUSED: dict[str, tuple[dict[str, Any], type[AtlasError], str]] = {
    "another family": (
        {"architecture": "mamba9"},
        Unsupported,
        "architecture 'mamba9', which transformers .* does not",
    ),
    "no language model": ({"architecture": "clip"}, UsageError, "is a vision projector and not a language model"),
    "an adapter": ({"more_texts": {"general.type": "adapter"}}, UsageError, "is of the type 'adapter'"),
    "a part": ({"parts": 3}, UsageError, "is one of 3 parts of a model; join them"),
    "scaled factors": ({"more_tensors": SCALED}, Unsupported, "has scaled rotary positions"),
    "scaled": ({"more_texts": {"llama.rope.scaling.type": "yarn"}}, Unsupported, "has scaled rotary positions"),
    "lacking": ({"leave_out": ("output_norm.weight",)}, UsageError, r"lacks 1 weights of its LlamaForCausalLM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_model_is_refused(name: str, llama: tuple[Any, Any], tmp_path: Path) -> None:
    changes, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as told:
        load(write_gguf(tmp_path / "model.gguf", *llama, **changes))
    assert "\n" not in str(told.value)


def test_weights_that_are_left_out_are_told(llama: tuple[Any, Any], tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", *llama, more_tensors={"blk.0.attn_q.bias": np.ones(32)})
    with pytest.warns(AtlasWarning, match="and its LlamaForCausalLM takes .*; the others are left out"):
        load(file)


def test_digits_are_split_as_in_training(llama: tuple[Any, Any], tmp_path: Path) -> None:
    live = load(write_gguf(tmp_path / "model.gguf", *llama, split="smollm"))
    pieces = live.encoder.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in  1234")
    assert [text for text, _ in pieces] == ["in", "ĠĠ", "1", "2", "3", "4"]
    with pytest.warns(AtlasWarning, match="splits text as 'unheard-of', which is not known here"):
        load(write_gguf(tmp_path / "other.gguf", *llama, split="unheard-of"))
    live.encoder.tokenizer.save_pretrained(tmp_path)  # its tokenizer.json is then taken
    assert load(tmp_path / "other.gguf").encoder.tokenizer("in 12").input_ids


def cut(raw: bytes, share: float) -> bytes:
    return raw[: int(len(raw) * share)]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "its magic alone": lambda raw: raw[:4],
    "cut in the header": lambda raw: raw[:3000],
    "cut in half": lambda raw: cut(raw, 0.5),
    "without its last numbers": lambda raw: raw[:-64],
    "a web page": lambda raw: b"<html>404</html>",
    "zeros": lambda raw: bytes(len(raw)),
    "a huge text": lambda raw: raw[:24] + struct.pack("<Q", 2**62) + raw[32:],
    "too many fields": lambda raw: raw[:16] + struct.pack("<Q", 2**60) + raw[24:],
    "too many tensors": lambda raw: raw[:8] + struct.pack("<Q", 2**60) + raw[16:],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(name: str, whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(DAMAGED[name](whole.read_bytes()))
    with pytest.raises(UsageError, match=r"model.gguf is (damaged or cut|not a GGUF file)") as told:
        LiveModel.load(file)
    assert "\n" not in str(told.value)


def test_a_version_or_kind_of_number_from_the_future_is_refused(whole: Path, tmp_path: Path) -> None:
    raw = bytearray(whole.read_bytes())
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(raw[:4]) + struct.pack("<I", 9) + bytes(raw[8:]))
    with pytest.raises(Unsupported, match="is in version 9 of GGUF"):
        LiveModel.load(file)
    place = raw.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    file.write_bytes(bytes(raw[:place]) + struct.pack("<I", 999) + bytes(raw[place + 4 :]))
    with pytest.raises(Unsupported, match="numbers of kind 999, which the package gguf does not know"):
        LiveModel.load(file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [8, pytest.param(400, marks=pytest.mark.nightly)])
def test_a_flipped_bit_of_the_header_is_told_or_harmless(count: int, whole: Path, tmp_path: Path) -> None:
    raw = whole.read_bytes()
    end = raw.index(b"output_norm.weight") + 60
    draw = np.random.default_rng(0)
    file = tmp_path / "model.gguf"
    for place in draw.integers(0, end, count):
        changed = bytearray(raw)
        changed[place] ^= 1 << int(draw.integers(8))
        file.write_bytes(bytes(changed))
        try:
            live = load(file)
            live.ask("what is this ?", max_new_tokens=2)
        except AtlasError as error:
            assert "\n" not in str(error) and len(str(error)) < 1200, str(error)


def test_the_header_is_read_as_the_gguf_package_reads_it(whole: Path) -> None:
    import gguf

    header, reader = read_header(whole), gguf.GGUFReader(whole)
    assert {name: (t.shape, t.kind) for name, t in header.tensors.items()} == {
        t.name: (tuple(int(size) for size in reversed(t.shape)), t.tensor_type.name) for t in reader.tensors
    }
    assert header.architecture == "llama" and header.fields["llama.context_length"] == 512
    assert header.fields["tokenizer.ggml.tokens"] == len(reader.fields["tokenizer.ggml.tokens"].data)


def test_a_file_is_parsed_once_and_no_bar_is_shown(
    whole: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reader

    parsed: list[object] = []

    class Counting(gguf.GGUFReader):
        def __init__(self, *arguments: object) -> None:
            parsed.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    usual = reader.tqdm
    load(whole)
    load(whole)
    assert len(parsed) == 2 and gguf.GGUFReader is Counting and reader.tqdm is usual
    assert capfd.readouterr().err == ""
