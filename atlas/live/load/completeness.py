"""Whether a checkpoint has every weight of its model, and other files that decide which model it is.

transformers draws at random whatever weight a checkpoint lacks: another model at every load.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import AtlasWarning, UsageError
from atlas.live.load.fingerprint import STATISTICS, offloaded
from atlas.live.load.remote_code import find_file, read_object

SHOWN = 3
"""How many names of weights a message has."""

WRAPPERS = (
    "save the model itself and not its wrapper (DataParallel: model.module, torch.compile: model._orig_mod, "
    "PEFT: model.merge_and_unload())"
)
OPTIMISER = ("optimizer.pt", "optimizer.bin", "scheduler.pt")
"""Files that an unfinished training leaves beside the weights."""


def is_model(loader: Any) -> bool:
    """Whether a class of transformers loads weights (`read_weights`), and not a processor or a configuration."""
    return hasattr(loader, "base_model_prefix") or loader.__name__.startswith("AutoModel")


def read_weights(
    kind: Any, name: str | Path, *, part: bool = False, unused: tuple[str, ...] = (), **options: Any
) -> Any:
    """`kind.from_pretrained(name, ...)`, without random weights.

    part: the checkpoint holds more than this, so that unused weights are not reported. unused: prefixes of names of
    weights that nothing here reads, which may be missing.

    Raises:
        UsageError: the checkpoint lacks weights, or has them in other shapes.
    """
    # Keeps transformers from loading an adapter unmerged: see `atlas.live.load.adapters`.
    loading_options = {
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
        "adapter_kwargs": {"subfolder": "no-adapter"},
    }
    model, report = kind.from_pretrained(name, **loading_options, **options)
    _check(name, model, report, part=part, unused=unused)
    return model


def _check(
    name: str | Path, model: nn.Module, report: Mapping[str, Any], *, part: bool, unused: tuple[str, ...]
) -> None:
    kind = type(model).__name__
    mismatched = sorted(
        (key, tuple(stored_shape), tuple(config_shape)) for key, stored_shape, config_shape in report["mismatched_keys"]
    )
    if mismatched:
        key, stored_shape, config_shape = mismatched[0]
        more = f", and {len(mismatched) - 1:,} more" if mismatched[1:] else ""
        raise UsageError(
            f"the checkpoint '{name}' is not the {kind} that its config.json describes: {key} is {stored_shape} in "
            f"the weights and {config_shape} in the config{more}; use the config.json that was saved with the weights"
        )
    made_by_class = {n for n, _ in model.named_buffers() if not n.endswith(STATISTICS)}
    missing = sorted(key for key in set(report["missing_keys"]) - made_by_class if not key.startswith(unused))
    unexpected = sorted(report["unexpected_keys"])
    if missing:
        raise UsageError(
            f"the checkpoint '{name}' lacks {len(missing):,} weights of its {kind} ({_first_names(missing)}), which "
            f"would be random, and different at every load; {_remedy(missing, unexpected)}"
        )
    if unexpected and not part:
        warn(
            f"the checkpoint '{name}' has {len(unexpected):,} weights that a {kind} does not have; they are left out "
            f"({_first_names(unexpected)})"
        )


def _remedy(missing: Collection[str], unexpected: list[str]) -> str:
    """What the checkpoint has in place of missing weights, and what to do."""
    prefix = _prefix(missing, unexpected)
    if prefix:
        return f"its own names begin with '{prefix}': {WRAPPERS}"
    if unexpected:
        shown = _first_names(unexpected)
        return (
            f"it has other names instead ({shown}): rename them to the model's, or give the checkpoint another config"
        )
    return "give the whole checkpoint: all of its files, and for a part (a projector, an adapter) the model around it"


def _prefix(missing: Collection[str], unexpected: list[str]) -> str:
    """The prefix of the names in a checkpoint that a wrapper of the model wrote; "" for other checkpoints."""
    parts = unexpected[0].split(".") if unexpected else []
    for count in range(1, len(parts)):
        prefix = "".join(f"{part}." for part in parts[:count])
        bare = [key.removeprefix(prefix) for key in unexpected if key.startswith(prefix)]
        # Older checkpoints have their names without the first part, which transformers adds.
        if len(bare) == len(unexpected) and any(key in missing or f"model.{key}" in missing for key in bare):
            return prefix
    return ""


def _first_names(keys: Collection[str]) -> str:
    return ", ".join(list(keys)[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def warn(text: str) -> None:
    """Warn of a checkpoint, at the line that called the caller's caller."""
    warnings.warn(text, AtlasWarning, stacklevel=4)


def warn_of_unfinished_training(name: str | Path, revision: str | None) -> None:
    """Warn of a checkpoint that was saved before its training ended."""
    state = find_file(name, revision, "trainer_state.json")
    progress = read_object(state)
    step, last = (progress.get(key) for key in ("global_step", "max_steps"))
    if isinstance(step, int) and isinstance(last, int) and step >= last > 0:
        return
    folder = Path(name)
    signs = [state.name] if state is not None else []
    if folder.is_dir():
        signs += [file for file in OPTIMISER if (folder / file).exists()]
        signs += sorted(path.name for path in folder.glob("global_step*") if path.is_dir())
    if signs:
        when = f" at step {step:,} of {last:,}" if isinstance(step, int) and isinstance(last, int) and last > 0 else ""
        warn(
            f"'{name}' was saved in the middle of training{when} ({_first_names(signs)}); the final weights may differ"
        )


def check_vocabulary(name: str | Path, tokenizer: Any, rows: int) -> None:
    """Warn where a tokenizer and the embedding have different sizes: the vocabulary was padded, or resized.

    Raises:
        UsageError: the tokenizer has no words, as transformers makes from a folder without tokenizer files.
    """
    tokens = len(tokenizer)
    if tokens <= len(set(tokenizer.all_special_ids)) + 1:
        raise UsageError(
            f"'{name}' has no tokenizer (tokenizer.json, or tokenizer.model); put the one that "
            "they were trained with beside the weights"
        )
    if tokens < rows:
        warn(f"'{name}' has embeddings of {rows:,} tokens and a tokenizer of {tokens:,}: the others stand for no text")
    if tokens > rows:
        warn(
            f"'{name}' has a tokenizer of {tokens:,} tokens and embeddings of {rows:,}: a prompt with one of the "
            "others is refused; give the tokenizer that the weights were saved with"
        )


@torch.no_grad()
def check_finite(model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite, which would make every result so.

    Raises:
        UsageError: some are; the message names them.
    """
    bounds: dict[torch.device, list[Tensor]] = {}
    named = [(name, p) for name, p in model.named_parameters() if p.is_floating_point() and p.numel()]
    for name, parameter in named:
        weight = offloaded(model, name) if parameter.is_meta else parameter.detach()
        weight = (
            weight.to(torch.bfloat16) if weight.element_size() == 1 else weight
        )  # torch cannot compare one-byte floats
        bounds.setdefault(parameter.device, []).append(torch.stack(weight.aminmax()).float())
    # One transfer for each device, and not one for each weight.
    finite = {device: iter(torch.stack(extremes).isfinite().all(1).tolist()) for device, extremes in bounds.items()}
    bad = [name for name, parameter in named if not next(finite[parameter.device])]
    if bad:
        kinds = sorted({str(parameter.dtype).removeprefix("torch.") for name, parameter in named if name in bad})
        raise UsageError(
            f"the model has weights that are NaN or infinite: {_first_names(bad)} ({len(bad):,} of {len(named):,} "
            f"tensors, {', '.join(kinds)}); use [[dtype=bfloat16]] or float32, or a checkpoint that is not damaged"
        )
