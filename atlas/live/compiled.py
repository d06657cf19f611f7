"""Models compiled by `torch.compile`: compiled code skips the hooks that read and edit neurons."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from atlas.errors import AtlasWarning, UsageError


def require_plain(model: nn.Module) -> None:
    """Refuse a model with compiled parts.

    Raises:
        UsageError: a part is compiled; the message says what to give instead.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            what = f"'{name}' of this model is" if name else "this model is"
            raise UsageError(
                f"{what} compiled (torch.compile), and compiled code skips hooks; give, and call, the original model: "
                "model._orig_mod"
            )
        if getattr(module, "_compiled_call_impl", None) is not None:
            where = f" on {name}" if name else ""
            raise UsageError(
                f"{type(module).__name__}.compile() was called{where}, and compiled code skips hooks; load the "
                "model again and do not compile it"
            )


def unwrap_compiled(model: Any) -> Any:
    """The original of a compiled model, which is what runs from then on, with a warning; other models unchanged.

    Raises:
        UsageError: a part of it is compiled.
    """
    if hasattr(model, "_orig_mod"):
        model = model._orig_mod
        warnings.warn(
            f"the {type(model).__name__} was compiled (torch.compile): its uncompiled original is traced and edited",
            AtlasWarning,
            stacklevel=3,
        )
    require_plain(model)
    return model
