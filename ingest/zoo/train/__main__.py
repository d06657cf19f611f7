"""`python -m ingest.zoo.train NAME --out DIR`: an embedded model from nothing, or the projector of photo-vlm, with one
seed.

Each has a recipe of its own here, a file of its name.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or OpenMP's threads spin while others need the cores

from transformers.utils import logging

RECIPES = ("photo-vlm", "tiny-audio", "tiny-gill", "tiny-llava")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ingest.zoo.train", description=__doc__)
    parser.add_argument("name", choices=RECIPES, help="which model")
    recipe = _recipe(sys.argv[1] if len(sys.argv) > 1 else "")
    if hasattr(recipe, "add_arguments"):
        recipe.add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write the model into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps only: seconds, and a model that knows nothing"
    )
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    own = {"chosen": chosen} if hasattr(recipe, "add_arguments") else {}
    recipe.make(chosen.out, seed=chosen.seed, smoke=chosen.smoke, **own)


def _recipe(name: str) -> Any:
    return importlib.import_module(f"ingest.zoo.train.{name.replace('-', '_')}") if name in RECIPES else None


if __name__ == "__main__":
    main()
