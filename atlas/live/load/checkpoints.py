"""Checkpoints to models: which class, in which precision, on which device, and what is missing for it here."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atlas.errors import Unsupported, UsageError
from atlas.live import families
from atlas.live.chat_template import tell_template
from atlas.live.encode import TokenRoles
from atlas.live.load.adapters import check_base, merged
from atlas.live.load.completeness import check_vocabulary, read_weights, tell_training
from atlas.live.load.load_errors import reading
from atlas.live.load.processors import load_processor
from atlas.live.load.remote_code import check_own

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("8bit", "4bit")
AUTO = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM", "AutoModel")


@dataclass(frozen=True, slots=True)
class Loading:
    """How a checkpoint becomes a model.

    device: "cpu", "cuda", ..., or "auto" for a GPU where there is one. dtype: one of DTYPES or "auto", the
    checkpoint's own. device_map: spread over devices. quantization: one of QUANTIZATIONS, by bitsandbytes. attention:
    HuggingFace's implementation ("sdpa", "eager", ...), by default its own choice. trust_remote_code: run the code
    that lies beside the checkpoint; of a hub id only at a pinned revision, and never another repository's.

    Raises:
        UsageError: an unknown dtype or quantization.
    """

    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    device_map: str | None = None
    quantization: str | None = None
    attention: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in (*DTYPES, "auto"):
            raise UsageError(f"no dtype called '{self.dtype}'; there are: {', '.join(DTYPES)}, auto")
        if self.quantization not in (None, *QUANTIZATIONS):
            raise UsageError(f"no quantization called '{self.quantization}'; there are: {', '.join(QUANTIZATIONS)}")


def read_config(name: str | Path, how: Loading) -> Any:
    """The config of a folder or a hub id.

    Raises:
        UsageError: there is none, or code that is not pinned, or of another repository, was to be trusted.
    """
    import transformers

    if how.trust_remote_code and not Path(name).is_dir() and not re.fullmatch("[0-9a-f]{40}", how.revision or ""):
        raise UsageError("--trust-remote-code runs code of the hub: pin it with --revision and all 40 hex digits")
    if Path(name).is_absolute() and not Path(name).exists():
        raise UsageError(
            f"there is no folder {name}; give a model's folder, its HuggingFace id, or a name of `atlas models`"
        )
    kind = transformers.AutoConfig
    options = {"revision": how.revision, "trust_remote_code": how.trust_remote_code}
    with reading(name):
        check_base(name, how.revision)
        if how.trust_remote_code:
            check_own(name, how.revision)
        try:
            return kind.from_pretrained(name, **options)
        except ValueError as error:
            if "model type `gill`" not in str(error):
                raise
            from atlas.live.draw.gill_model import (
                register,
            )  # a family of this project, which transformers does not know yet

            register()
            return kind.from_pretrained(name, **options)


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a hub id that was loaded, by where its config lies in the cache; None where that does not tell."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(name, "config.json", revision=revision, local_files_only=True)
    except OSError:
        return None
    commit = Path(found).parent.name if found else ""
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else None


def takes(config: Any) -> frozenset[str]:
    """What a model of this config can be shown: "text", and "image", "video", "audio" where it has tokens for them."""
    return frozenset({"text", *TokenRoles(config, None).media_ids})


def load(name: str | Path, how: Loading) -> tuple[Any, Any, Any]:
    """(model, processor, config) of a folder or a hub id.

    Raises:
        UsageError: no such model, or its files are damaged, incomplete or not of one model.
        Unsupported: this machine lacks a device, a package or the memory for it.
    """
    config = read_config(name, how)
    options = _options(how, config)
    # It tells at every 8-bit layer of every pass that its inputs are cast to float16, which is how it works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    with reading(name), quiet():
        model = read_weights(model_class(config), name, revision=how.revision, **options)
        model = merged(model, name, how.revision, quantized=how.quantization is not None)
        processor = load_processor(name, how.revision, config, trust_remote_code=how.trust_remote_code)
        tell_training(name, how.revision)
        tell_template(name, processor)
        tokenizer = getattr(processor, "tokenizer", processor)
        check_vocabulary(name, tokenizer, len(model.get_input_embeddings().weight))
    _keep_order(model)
    if "device_map" not in options:
        model.to(find_device(how.device))
    return model, processor, config


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and none of the libraries' remarks about what they fall back to, while the block lasts."""
    import transformers

    talk = transformers.utils.logging
    before, others = talk.get_verbosity(), logging.getLogger("bitsandbytes")
    level = others.level
    talk.disable_progress_bar()
    talk.set_verbosity_error()
    others.setLevel(logging.ERROR)
    try:
        yield
    finally:
        talk.set_verbosity(before)
        others.setLevel(level)


def _options(how: Loading, config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"dtype": DTYPES.get(how.dtype, "auto")}
    if how.trust_remote_code:
        found["trust_remote_code"] = True
    if how.attention is not None:
        found["attn_implementation"] = how.attention
    if how.device_map is not None:
        _require("accelerate", "spreading a model over devices", "device-map")
        found["device_map"] = how.device_map
    if how.quantization is not None:
        import transformers

        for package in ("accelerate", "bitsandbytes"):
            _require(package, "quantization", "quantization")
        bits: dict[str, Any] = {f"load_in_{how.quantization}": True}
        bits["llm_int8_skip_modules"] = list(families.of(config).unquantised) or None
        found["quantization_config"] = transformers.BitsAndBytesConfig(**bits)
        # A quantised model is placed while it is loaded.
        found.setdefault("device_map", {"": str(find_device(how.device))})
    return found


def _keep_order(model: Any) -> None:
    """Have a CPU compute 4-bit layers, if there are any, alike with gradients and without, in the model's own precision
    and of any size: by itself bitsandbytes takes bfloat16, and another order, where no gradient is wanted."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _require(package: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Unsupported(f"{what} needs {package}: pip install 'neuron-atlas[{extra}]'")


def model_class(config: Any) -> Any:
    """The HuggingFace class that a config was made for."""
    import transformers

    for name in config.architectures or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    own = getattr(config, "auto_map", None) or {}
    return getattr(transformers, next((name for name in AUTO if name in own), AUTO[0]))


def sketch(config: Any, how: Loading) -> Any:
    """A model of this config with untrained weights (inside `torch.device("meta")`, with none)."""
    kind = model_class(config)
    if kind.__name__ in AUTO:
        return kind.from_config(config, trust_remote_code=how.trust_remote_code)
    return kind(config)


def find_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one, else the CPU.

    Raises:
        Unsupported: this machine has no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # not only made: the device "meta" makes tensors without values
    except (RuntimeError, AssertionError) as error:
        raise Unsupported(f"this machine has no device '{device}'; use --device cpu or auto") from error
    return chosen
