"""Command lines for a base install: what it answers, and what it needs an extra for. Run as a script, it runs some.

    python base_commands.py REQUEST ANSWER

REQUEST is JSON: `lines`, a list of argument lists, and `missing`, the modules to take for not installed. ANSWER gets
[exit code, stdout, stderr] of each. The script imports nothing of the tests, so that any environment can run it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

READ = (
    "query --concept dog --method contribution --source text --top 5",
    "compare --concept dog --method contribution --source image --to source=text",
    "count --concept dog",
    "agreement",
    "concept-matrix --method contribution --source text",
    "cross-ablation",
    "dose-response",
    "effects",
    "effects --atlas {empty}",
    "exemplars 0/1",
    "layers --concept dog",
    "leaderboard",
    "match {model} {model} --concept dog --method contribution --source text",
    "measures",
    "neuron 0/1",
    "overlap --concept dog --methods contribution,activation --source text",
    "points",
    "only --concept dog --sources image,text",
    "shared --concept dog --sources image,text",
    "shared --concepts all --sources image,text --method contribution",
    "roles 0/1",
    "similar 0/1 --space profile",
    "search dog",
    "methods",
    "datasets",
    "datasets coco",
    "concepts",
    "models",
    "models capabilities",
    "sql 'SELECT method, count(*) AS maps FROM maps GROUP BY method ORDER BY method'",
    "runs",
    "runs ls",
    "runs show {run}",
    "runs diff {run} {labelled}",
    "labels ls",
    "labels show",
    "plot agreement",
    "plot compare --concept dog --method contribution --source image --to source=text",
    "plot concept-matrix --method contribution --source text",
    "plot cross-ablation",
    "plot dose-response",
    "plot effects",
    "plot layers --concept dog",
    "plot labels",
    "plot leaderboard",
    "plot match {model} {model} --concept dog --method contribution --source text",
    "plot measures",
    "plot neuron 0/1",
    "plot only --concept dog --sources image,text",
    "plot overlap --concept dog --methods contribution,activation --source text",
    "plot points",
    "plot roles 0/1",
    "plot query --concept dog --method contribution --source text --top 5",
    "plot search dog",
    "plot shared --concept dog --sources image,text",
    "plot similar 0/1 --space profile",
    "index status",
    "db path",
    "db check",
    "use",
)
"""Questions."""

SILENT = ("effects --atlas {empty}",)
"""Those of them of which nothing is stored."""

CHANGE = (
    "init --atlas {out}/new.atlas",
    "use {model} --dataset scenes",
    "use --clear",
    "edit create no-dog --concept dog --method contribution --source text --top 4 --set 0",
    "edit create less-cat --concept cat --method contribution --source text --top 3 --scale 0.5",
    "edit compose both no-dog less-cat",
    "edit ls",
    "edit show both",
    "edit diff no-dog less-cat",
    "edit export both {out}/both.safetensors",
    "edit import {out}/both.safetensors --name again",
    "edit rm again",
    "select save dogs --concept dog --method contribution --source text --top 5",
    "select ls",
    "select show dogs",
    "export {out}/bundle",
    "import {out}/bundle --atlas {out}/new.atlas",
    "select rm dogs",
    "db upgrade",
    "db backup",
    "db rebuild",
    "runs rm {labelled} --yes",
    "db compact",
    "db check",
)
"""What stores something, in this order."""

NEEDS = {
    "ingest": (
        "ingest --model tiny-llava --dataset scenes",
        "ingest --model tiny-llava --dataset scenes --dry-run",
        "evaluate no-dog",
        "evaluate --method contribution --top 5",
        "properties",
        "geometry",
        "generate --prompt hello",
        "heatmaps --concept dog",
        "plot heatmap 0/1 --image dog.png",
        "plot heatmaps --concept dog",
        "plot edit-answers no-dog",
        "plot gallery 0/1",
        "demo",
        "datasets scenes",
        "concepts --dataset scenes",
        "search dog --encoder minilm",
        "search --image dog.png",
        "edit apply no-dog --prompt hello",
        "edit solve dog-to-cat --from dog --to cat",
        "edit bake no-dog --out {out}/baked",
        "edit unbake {out}/baked --out {out}/unbaked",
        "labels make",
        "index build --space profile",
        "models convert gill {out}/a --out {out}/b --language {out}/c --vision {out}/d",
    ),
    "hub": ("push me/my-atlas", "pull me/my-atlas"),
    "gguf": ("models get photo-vlm",),
    "serve": ("serve --no-browser --port 0", "site --out {out}/site"),
    "plots": ("plot dose-response --out {out}/doses.png",),
}
"""Extra -> what needs it."""


def run_all(lines: list[list[str]]) -> list[list[Any]]:
    """[exit code, stdout, stderr] of each."""
    from cli.main import main

    answers: list[list[Any]] = []
    for line in lines:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(line)
        answers.append([code, out.getvalue(), err.getvalue()])
    return answers


def hide(missing: set[str]) -> None:
    """Let these top-level modules be found no more, as if they were not installed."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            return None if fullname.partition(".")[0] in missing else super().find_spec(fullname, path, target)

    sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    hide(set(request["missing"]))
    Path(sys.argv[2]).write_text(json.dumps(run_all(request["lines"])), encoding="utf-8")
