"""What a person may type wrong, where the answer was an internal error, a false message or none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ingest.requests.left_out import left_out

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("command", [["ingest"], ["ingest", "--dry-run"], ["generate", "--prompt", "what is this?"]])
def test_a_misspelt_model_is_refused_before_any_hub_is_asked(
    command: list[str], run: Run, empty_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    asked: list[object] = []
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *a, **k: asked.append(a))
    place = ["--atlas", empty_atlas] if command[0] == "ingest" else []
    code, out, err = run(*command, "--model", "tiny-lava", *place)
    assert asked == []
    assert (code, out) == (2, "")
    assert "no model called 'tiny-lava'; did you mean 'tiny-llava'? (`atlas models` lists all)" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--device", "cuda:99"], 5, "this machine has no device 'cuda:99'; use --device cpu or auto"),
        (["--device", "meta"], 5, "this machine has no device 'meta'"),
        (["--device", "gpu"], 5, "this machine has no device 'gpu'"),
        (["--layers", "99"], 2, "no layer 99; this model has layers 0-3"),
        (["--layers", "2-4"], 2, "no layer 4; this model has layers 0-3"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(arguments: list[str], code: int, message: str, run: Run) -> None:
    found, out, err = run("ingest", "--dry-run", "--per-concept", "1", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith(f"atlas: {message}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_a_dry_run_without_a_gpu(run: Run) -> None:
    code, out, _ = run("ingest", "--dry-run", "--device", "cuda", "--per-concept", "1", "--layers", "3")
    assert code == 0 and "8e+12 operations/s" in out and "assumed, as of one A100" in out
    assert run("ingest", "--device", "cuda")[0] in (3, 5)
    assert run("ingest", "--dry-run", "--device", "auto", "--per-concept", "1", "--layers", "3")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["ingest", "--option", "sed=1"],
            "no parameter of scenes called 'sed'; did you mean 'seed'? (`atlas datasets`",
        ),
        (["ingest", "--methods", "contribution", "--param", "contribution.nrm=1"], "mean 'norm'? (`atlas methods`"),
        (["generate", "--prompt", "x", "--image", "nothere.png"], "there is no picture file nothere.png; give a file"),
    ],
)
def test_messages_name_what_helps(
    arguments: list[str], message: str, run: Run, empty_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_ATLAS", str(empty_atlas))
    code, out, err = run(*arguments)
    assert code != 0 and out == ""
    assert message in err
    for lie in ("internal error", "dataset's pictures", "atlas methods scenes"):
        assert lie not in err


def test_skipped_media_are_said_to_be_in_the_manifest() -> None:
    skipped = {"media": {f"{i}.jpg": "cut" for i in range(7)}, "unmentioned": {"dog": 3}}
    lines = left_out(skipped, Path("here.atlas"), "1234")
    assert lines[:5] == [f"skipped {i}.jpg: cut" for i in range(5)]
    assert lines[5] == "skipped 2 more media (here.atlas/runs/1234/manifest.json has them all, under outcome)"
    assert lines[6:] == ["dog: 3 answers do not mention it and were left out"]
    assert left_out(None, Path("here.atlas"), "1234") == []


def test_the_manifest_of_a_run_has_its_outcome_where_the_message_says(stored_atlas: Path) -> None:
    import json

    (file,) = (stored_atlas / "runs").glob("*/manifest.json")
    assert set(json.loads(file.read_text())["run"]["outcome"]["skipped"]) == {"media", "unmentioned", "unplaced"}


def test_a_component_that_the_atlas_does_not_have(stored_atlas: Path, run: Run) -> None:
    code, out, err = run("neuron", "vision/1/3", "--atlas", stored_atlas)
    assert (code, out) == (2, "")
    assert "the atlas has no data on the component 'vision'" in err
    assert run("neuron", "1/3", "--atlas", stored_atlas)[0] == 0


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["--select", "percentile:90", "--top", "5"], "there are more: a larger --top, or --after "),
        (["--select", "percentile:90"], None),
        (["--select", "percentile:90", "--top", "14"], None),
        (["--layers", "1", "--top", "5"], "there are more: a larger --top, or --after "),
        (["--layers", "1", "--top", "65"], None),
        (["--top", "5"], None),
    ],
)
def test_rows_that_top_cut_off_are_told(filters: list[str], message: str | None, stored_atlas: Path, run: Run) -> None:
    code, out, err = run("query", "--concept", "dog", *filters, "--atlas", stored_atlas)
    told = [line for line in err.splitlines() if not line.startswith("using ")]
    assert code == 0
    assert (len(told) == 1 and message in told[0]) if message else told == []
    if filters == ["--select", "percentile:90"]:
        assert len(out.splitlines()) == 13


@pytest.mark.parametrize(
    "arguments", [["query", "--concept", "dog", "--top", "128"], ["concepts"], ["--help"], ["ingest", "--help"]]
)
def test_a_reader_that_has_had_enough_is_no_failure(arguments: list[str], stored_atlas: Path) -> None:
    place = ["--atlas", str(stored_atlas)] if "--help" not in arguments else []
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads
    command = [sys.executable, "-m", "cli.main", "--quiet", *arguments, *place]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_nobody_reads_keeps_its_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "cli.main", "ingest", "--atlas", str(tmp_path / "none")]
        done = subprocess.run(command, stderr=writing)
    finally:
        os.close(writing)
    assert done.returncode == 3
