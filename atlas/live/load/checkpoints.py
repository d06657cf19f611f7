"""Checkpoints to models: which class, in which precision, on which device, and which packages are missing."""

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
from atlas.live.chat_template import warn_without_template
from atlas.live.encode import TokenRoles
from atlas.live.load.adapters import check_base, merge_adapter
from atlas.live.load.completeness import check_vocabulary, read_weights, warn_of_unfinished_training
from atlas.live.load.gguf_model import find_gguf, load_gguf, parsing_once, read_gguf_config
from atlas.live.load.load_errors import explain_load_errors
from atlas.live.load.processors import load_processor
from atlas.live.load.remote_code import check_own_code

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("8bit", "4bit")
AUTO = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM", "AutoModel")


@dataclass(frozen=True, slots=True)
class Loading:
    """How a checkpoint becomes a model.

    device: "cpu", "cuda", ..., or "auto" for a GPU where there is one. dtype: one of DTYPES or "auto", the
    checkpoint's own. device_map: spread over devices. quantization: one of QUANTIZATIONS, by bitsandbytes. attention:
    HuggingFace's implementation ("sdpa", "eager", ...), by default its own choice. trust_remote_code: run the code
    in the checkpoint; with a hub id only at a pinned revision, and never another repository's.

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


def read_config(name: str | Path, loading: Loading) -> Any:
    """The config of a folder, a GGUF file or a hub id.

    Raises:
        UsageError: there is none, or it needs code that is not pinned or is in another repository.
    """
    import transformers

    if (file := find_gguf(name)) is not None:
        with explain_load_errors(name), quiet():
            return read_gguf_config(file, loading.quantization)
    if (
        loading.trust_remote_code
        and not Path(name).is_dir()
        and not re.fullmatch("[0-9a-f]{40}", loading.revision or "")
    ):
        raise UsageError("[[trust_remote_code]] runs code from the hub: pin it with [[revision]] and all 40 hex digits")
    if Path(name).is_absolute() and not Path(name).exists():
        raise UsageError(
            f"there is no folder {name}; give a model's folder, its HuggingFace id, or a name of `atlas models`"
        )
    kind = transformers.AutoConfig
    options = {"revision": loading.revision, "trust_remote_code": loading.trust_remote_code}
    with explain_load_errors(name):
        check_base(name, loading.revision)
        if loading.trust_remote_code:
            check_own_code(name, loading.revision)
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
    """The commit of a loaded hub id, from its config's path in the cache; None where that does not have it."""
    from transformers.utils.hub import cached_file

    try:
        config_file = cached_file(name, "config.json", revision=revision, local_files_only=True)
    except OSError:
        return None
    commit = Path(config_file).parent.name if config_file else ""
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else None


def takes(config: Any) -> frozenset[str]:
    """What a model of this config can be shown: "text", and "image", "video", "audio" where it has tokens for them."""
    return frozenset({"text", *TokenRoles(config, None).media_ids})


def load(name: str | Path, loading: Loading) -> tuple[Any, Any, Any]:
    """(model, processor, config) of a folder, a GGUF file or a hub id.

    Raises:
        UsageError: no such model, or its files are damaged, incomplete or do not belong together.
        Unsupported: this machine lacks a device, a package or the memory for it.
    """
    with parsing_once(name):
        return _load(name, loading)


def _load(name: str | Path, loading: Loading) -> tuple[Any, Any, Any]:
    config = read_config(name, loading)
    options = _options(loading, config)
    # It reports at every 8-bit layer of every pass that inputs are cast to float16, which is how it works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    with explain_load_errors(name), quiet():
        if (file := find_gguf(name)) is not None:
            options.pop("trust_remote_code", None)  # a GGUF file has no code
            model, processor = load_gguf(file, config, model_class(config), **options)
        else:
            model = read_weights(model_class(config), name, revision=loading.revision, **options)
            model = merge_adapter(model, name, loading.revision, quantized=loading.quantization is not None)
            processor = load_processor(name, loading.revision, config, trust_remote_code=loading.trust_remote_code)
            warn_of_unfinished_training(name, loading.revision)
        warn_without_template(name, processor)
        tokenizer = getattr(processor, "tokenizer", processor)
        check_vocabulary(name, tokenizer, len(model.get_input_embeddings().weight))
    _keep_order(model)
    if "device_map" not in options:
        model.to(find_device(loading.device))
    return model, processor, config


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and the libraries' remarks about fallbacks while the block lasts."""
    import transformers

    hf_logging = transformers.utils.logging
    verbosity, bitsandbytes_log = hf_logging.get_verbosity(), logging.getLogger("bitsandbytes")
    level = bitsandbytes_log.level
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    bitsandbytes_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        bitsandbytes_log.setLevel(level)


def _options(loading: Loading, config: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": DTYPES.get(loading.dtype, "auto")}
    if loading.trust_remote_code:
        options["trust_remote_code"] = True
    if loading.attention is not None:
        options["attn_implementation"] = loading.attention
    if loading.device_map is not None:
        _require("accelerate", "spreading a model over devices", "device-map")
        options["device_map"] = loading.device_map
    if loading.quantization is not None:
        import transformers

        for package in ("accelerate", "bitsandbytes"):
            _require(package, "quantization", "quantization")
        bits: dict[str, Any] = {f"load_in_{loading.quantization}": True}
        bits["llm_int8_skip_modules"] = list(families.of(config).unquantised) or None
        options["quantization_config"] = transformers.BitsAndBytesConfig(**bits)
        # A quantised model is placed while it is loaded.
        options.setdefault("device_map", {"": str(find_device(loading.device))})
    return options


def _keep_order(model: Any) -> None:
    """Make a CPU compute 4-bit layers the same way with and without gradients, in the model's own precision and of any
    size: by default bitsandbytes uses bfloat16, and another order, where no gradient is needed."""
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
    auto_map = getattr(config, "auto_map", None) or {}
    return getattr(transformers, next((name for name in AUTO if name in auto_map), AUTO[0]))


def sketch(config: Any, loading: Loading) -> Any:
    """A model of this config with untrained weights (inside `torch.device("meta")`, without weights)."""
    kind = model_class(config)
    options = {} if loading.attention is None else {"attn_implementation": loading.attention}
    if kind.__name__ in AUTO:
        return kind.from_config(config, trust_remote_code=loading.trust_remote_code, **options)
    return kind._from_config(config, **options) if options else kind(config)


def find_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one, else the CPU.

    Raises:
        Unsupported: this machine has no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # read back, as the device "meta" makes tensors without values
    except (RuntimeError, AssertionError) as error:
        raise Unsupported(f"this machine has no device '{device}'; use [[device=cpu]] or auto") from error
    return chosen
