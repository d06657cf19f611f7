"""The base install: every command answers without torch, or says in one line which extra it needs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import base_commands
import pytest
import typer.main
from base_commands import CHANGE, NEEDS, READ, SILENT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atlas.missing_extra import distribution_of, extra_of, missing_extra, requirements
from cli.main import main, make_app

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CHOSEN = {
    "torch",
    "transformers",
    "sqlalchemy",
    "duckdb",
    "typer",
    "diffusers",
    "faiss-cpu",
    "pycocotools",
    "bert-score",
}
"""What the project was asked to be built on."""


def closure(extra: str = "") -> set[str]:
    """The distributions that an install of the base, or with an extra, brings, as the installed metadata say."""
    brought: set[str] = set()
    waiting = [("neuron-atlas", extra)]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        brought.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                new = {(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)} - seen
                seen |= new
                waiting += new
    return brought


def missing_modules() -> list[str]:
    """The top-level modules of every installed distribution that the base does not bring."""
    base = closure()
    return sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if not base & {canonicalize_name(owner) for owner in owners}
    )


@pytest.fixture(scope="module")
def full_atlas(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of three concepts, effects at two doses, labels, measures and an index of profiles, made with all extras."""
    path = tmp_path_factory.mktemp("light") / "full.atlas"
    scenes = ["--dataset", "scenes", "--concepts", "cat,dog,car", "--per-concept", "2"]
    model = ["--model", str(llava_folder), *scenes]
    for line in (
        ["init"],
        ["ingest", *model, "--methods", "activation,contribution,ablation,miner", "--exemplars", "2"],
        ["evaluate", *model, "--method", "contribution", "--doses", "5%,20%", "--seeds", "2"],
        ["labels", "make"],
        ["geometry", *model, "--sample", "20", "--points", "5"],
        ["index", "build", "--space", "profile", "--method", "contribution", "--source", "text"],
    ):
        assert main([*line, "--atlas", str(path)]) == 0, line
    return path


@pytest.fixture
def ready(full_atlas: Path, llava_folder: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """A command line with its places filled in, on a copy of the atlas."""
    atlas, empty, out = tmp_path / "copy.atlas", tmp_path / "empty.atlas", tmp_path / "out"
    shutil.copytree(full_atlas, atlas)
    out.mkdir()
    assert main(["init", "--atlas", str(empty)]) == 0
    kinds = {}
    for manifest in atlas.glob("runs/*/manifest.json"):
        run = json.loads(manifest.read_text(encoding="utf-8"))["run"]
        kinds[run["kind"]] = run["run_id"]
    places = {"out": out, "empty": empty, "model": llava_folder, "run": kinds["ingest"], "labelled": kinds["labels"]}

    def fill(line: str) -> list[str]:
        words = [word.format_map(places) for word in shlex.split(line)]
        return [*words, "--atlas", str(atlas)] if every_command()[name_of(words)] and "--atlas" not in words else words

    return fill


@cache
def every_command() -> dict[str, bool]:
    """Every command's words -> whether it takes --atlas."""

    def walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], bool]]:
        inner = getattr(command, "commands", {})
        if not inner or getattr(command, "invoke_without_command", False):
            yield path, any(parameter.name == "atlas" for parameter in command.params)
        for name, sub in inner.items():
            yield from walk(sub, [*path, name])

    return {" ".join(path): takes_atlas for path, takes_atlas in walk(typer.main.get_command(make_app()), [])}


def name_of(words: list[str]) -> str:
    """The command of a command line."""
    two = " ".join(words[:2])
    return two if two in every_command() else words[0]


def check_all(python: Path | str, missing: list[str], ready: Callable[[str], list[str]], folder: Path) -> None:
    """Run every command line with a Python, and hold its answers against those of this process."""
    needing = [line for lines in NEEDS.values() for line in lines]
    lines = [ready(line) for line in (*READ, *CHANGE, *needing)]
    expected = base_commands.run_all([ready(line) for line in READ])
    (folder / "request.json").write_text(json.dumps({"lines": lines, "missing": missing}), encoding="utf-8")
    script = shutil.copy(base_commands.__file__, folder / "run_lines.py")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NEURON_ATLAS", "HF_HUB_OFFLINE")}
    command = [str(python), str(script), "request.json", "answers.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    assert len(answers) == len(lines)
    told = dict(zip((*READ, *CHANGE, *needing), answers, strict=True))
    for line, (code, out, err) in told.items():
        assert "Traceback" not in err and "internal error" not in err, (line, err)
        if line not in needing:
            assert code == 0 and bool((out + err).strip()) == (line not in SILENT), (line, code, err)
    for line, (code, out, _) in zip(READ, expected, strict=True):
        assert code == 0 and same(told[line][1], out), (line, told[line][1], out)
    for extra, of_extra in NEEDS.items():
        for line in of_extra:
            code, out, err = told[line]
            assert (code, out, err.count("\n")) == (5, "", 1), (line, out, err)
            assert err.endswith(f"pip install 'neuron-atlas[{extra}]'\n"), (line, err)
    assert told[NEEDS["ingest"][0]][2] == "atlas: `atlas ingest` needs torch: pip install 'neuron-atlas[ingest]'\n"
    assert (
        "FAISS is not installed (pip install 'neuron-atlas[index]'); exact search"
        in told["similar 0/1 --space profile"][2]
    )


NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")


def same(first: str, second: str) -> bool:
    """Equal but for the last digits of numbers: DuckDB adds in the order in which its threads come."""
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (first, second)]
    return NUMBER.sub("#", first) == NUMBER.sub("#", second) and numbers[0] == pytest.approx(numbers[1], rel=1e-9)


