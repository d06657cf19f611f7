"""How long reading a model's weights takes, from a part of them."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ingest import zoo
from ingest.job import Job

SUFFIXES = (".safetensors", ".bin", ".gguf")
"""Of files with weights."""

PART = 2**26
"""Bytes that are read to measure the speed."""

ASSUMED = 1e9
"""Bytes a second, where the weights are not here."""


def reading_seconds(job: Job, parameters: int, dtype: torch.dtype) -> float:
    """Seconds of reading the weights and converting them to `dtype`, at the speed of the largest file's first part; or
    as assumed, where the weights are not in a folder here."""
    place = Path(zoo.resolve(job.model))
    files = [place] if place.is_file() else sorted(f for f in place.glob("*") if f.suffix in SUFFIXES)
    if not files:
        return parameters * dtype.itemsize / ASSUMED
    largest, stored = max(files, key=lambda file: file.stat().st_size), sum(file.stat().st_size for file in files)
    started = time.perf_counter()
    with largest.open("rb") as opened:
        part = bytearray(opened.read(PART))
    numbers = torch.frombuffer(part, dtype=torch.bfloat16, count=len(part) // 2)  # whatever they are
    numbers.to(dtype, copy=True)
    return (time.perf_counter() - started) * stored / max(1, len(part))
