"""Adapters (LoRA) that lie beside a checkpoint: merged into its weights, so that these say which model it is."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from atlas.errors import Unsupported, UsageError
from atlas.live.load.completeness import tell
from atlas.live.load.remote_code import find_file, read_object

CONFIG = "adapter_config.json"


def check_base(name: str | Path, revision: str | None) -> None:
    """Refuse what is an adapter and nothing else.

    Raises:
        UsageError: it is; the message has the model that it is for.
    """
    found = find_file(name, revision, CONFIG)
    if found is not None and find_file(name, revision, "config.json") is None:
        base = read_object(found).get("base_model_name_or_path") or "a model that it does not name"
        raise UsageError(
            f"'{name}' is an adapter alone, for {base}: copy its {CONFIG} and adapter_model.safetensors into a folder "
            "with that model's files, and give that"
        )


def merged(model: Any, name: str | Path, revision: str | None, *, quantized: bool) -> Any:
    """The model with the adapter that lies beside it in its weights, where there is one; both are said.

    Raises:
        UsageError: the adapter is damaged, or not of this model.
        Unsupported: it is none of those that become weights, or there are none to add it to.
    """
    found = find_file(name, revision, CONFIG)
    if found is None:
        return model
    if importlib.util.find_spec("peft") is None:
        tell(
            f"an adapter ({CONFIG}) lies beside '{name}' and is not loaded: this is the model without it; "
            "with it: pip install 'neuron-atlas[peft]'"
        )
        return model
    kind = str(read_object(found).get("peft_type"))
    if kind != "LORA":
        raise Unsupported(
            f"the adapter beside '{name}' is of the kind {kind}, which does not become weights (LORA does)"
        )
    if quantized:
        raise Unsupported(
            f"an adapter lies beside '{name}', which cannot be added to quantised weights; leave out --quantization, "
            "or move the adapter away"
        )
    made = _merge(model, name, revision)
    tell(f"the adapter beside '{name}' was added to its weights")
    return made


def _merge(model: Any, name: str | Path, revision: str | None) -> Any:
    import peft

    at: dict[str, Any] = {} if Path(name).is_dir() or revision is None else {"revision": revision}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says is looked at here
        around = peft.PeftModel(model, peft.PeftConfig.from_pretrained(str(name), **at))
        said = around.load_adapter(str(name), "default", torch_device="cpu", **at)
        wrong = sorted({*said.missing_keys, *said.unexpected_keys})
        if wrong:
            raise UsageError(
                f"the adapter beside '{name}' is not of this model: {len(wrong):,} of its weights do not match "
                f"({', '.join(wrong[:2])}); give the model that it was trained on"
            )
        return around.merge_and_unload()
