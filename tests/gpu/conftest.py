"""What every comparison of a GPU with the CPU needs."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are read by convolutions, which CUDA computes with 10 bits of mantissa unless told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
