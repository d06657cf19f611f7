"""`atlas use`: pins from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_use_pins_shows_and_clears(own_atlas: Path, run: Any) -> None:
    where = ("--atlas", own_atlas)
    nothing = {"model": None, "dataset": None, "runs": []}
    assert json.loads(run("use", *where)[1]) == nothing
    model = json.loads(run("models", *where, "--json")[1])["rows"][0]["name"]
    number = json.loads(run("runs", *where, "--json")[1])["rows"][0]["run"]
    code, out, _ = run("use", model, "--run", number[:4], *where)
    assert code == 0 and json.loads(out) == {"model": model, "dataset": None, "runs": [number]}
    err = run("query", "--concept", "dog", *where)[2]
    assert f"using model={model} (pinned; `atlas use`)" in err and f"using run={number} (pinned" in err
    assert f"using model={model} (pinned" in run("neuron", "0/1", *where)[2]
    code, _, err = run("use", "--atlas", own_atlas / "none.atlas")
    assert code == 3 and "there is no atlas at" in err
    code, _, err = run("use", "nosuch", *where)
    assert code == 2 and "no model called 'nosuch'" in err
    assert run("use", model, "--clear", *where)[0] == 2
    assert run("use", "--clear", *where) == (0, "", "nothing is pinned\n")
    assert json.loads(run("use", *where)[1]) == nothing
