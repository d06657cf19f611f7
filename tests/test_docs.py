"""README.md and every page below docs/: transcripts and Python are run, command lines parsed, links followed.

`UPDATE_DOCS=1 pytest tests/test_docs.py tests/test_docs_architecture.py` writes what is printed now into the pages.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transcripts
import typer
from transcripts import BLOCK, PAGES, ROOT, Step, steps_of

import atlas.figures
from atlas import Atlas, registry
from atlas.errors import AtlasError
from cli import render
from cli.demo import FURTHER, REAL, REAL_MODEL, STEPS, play
from cli.main import make_app
from ingest import zoo
from ingest.evaluate.methods import mapped_concepts, pooled_accuracy

WRITTEN_LATER = ("cli.md", "python.md", "embedded.md", "benchmarks.md")
"""Pages whose headings are written when the site is built, which follows links to them."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def transcript(page: Path) -> list[tuple[str, Step]]:
    """The steps of a page's transcripts, each with its transcript's name."""
    blocks = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(block["name"], step) for block in blocks if block["name"] for step in steps_of(block["text"])]


def shown(page: Path) -> list[str]:
    """The commands of a page's transcripts."""
    return [step.command for _, step in transcript(page)]


def is_run(page: Path) -> bool:
    blocks = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return any(not block["mark"] and block["name"] != transcripts.REAL for block in blocks)


def real_steps(page: Path) -> dict[str, str]:
    """What the commands of a page's transcripts of the real model printed."""
    return {step.command: step.printed for name, step in transcript(page) if name == transcripts.REAL}


def played(path: Path, steps: tuple[str, ...]) -> dict[str, str]:
    """What each step of the demo prints, as a terminal shows it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_as_terminal", False)  # the demo sets it
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            play(path, no_progress=True, steps=steps)
    found = {step.command: step.printed for step in steps_of(printed.getvalue())}
    assert tuple(found) == steps
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The atlas that `atlas demo` leaves behind, and what its steps printed."""
    path = tmp_path_factory.mktemp("demo") / "default.atlas"
    return path, played(path, STEPS)


@pytest.fixture(scope="module")
def further(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `atlas demo --full` prints besides."""
    pytest.importorskip("diffusers")
    return played(tmp_path_factory.mktemp("further") / "default.atlas", FURTHER)


@pytest.fixture(scope="module")
def real_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The same of `atlas demo --real`."""
    try:
        zoo.get(REAL_MODEL)
    except AtlasError as error:
        if "cannot be reached" not in error.message:
            raise
        pytest.skip(f"{REAL_MODEL} is not here and cannot be fetched: {error}")
    path = tmp_path_factory.mktemp("real") / "default.atlas"
    return path, played(path, REAL)


@pytest.fixture
def session(demo: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in an empty folder, with an atlas of its own as the demo left it, and no GPU."""
    as_left(demo[0], tmp_path, monkeypatch)


def as_left(left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = Path(shutil.copytree(left, tmp_path / "default.atlas"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("NEURON_ATLAS", str(atlas))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["atlas"])  # usage errors name the program
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(render, "_as_terminal", True)


@pytest.mark.parametrize("page", [page for page in PAGES if is_run(page)], ids=name)
def test_a_page_prints_what_it_shows(
    page: Path, session: None, demo: tuple[Path, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    known = demo[1]
    if set(shown(page)) & set(FURTHER):
        known = known | request.getfixturevalue("further")
    transcripts.replay(page, known)


def test_every_step_of_the_demo_is_on_some_page() -> None:
    everything = [command for page in PAGES for command in shown(page)]
    assert set(STEPS + FURTHER + REAL) <= set(everything)


def test_what_the_real_model_printed_is_the_same_on_every_page() -> None:
    """And the README shows it as the study has it."""
    study = real_steps(ROOT / "docs" / "real.md")
    first = real_steps(ROOT / "README.md")
    assert first and all(printed.strip() for printed in study.values())
    assert {command: study[command] for command in first} == first


@pytest.mark.nightly
@pytest.mark.parametrize("page", [page for page in PAGES if real_steps(page)], ids=name)
def test_a_page_prints_what_it_shows_of_the_real_model(
    page: Path, real_demo: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_left(real_demo[0], tmp_path, monkeypatch)
    transcripts.replay(page, real_demo[1], real=True)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_line_is_one_that_the_program_takes(page: Path) -> None:
    """Transcripts apart, which are run; but for those that are run at night."""
    root: Any = typer.main.get_command(make_app())
    text = BLOCK.sub(
        lambda match: match[0] if match["name"] == transcripts.REAL else "", page.read_text(encoding="utf-8")
    )
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for step in steps_of(block):
            if step.shown.startswith("$ atlas "):
                command, path, left = root, "atlas", shlex.split(step.command, comments=True)
                while left and left[0] in getattr(command, "commands", {}):
                    command, path, left = command.commands[left[0]], f"{path} {left[0]}", left[1:]
                command.make_context(path, left)  # raises for what is not a command, option or value


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", link):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or target.name in WRITTEN_LATER or anchor in anchors(target), link


def test_the_page_of_figures_names_them_all() -> None:
    table = re.search(r"\| figure \|.*?\n\n", (ROOT / "docs" / "look.md").read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None
    firsts = [line.split("|")[1] for line in table[0].splitlines()[2:] if line]
    assert sorted(re.findall(r"`(\w+)`", " ".join(firsts))) == sorted(registry.names(atlas.figures))


def is_there(named: str) -> bool:
    """Whether a path of the repository exists, or a dotted name can be imported."""
    if "/" in named:
        return (ROOT / named).exists()
    parts = named.split(".")
    for length in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:length]))
            return all((found := getattr(found, part, None)) is not None for part in parts[length:])
    return False


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name)
def test_every_file_and_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:atlas|ingest|cli|tests|benchmarks|alembic|docs)/[\w/.-]+)`", text)
    modules = re.findall(r"`((?:atlas|ingest|cli)(?:\.\w+)+)`", text)
    modules = [module for module in modules if not module.startswith("atlas.duckdb")]
    assert [named for named in files + modules if not is_there(named)] == []


def test_the_readme_is_short() -> None:
    assert (
        len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170
    )  # two screens of transcript, five recipes, links


def test_the_concepts_live_in_the_neurons_that_were_found(demo: tuple[Path, dict[str, str]]) -> None:
    """The figures that the embedded model was made for, on the demo's stored effects and maps."""
    atlas = Atlas.open(demo[0])
    rows = [r for r in atlas.effects().to_pylist() if r["edit"].startswith("contribution:40:")]
    for source, most in (("text", 0.20), ("image", 0.35)):
        before, edit, random = (
            {subset: pooled_accuracy(rows, source, subset, condition) for subset in ("concept", "others")}
            for condition in ("before", "edit", "random")
        )
        assert before["concept"] >= 0.95 and edit["concept"] < most
        assert edit["others"] > 0.90
        assert all(abs(random[subset] - before[subset]) < 0.03 for subset in before)
    concepts = mapped_concepts(demo[0], "contribution", "image", "tiny-llava")
    lifts = [atlas.shared(c, "contribution", top=40).facts["lift"] for c in concepts]
    assert len(concepts) >= 16 and sum(lifts) / len(lifts) >= 10
