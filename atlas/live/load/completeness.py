"""Whether a checkpoint has every weight of its model, and what lies beside it that decides which model it is.

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
from atlas.live.load.fingerprint import offloaded
from atlas.live.load.remote_code import find_file, read_object

SHOWN = 3
"""How many names of weights a message has."""

WRAPPERS = (
    "save the model itself and not what is around it (DataParallel: model.module, torch.compile: model._orig_mod, "
    "PEFT: model.merge_and_unload())"
)
LEARNED = ("running_mean", "running_var")
"""Buffers that training fills; the class itself makes all others."""

OPTIMISER = ("optimizer.pt", "optimizer.bin", "scheduler.pt")
"""What a training that is to go on leaves beside the weights."""


def is_model(loader: Any) -> bool:
    """Whether a class of transformers loads weights (`read_weights`), and not a processor or a configuration."""
    return hasattr(loader, "base_model_prefix") or loader.__name__.startswith("AutoModel")


def read_weights(
    kind: Any, name: str | Path, *, part: bool = False, unused: tuple[str, ...] = (), **options: Any
) -> Any:
    """`kind.from_pretrained(name, ...)`, of which no weight is random.

    part: of a checkpoint that holds more than this, so that what is left over is not worth a word. unused: the
    beginnings of names of weights that nothing here reads, which may be lacking.

    Raises:
        UsageError: the checkpoint lacks weights, or has them in other shapes.
    """
    # An adapter is not loaded by transformers, which would leave it beside the weights: see `atlas.live.load.adapters`.
    ours = {"output_loading_info": True, "ignore_mismatched_sizes": True, "adapter_kwargs": {"subfolder": "no-adapter"}}
    model, said = kind.from_pretrained(name, **ours, **options)
    _check(name, model, said, part=part, unused=unused)
    return model


def _check(name: str | Path, model: nn.Module, said: Mapping[str, Any], *, part: bool, unused: tuple[str, ...]) -> None:
    kind = type(model).__name__
    others = sorted((key, tuple(there), tuple(here)) for key, there, here in said["mismatched_keys"])
    if others:
        key, there, here = others[0]
        more = f", and {len(others) - 1:,} more" if others[1:] else ""
        raise UsageError(
            f"the checkpoint '{name}' is not of the {kind} that its config.json describes: {key} is {there} in the "
            f"weights and {here} by the config{more}; give the config.json that was saved with the weights"
        )
    made = {n for n, _ in model.named_buffers() if not n.endswith(LEARNED)}
    missing = sorted(key for key in set(said["missing_keys"]) - made if not key.startswith(unused))
    left = sorted(said["unexpected_keys"])
    if missing:
        raise UsageError(
            f"the checkpoint '{name}' lacks {len(missing):,} weights of its {kind} ({_some(missing)}), which would be "
            f"random, and others at every load; {_instead(missing, left)}"
        )
    if left and not part:
        tell(
            f"the checkpoint '{name}' has {len(left):,} weights that a {kind} does not have and that are left out "
            f"({_some(left)})"
        )


def _instead(missing: Collection[str], left: list[str]) -> str:
    """What the checkpoint has in the place of missing weights, and what to do."""
    prefix = _prefix(missing, left)
    if prefix:
        return f"its own names begin with '{prefix}': {WRAPPERS}"
    if left:
        return f"it has other names instead ({_some(left)}): give them the model's, or the checkpoint another config"
    return "give the whole checkpoint: all of its files, and of a part (a projector, an adapter) the model around it"


def _prefix(missing: Collection[str], left: list[str]) -> str:
    """What stands before the names in a checkpoint that a wrapper of the model wrote; "" where that is not so."""
    parts = left[0].split(".") if left else []
    for count in range(1, len(parts)):
        prefix = "".join(f"{part}." for part in parts[:count])
        bare = [key.removeprefix(prefix) for key in left if key.startswith(prefix)]
        # Older checkpoints have their names without the first part, which transformers adds.
        if len(bare) == len(left) and any(key in missing or f"model.{key}" in missing for key in bare):
            return prefix
    return ""


def _some(keys: Collection[str]) -> str:
    return ", ".join(list(keys)[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def tell(text: str) -> None:
    """Warn of a checkpoint, on behalf of whoever called the caller's caller."""
    warnings.warn(text, AtlasWarning, stacklevel=4)


def tell_training(name: str | Path, revision: str | None) -> None:
    """Warn of a checkpoint that a training wrote before it was done."""
    state = find_file(name, revision, "trainer_state.json")
    said = read_object(state)
    step, last = (said.get(key) for key in ("global_step", "max_steps"))
    if isinstance(step, int) and isinstance(last, int) and step >= last > 0:
        return
    folder = Path(name)
    signs = [state.name] if state is not None else []
    if folder.is_dir():
        signs += [file for file in OPTIMISER if (folder / file).exists()]
        signs += sorted(path.name for path in folder.glob("global_step*") if path.is_dir())
    if signs:
        when = f" at step {step:,} of {last:,}" if isinstance(step, int) and isinstance(last, int) and last > 0 else ""
        tell(f"'{name}' was saved in the middle of a training{when} ({_some(signs)}); its last weights may be others")


def check_vocabulary(name: str | Path, tokenizer: Any, rows: int) -> None:
    """Warn where a tokenizer and the embedding are not of one size: the vocabulary was padded, or resized.

    Raises:
        UsageError: the tokenizer has no words, as transformers makes one of a folder without its files.
    """
    tokens = len(tokenizer)
    if tokens <= len(set(tokenizer.all_special_ids)) + 1:
        raise UsageError(
            f"'{name}' has no tokenizer (tokenizer.json, or tokenizer.model); put the one beside the weights that they "
            "were trained with"
        )
    if tokens < rows:
        tell(f"'{name}' has embeddings of {rows:,} tokens and a tokenizer of {tokens:,}: the others stand for no text")
    if tokens > rows:
        tell(
            f"'{name}' has a tokenizer of {tokens:,} tokens and embeddings of {rows:,}: a prompt with one of the "
            "others is refused; give the tokenizer that the weights were saved with"
        )


@torch.no_grad()
def check_finite(model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite, of which everything would be.

    Raises:
        UsageError: some are; the message names them.
    """
    bounds: dict[torch.device, list[Tensor]] = {}
    named = [(name, p) for name, p in model.named_parameters() if p.is_floating_point() and p.numel()]
    for name, parameter in named:
        whole = offloaded(model, name) if parameter.is_meta else parameter.detach()
        whole = whole.to(torch.bfloat16) if whole.element_size() == 1 else whole  # which torch compares none of
        bounds.setdefault(parameter.device, []).append(torch.stack(whole.aminmax()).float())
    # One look at each device's answer, and not one for each weight.
    found = {device: iter(torch.stack(some).isfinite().all(1).tolist()) for device, some in bounds.items()}
    bad = [name for name, parameter in named if not next(found[parameter.device])]
    if bad:
        kinds = sorted({str(parameter.dtype).removeprefix("torch.") for name, parameter in named if name in bad})
        raise UsageError(
            f"the model has weights that are NaN or infinite: {_some(bad)} ({len(bad):,} of {len(named):,} tensors, "
            f"{', '.join(kinds)}); use another --dtype (bfloat16 or float32), or a checkpoint that is not damaged"
        )
