"""`python -m ingest.zoo.train NAME --out DIR`: an embedded model, from nothing, with one seed.

Each has a recipe of its own here, a file of its name.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or OpenMP's threads spin while others need the cores

from transformers.utils import logging

RECIPES = sorted(file.stem.replace("_", "-") for file in Path(__file__).parent.glob("tiny_*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ingest.zoo.train", description=__doc__)
    parser.add_argument("name", choices=RECIPES, help="which model")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write the model into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps only: seconds, and a model that knows nothing"
    )
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    recipe = importlib.import_module(f"ingest.zoo.train.{chosen.name.replace('-', '_')}")
    recipe.make(chosen.out, seed=chosen.seed, smoke=chosen.smoke)


if __name__ == "__main__":
    main()
