"""`atlas demo`: the commands a new user would type, run one after the other on the embedded model and world."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from atlas.errors import AtlasError
from atlas.store import create
from cli.common import tell
from cli.render import as_terminal

METHODS = "activation,contribution,gradient_x_activation,ablation,random"
STEPS = (
    f"ingest --model tiny-llava --dataset scenes --methods {METHODS} --per-concept 3 --swap-answers",
    "agreement --source text",
    "query --concept dog --method contribution --source image --top 5",
    "shared --concept dog --method contribution --sources image,text --top 40 --limit 5",
    "edit create no-dog --concept dog --method contribution --source text --top 40 --set 0",
    'edit apply no-dog --prompt "what does the dog do?"',
    "evaluate no-dog --sources text --per-concept 4 --seeds 3",
    "evaluate --method contribution --top 40 --per-concept 2 --seeds 3",
)
HEARD = "activation,contribution,gradient_x_activation"
DRAWN = f"{HEARD},nam_text,nam_image"
FURTHER = (
    f"ingest --model tiny-audio --dataset scenes --sources audio,text --methods {HEARD} --per-concept 3 --swap-answers",
    "shared --model tiny-audio --concept dog --method contribution --sources audio,text --top 40 --limit 5",
    f"ingest --model tiny-gill --dataset scenes --sources text --tasks does,lives,has,draw --methods {DRAWN} "
    "--concepts dog,cat,car,fish,house,tree --per-concept 4",
    "shared --model tiny-gill --concept dog --method contribution --targets text,image --top 40 --limit 5",
    "shared --model tiny-gill --concepts all --method contribution --targets text,image",
    "edit solve draw-cat --from dog --to cat --target image --model tiny-gill --method nam_image --source text "
    "--top 40 --per-concept 8",
    "evaluate draw-cat --sources text --tasks draw,does --concepts dog,car,fish --per-concept 6 --seeds 3",
)
"""What `--full` does besides: a model that hears, and one that draws."""


def play(path: Path, no_progress: bool, steps: Sequence[str] = STEPS) -> None:
    """Run every step into the atlas at `path`, printing the command before its answer.

    Raises:
        AtlasError: a step failed; the ones before it are stored.
    """
    from cli.main import main

    as_terminal()
    create.init(path)
    for step in steps:
        tell(f"$ atlas {step}", flush=True)
        quiet = ["--no-progress"] if no_progress and step.startswith(("ingest", "evaluate --")) else []
        code = main([*shlex.split(step), *quiet, "--atlas", str(path)])
        sys.stderr.flush()
        if code:
            raise AtlasError(f"the demo stopped at `atlas {step}`; what was done before it is stored in {path}")
        tell(flush=True)
