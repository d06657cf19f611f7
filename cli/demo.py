"""`atlas demo`: the commands a new user would type, run one after the other on the embedded model and world."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from atlas import store
from atlas.errors import AtlasError
from cli.render import as_terminal

METHODS = "activation,contribution,gradient_x_activation,ablation,random"
STEPS = (
    f"ingest --model tiny-llava --dataset scenes --methods {METHODS} --per-concept 3",
    "agreement --source text",
    "query --concept dog --method contribution --source image --top 5",
    "shared --concept dog --method contribution --sources image,text --top 40 --limit 5",
    "edit create no-dog --concept dog --method contribution --source text --top 40 --set 0",
    'edit apply no-dog --prompt "what does the dog do?"',
    "evaluate no-dog --sources text --per-concept 4 --seeds 3",
    "evaluate --method contribution --top 40 --per-concept 2 --seeds 2",
)


def play(path: Path, no_progress: bool) -> None:
    """Run every step into the atlas at `path`, printing the command before its answer.

    Raises:
        AtlasError: a step failed; the ones before it are stored.
    """
    from cli.main import main

    as_terminal()
    store.init(path)
    for step in STEPS:
        print(f"$ atlas {step}", flush=True)
        quiet = ["--no-progress"] if no_progress and step.startswith(("ingest", "evaluate --")) else []
        code = main([*shlex.split(step), *quiet, "--atlas", str(path)])
        sys.stderr.flush()
        if code:
            raise AtlasError(f"the demo stopped at `atlas {step}`; what was done before it is stored in {path}")
        print(flush=True)
