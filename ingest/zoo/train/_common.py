"""What all recipes share."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from transformers import GenerationConfig, PreTrainedTokenizerFast

THREADS = 2  # fixed, as sums depend on how many threads share them


class Stopwatch:
    """Prints lines with the seconds since its creation."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"{time.monotonic() - self._start:6.0f} s  {line}", flush=True)


def greedy(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """The generation configuration of every embedded model."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=32,
        do_sample=False,
    )


def finish(figures: Mapping[str, float], out: Path, log: Stopwatch) -> None:
    """Write the model's measured figures into its folder, and print them."""
    rounded = {name: round(value, 4) for name, value in figures.items()}
    (out / "figures.json").write_text(json.dumps(rounded, indent=2) + "\n")
    for name, value in figures.items():
        log(f"{name:24} {100 * value:6.1f} %")
