"""Products of half-precision tensors in single precision, without copies of them in single precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32: (m, k) by (k, n), or (batch, m, k) by (batch, k, n).

    A GPU multiplies half-precision factors exactly and adds the products in float32, at many times the speed of
    float32 factors. Beside a `b` in bfloat16, an `a` in float32 is taken as the sum of three tensors in bfloat16,
    which together have all of its 24 bits (of sizes from 1e-31 to 3.38e38). Anywhere else both are converted first.
    """
    terms = _terms(a, b.dtype) if b.device.type == "cuda" else None
    if terms is None:
        return a.float() @ b.float()
    multiply: Any = torch.mm if a.dim() == 2 else torch.bmm
    found: Tensor = multiply(torch.cat(terms, -2) if terms[1:] else a, b, out_dtype=torch.float32)
    return found if not terms[1:] else found.view(*a.shape[:-2], len(terms), *a.shape[-2:-1], b.shape[-1]).sum(-3)


def _terms(a: Tensor, dtype: torch.dtype) -> list[Tensor] | None:
    """Tensors of a dtype whose sum is `a`; None where a few do not do."""
    if dtype not in HALF:
        return None
    if a.dtype == dtype:
        return [a]
    if dtype != torch.bfloat16:  # the range of float16 is not that of float32
        return None
    found, rest = [], a.float()
    for _ in range(3):
        found.append(rest.to(dtype))
        rest = torch.where(found[-1].isfinite(), rest - found[-1].float(), 0.0)
    return found
