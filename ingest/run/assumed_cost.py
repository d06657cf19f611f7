"""What a job costs where nothing can be rehearsed: from the model's size, and the speed of a product of matrices."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from atlas.live.load.checkpoints import find_device
from ingest.attribution.estimators import GRADIENT, TWIN
from ingest.job import Execution, Job
from ingest.run.resolve import needs, null_draws

POSITIONS = 64
"""Assumed tokens of text in one example; the image's are added, from the model's config."""

GPU = {torch.float32: 8e12, torch.bfloat16: 120e12, torch.float16: 120e12}
"""Operations a second that models reach on one A100, about 40 % of its peak: assumed where there is no GPU."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """speed: operations a second; whose: where it is known from. memory: bytes of the weights alone. passes: seconds,
    without what methods add; kinds: of which passes."""

    speed: float
    whose: str
    memory: float
    passes: float
    kinds: str


def assumed_cost(
    job: Job, execution: Execution, dtype: torch.dtype, examples: int, parameters: int, image_tokens: int
) -> Assumed:
    """Memory of the weights, and times from the operations alone. dtype: of the weights, unless they are quantised."""
    absent = absent_gpu(execution)
    needed = needs(job)
    twins = 1 + null_draws(job) if TWIN in needed else 0
    passes = (3.0 if GRADIENT in needed else 1.0) + twins
    operations = passes * 2.0 * parameters * (POSITIONS + image_tokens) * examples
    speed = GPU[dtype] if absent else measured_speed(find_device(execution.device))
    size = {"8bit": 1, "4bit": 0.5}.get(job.quantization, dtype.itemsize)
    return Assumed(
        speed,
        "assumed, as of one A100" if absent else "measured now, of a matrix product",
        parameters * size,
        operations / speed,
        "forward" + (" and backward" if GRADIENT in needed else ""),
    )


def absent_gpu(execution: Execution) -> bool:
    """Whether the job is for a GPU that this machine does not have."""
    return execution.device == "cuda" and not torch.cuda.is_available()


def measured_speed(device: torch.device) -> float:
    """Operations a second of a matrix product in float32, measured for a tenth of a second."""
    side = torch.randn(512, 512, device=device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        (side @ side).sum().item()
        done += 1
    return done * 2 * 512**3 / (time.perf_counter() - started)
