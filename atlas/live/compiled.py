"""Models that `torch.compile` went over: compiled code leaves out the hooks that read and edit neurons."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from atlas.errors import AtlasWarning, UsageError


def require_plain(model: nn.Module) -> None:
    """Refuse a model of which something is compiled.

    Raises:
        UsageError: it is; the message says what to give instead.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            what = f"'{name}' of this model is" if name else "this model is"
            raise UsageError(
                f"{what} compiled (torch.compile), and compiled code leaves out hooks; give, and call, the model "
                "that it was made of: model._orig_mod"
            )
        if getattr(module, "_compiled_call_impl", None) is not None:
            where = f" on {name}" if name else ""
            raise UsageError(
                f"{type(module).__name__}.compile() was called{where}, and compiled code leaves out hooks; load the "
                "model again and do not compile it"
            )


def unwrapped(model: Any) -> Any:
    """The model that a compiled one was made of, which is what runs from then on; that is said. Others as they are.

    Raises:
        UsageError: a part of it is compiled.
    """
    if hasattr(model, "_orig_mod"):
        model = model._orig_mod
        warnings.warn(
            f"the {type(model).__name__} was compiled (torch.compile): it is traced and edited as it was before that",
            AtlasWarning,
            stacklevel=3,
        )
    require_plain(model)
    return model
