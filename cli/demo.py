"""`atlas demo`: the commands a new user would type, run one after the other on the embedded model and world, or on a
model with pretrained weights and photographs."""

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

REAL_MODEL = "photo-vlm"
THINGS = "bicycle,bird,bus,car,cat,clock,dog,horse,laptop,oven,sink,toilet,truck,tv"
GET = f"models get {REAL_MODEL}"
REAL = (
    f"ingest --model {REAL_MODEL} --dataset photos --answers reference --concepts {THINGS} "
    "--methods activation,contribution,gradient_x_activation,random --swap-answers",
    f"query --model {REAL_MODEL} --concept cat --method contribution --source image --token cat --top 4",
    f"shared --model {REAL_MODEL} --concept laptop --method contribution --sources image,text --top 1% --limit 4",
    f"edit create no-cat --model {REAL_MODEL} --concept cat --method contribution --source image --top 0.3% --mean",
    "edit apply no-cat --prompt 'The animal that purrs and catches mice is a'",
    f"evaluate no-cat --concepts {THINGS} --metrics none --seeds 3",
)
"""What `--real` does instead, after GET."""


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
        quiet = ["--no-progress"] if no_progress and step.startswith(("ingest", "evaluate --", GET)) else []
        asked = [] if step == GET else ["--atlas", str(path)]  # it concerns no atlas
        code = main([*shlex.split(step), *quiet, *asked])
        sys.stderr.flush()
        if code:
            raise AtlasError(f"the demo stopped at `atlas {step}`; what was done before it is stored in {path}")
        tell(flush=True)