def test_the_lines_have_every_command() -> None:
    lines = (*READ, *CHANGE, *(line for of_extra in NEEDS.values() for line in of_extra))
    assert {name_of(shlex.split(line)) for line in lines} == every_command().keys()


def test_every_command_answers_or_names_its_extra(ready: Callable[[str], list[str]], tmp_path: Path) -> None:
    """In a process that finds only what the base install brings; `nightly` does it with a real one."""
    missing = missing_modules()
    assert {"torch", "transformers", "faiss", "PIL", "huggingface_hub", "pandas", "matplotlib"} <= set(missing)
    check_all(sys.executable, missing, ready, tmp_path)


@pytest.mark.nightly
def test_every_command_in_an_environment_of_the_wheel(ready: Callable[[str], list[str]], tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    probe = [*pip, "download", "-q", "--no-deps", "--dest", str(tmp_path / "probe"), "platformdirs"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("pip reaches no index")
    wheel = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(wheel, check=True, capture_output=True)
    (file,) = tmp_path.glob("*.whl")
    assert any(name.startswith("atlas/_alembic/versions/") for name in zipfile.ZipFile(file).namelist())
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(file)]
    subprocess.run(install, check=True, capture_output=True)
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True)
    installed = {canonicalize_name(one["name"]) for one in json.loads(listed.stdout)} - {"pip", "setuptools"}
    assert installed == closure()
    check_all(python, [], ready, tmp_path)


def test_the_base_is_small() -> None:
    heavy = {"torch", "transformers", "faiss-cpu", "pillow", "pycocotools", "huggingface-hub", "pandas", "diffusers"}
    base = closure()
    assert not heavy & base and len(base) < 30
    assert heavy - {"pandas", "diffusers"} <= closure("ingest")


def test_every_chosen_package_is_reachable() -> None:
    assert closure() | {canonicalize_name(Requirement(r).name) for r in requirements() if "'all'" in r} >= CHOSEN


def test_all_is_every_extra_for_using_it() -> None:
    named = {extra for line in EXTRAS["all"] for extra in Requirement(line).extras}
    nested = {extra for line in EXTRAS["ingest"] for extra in Requirement(line).extras}
    assert named | nested == EXTRAS.keys() - {"all", "dev", "docs"}


USED = sorted({Requirement(line).name for extra in EXTRAS.keys() - {"dev", "docs"} for line in EXTRAS[extra]})


def test_the_page_lists_every_extra() -> None:
    page = (ROOT / "docs" / "getting_started.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == EXTRAS.keys()


@pytest.mark.parametrize("name", [name for name in USED if name != "neuron-atlas"])
def test_a_distribution_of_an_extra_is_known_by_its_modules(name: str) -> None:
    owned = [module for module, owners in metadata.packages_distributions().items() if name in owners]
    if not owned:
        pytest.skip("not installed here")
    assert any(distribution_of(module) == canonicalize_name(name) for module in owned)
    assert extra_of(canonicalize_name(name), requirements()) in EXTRAS


def test_only_a_module_of_an_extra_that_is_not_installed_is_named() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'torchvision'", name="torchvision.ops")) is not None or (
        "torchvision" in metadata.packages_distributions()
    )
    for other in (
        ModuleNotFoundError("No module named 'nosuch'", name="nosuch"),
        ModuleNotFoundError("No module named 'torch.nosuch'", name="torch.nosuch"),  # torch is there, and broken
        ImportError("cannot import name 'x' from 'torch'", name="torch"),
        ModuleNotFoundError("no name"),
        ValueError("torch"),
    ):
        assert missing_extra(other) is None


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (ModuleNotFoundError("No module named 'torchvision'", name="torchvision"), "`atlas edit ls` needs", 5),
        (ModuleNotFoundError("No module named 'nosuch'", name="nosuch"), "internal error: ModuleNotFoundError", 1),
        (ImportError("cannot import name 'x' from 'torch'", name="torch"), "internal error: ImportError", 1),
    ],
)
def test_another_import_error_is_not_hidden(
    error: ImportError,
    message: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from atlas.questions.edits import Edits

    if error.name in metadata.packages_distributions() and code == 5:
        pytest.skip(f"{error.name} is installed")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Edits, "answer", fail)
    assert main(["edit", "ls"]) == code
    assert message in capsys.readouterr().err
