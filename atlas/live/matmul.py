"""Single-precision computation with half-precision tensors and modules, without lasting copies of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32: (m, k) by (k, n), or (batch, m, k) by (batch, k, n).

    A GPU multiplies half-precision factors exactly and adds the products in float32, at many times the speed of
    float32 factors. With a `b` in bfloat16, an `a` in float32 is split into the sum of three tensors in bfloat16,
    which together have all of its 24 bits (of sizes from 1e-31 to 3.38e38). Anywhere else both are converted first.
    """
    terms = _terms(a, b.dtype) if b.device.type == "cuda" else None
    if terms is None:
        return a.float() @ b.float()
    multiply: Any = torch.mm if a.dim() == 2 else torch.bmm
    products: Tensor = multiply(torch.cat(terms, -2) if terms[1:] else a, b, out_dtype=torch.float32)
    return products if not terms[1:] else products.view(*a.shape[:-2], len(terms), *a.shape[-2:-1], b.shape[-1]).sum(-3)


def _terms(a: Tensor, dtype: torch.dtype) -> list[Tensor] | None:
    """Tensors of a dtype whose sum is `a`; None where three do not suffice."""
    if dtype not in HALF:
        return None
    if a.dtype == dtype:
        return [a]
    if dtype != torch.bfloat16:  # the range of float16 is not that of float32
        return None
    terms, rest = [], a.float()
    for _ in range(3):
        terms.append(rest.to(dtype))
        rest = torch.where(terms[-1].isfinite(), rest - terms[-1].float(), 0.0)
    return terms


def calling(module: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Call a module on a hidden state in the state's own precision.

    Given float32, a module with weights in half precision computes with float32 copies of them that live as long as the
    call: small differences between two states survive, where rounding each result to 8 or 11 bits would drown them.
    """
    if hidden.dtype != torch.float32:
        return module(hidden, *args, **kwargs)
    halves = {name: t for name, t in (*module.named_parameters(), *module.named_buffers()) if t.dtype in HALF}
    if not halves:
        return module(hidden, *args, **kwargs)
    copies = {name: tensor.float() for name, tensor in halves.items()}
    keywords = {name: _single(value) for name, value in kwargs.items()}
    return torch.func.functional_call(module, copies, (hidden, *map(_single, args)), keywords)


def _single(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_single, value))
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value
