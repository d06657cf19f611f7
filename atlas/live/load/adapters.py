"""Adapters (LoRA) beside a checkpoint: merged into its weights, so that these identify the model."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from atlas.errors import Unsupported, UsageError
from atlas.live.load.completeness import warn
from atlas.live.load.remote_code import find_file, read_object

CONFIG = "adapter_config.json"


def check_base(name: str | Path, revision: str | None) -> None:
    """Refuse a folder with an adapter and no model.

    Raises:
        UsageError: it is one; the message has the model that it is for.
    """
    adapter = find_file(name, revision, CONFIG)
    if adapter is not None and find_file(name, revision, "config.json") is None:
        base = read_object(adapter).get("base_model_name_or_path") or "a model that it does not name"
        raise UsageError(
            f"'{name}' is only an adapter, for {base}: copy its {CONFIG} and adapter_model.safetensors into a folder "
            "with that model's files, and give that"
        )


def merge_adapter(model: Any, name: str | Path, revision: str | None, *, quantized: bool) -> Any:
    """The model with the adapter beside it merged into its weights, if there is one; warns that it was or was not.

    Raises:
        UsageError: the adapter is damaged, or not for this model.
        Unsupported: its kind cannot be merged, or the weights are quantised.
    """
    adapter = find_file(name, revision, CONFIG)
    if adapter is None:
        return model
    if importlib.util.find_spec("peft") is None:
        warn(
            f"an adapter ({CONFIG}) is beside '{name}' and was not loaded: this is the model without it; "
            "to load it: pip install 'neuron-atlas[peft]'"
        )
        return model
    kind = str(read_object(adapter).get("peft_type"))
    if kind != "LORA":
        raise Unsupported(
            f"the adapter beside '{name}' is of the kind {kind}, which cannot be merged into weights (LORA can)"
        )
    if quantized:
        raise Unsupported(
            f"an adapter is beside '{name}', which cannot be merged into quantised weights; leave out "
            "[[quantization]], or move the adapter away"
        )
    merged_model = _merge(model, name, revision)
    warn(f"the adapter beside '{name}' was merged into its weights")
    return merged_model


def _merge(model: Any, name: str | Path, revision: str | None) -> Any:
    import peft

    source: dict[str, Any] = {} if Path(name).is_dir() or revision is None else {"revision": revision}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its report is checked here
        wrapped = peft.PeftModel(model, peft.PeftConfig.from_pretrained(str(name), **source))
        report = wrapped.load_adapter(str(name), "default", torch_device="cpu", **source)
        unmatched = sorted({*report.missing_keys, *report.unexpected_keys})
        if unmatched:
            raise UsageError(
                f"the adapter beside '{name}' is not for this model: {len(unmatched):,} of its weights do not match "
                f"({', '.join(unmatched[:2])}); give the model that it was trained on"
            )
        return wrapped.merge_and_unload()
