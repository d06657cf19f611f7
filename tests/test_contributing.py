"""CONTRIBUTING's examples, added to a copy of the project as it says: one file each, and a method's test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = re.compile(r"<!-- example: (?P<path>[\w/.]+) -->\n```python\n(?P<text>.*?)```\n", re.DOTALL)


def examples() -> dict[str, str]:
    """File -> its text, of every example of the page."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {match["path"]: match["text"] for match in EXAMPLE.finditer(page)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the files of the examples, and the methods of `Atlas` written anew."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "atlas", folder / "atlas", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "ingest/methods", folder / "ingest/methods", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests/ingest").mkdir(parents=True)
    links = [ROOT / name for name in ("cli", "pyproject.toml", "tests/conftest.py", "tests/attribution.py")]
    for linked in (*links, *(path for path in (ROOT / "ingest").iterdir() if path.name != "methods")):
        (folder / linked.relative_to(ROOT)).symlink_to(linked, target_is_directory=linked.is_dir())
    for path, text in examples().items():
        assert not (ROOT / path).exists()
        (folder / path).write_text(text, encoding="utf-8")
    python(folder, "-m", "atlas.api.write_questions")
    return folder


def python(project: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def expected(atlas: Path) -> Counter[int]:
    """Layer -> how many of the best 40 it holds, by the question that is there already."""
    return Counter(neuron.layer for neuron in Atlas(atlas).query("dog", "contribution", source="text", top=40))


ASKED = ("--concept", "dog", "--method", "contribution", "--source", "text")


def test_each_example_is_one_file_of_its_folder() -> None:
    assert list(examples()) == [
        "ingest/methods/contribution_share.py",
        "tests/ingest/test_contribution_share.py",
        "atlas/questions/concentration.py",
        "atlas/figures/concentration.py",
    ]


def test_the_method_keeps_its_contract_and_passes_its_test(project: Path) -> None:
    python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ingest/test_contribution_share.py")
    program = (
        "from atlas.testing import check_method\n"
        "from ingest.methods import contribution_share\n"
        "check_method(contribution_share)\n"
        "print(contribution_share.__file__)\n"
    )
    out = python(project, "-c", program).stdout.strip()
    assert Path(out) == project / "ingest/methods/contribution_share.py"


def test_the_command_ingests_by_the_method(project: Path, own_atlas: Path, llava_folder: Path) -> None:
    """Shares of the contributions of all neurons: the sizes of an example's scores add up to 1 at most in the mean."""
    job = ("--model", llava_folder, "--dataset", "scenes", "--concepts", "dog", "--methods", "contribution_share")
    python(project, "-m", "cli.main", "ingest", *job, "--per-concept", 1, "--atlas", own_atlas)
    query = ("query", "--concept", "dog", "--method", "contribution_share", "--top", 1, "--json", "--atlas", own_atlas)
    [row] = json.loads(python(project, "-m", "cli.main", *query).stdout)["rows"]
    assert 0 < row["score"] < 1


def test_the_command_answers(project: Path, stored_atlas: Path) -> None:
    done = python(project, "-m", "cli.main", "concentration", *ASKED, "--json", "--atlas", stored_atlas)
    whole: dict[str, Any] = json.loads(done.stdout)
    counts = expected(stored_atlas)
    assert {row["layer"]: row["count"] for row in whole["rows"]} == dict(counts)
    assert [row["count"] for row in whole["rows"]] == sorted(counts.values(), reverse=True)
    assert sum(row["share"] for row in whole["rows"]) == pytest.approx(1)
    half = 1 if max(counts.values()) >= 20 else 2
    assert whole["facts"]["half"] == half and f"half of 40 neurons are in {half} of 2 layers" in done.stderr
    told = python(project, "-m", "cli.main", "concentration", "--help").stdout
    assert "--top" in told and "How many neurons." in told and "Example: atlas concentration" in told


def test_the_atlas_has_the_method_and_the_answer_its_figure(project: Path, stored_atlas: Path) -> None:
    program = (
        "import sys, inspect; from atlas import Atlas; from atlas.errors import UsageError\n"
        "from atlas.figures import concentration; from atlas.testing import check_figure\n"
        "answer = Atlas(sys.argv[1]).concentration('dog', 'contribution', source='text')\n"
        "print(inspect.signature(Atlas.concentration).parameters['top'].default, len(answer))\n"
        "heights = [int(bar.get_height()) for bar in answer.plot().patches]\n"
        "print(sum(heights), heights == answer['count'].to_pylist())\n"
        "check_figure(concentration, answer)\n"
        "try: Atlas(sys.argv[1]).concentration('dog', top=0)\n"
        "except UsageError as error: print(error)\n"
        "try: Atlas(sys.argv[1]).concentration('???', 'contribution', source='text')\n"
        "except UsageError as error: print(error)\n"
    )
    out = python(project, "-c", program, stored_atlas).stdout.splitlines()
    assert out[:2] == [f"40 {len(expected(stored_atlas))}", "40 True"]
    assert out[2:] == ["top must be at least 1", "concept='???' is several concepts; give one"]


def test_the_figure_is_drawn_by_its_command(project: Path, stored_atlas: Path, tmp_path: Path) -> None:
    picture = tmp_path / "layers.svg"
    command = ("plot", "concentration", *ASKED, "--out", picture, "--atlas", stored_atlas)
    assert str(picture) in python(project, "-m", "cli.main", *command).stdout
    assert "<svg" in picture.read_text(encoding="utf-8")


def test_the_files_pass_the_checks_that_a_change_must_pass(project: Path) -> None:
    settings = ("--config", ROOT / "pyproject.toml")
    files = [project / path for path in examples()]
    python(project, "-m", "ruff", "check", *settings, *files)
    python(project, "-m", "ruff", "format", "--check", *settings, *files)
    python(project, "-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports", *files)
