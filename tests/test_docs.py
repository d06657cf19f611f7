"""The README cannot lie: its transcripts are run, its Python too, and what they print is compared.

`UPDATE_README=1 pytest tests/test_docs.py` writes what the commands print now into the README.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas import Atlas
from cli import render
from cli.demo import FURTHER, STEPS, play
from cli.main import main
from ingest.evaluate.methods import pooled

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"<!-- transcript: (?P<name>\w+) -->\n```console\n(?P<text>.*?)```", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
UPDATE = bool(os.environ.get("UPDATE_README"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The atlas that `atlas demo` leaves behind, and what it printed."""
    path = tmp_path_factory.mktemp("demo") / "default.atlas"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURON_ATLAS", str(path))
        patch.setattr(render, "_as_terminal", False)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            play(path, no_progress=True)
        yield path, printed.getvalue()


def block(name: str) -> str:
    return {m["name"]: m["text"] for m in BLOCK.finditer(README.read_text(encoding="utf-8"))}[name]


def compared(name: str, now: str) -> None:
    """Numbers may differ by rounding; durations, moments and run ids freely; all else must be the same."""
    if UPDATE:
        text = README.read_text(encoding="utf-8")
        old = f"<!-- transcript: {name} -->\n```console\n{block(name)}```"
        README.write_text(text.replace(old, f"<!-- transcript: {name} -->\n```console\n{now}```"), encoding="utf-8")
    mine, theirs = (_free(t).splitlines() for t in (block(name), now))
    assert len(mine) == len(theirs), now
    for written, printed in zip(mine, theirs, strict=True):
        assert NUMBER.sub("#", written).split() == NUMBER.sub("#", printed).split()
        numbers = [[float(n) for n in NUMBER.findall(line)] for line in (written, printed)]
        few = 6.0 if "%" in written else 0.02  # a share moves by a few points where one answer tips
        assert numbers[1] == pytest.approx(numbers[0], rel=0.02, abs=few)


def _free(text: str) -> str:
    text = re.sub(r"^[0-9a-f]{32}$|^[0-9a-f]{8}(?=,)", "id", text, flags=re.MULTILINE)  # other versions, other ids
    text = re.sub(r"\d+(\.\d+)? s$", "# s", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=,)\d+\.\d+(?=,\d{4}-)", "#", text)  # a run's seconds, before its start
    text = re.sub(
        r"^(epochs|worst_\w+|delta_norm): .*$", r"\1: #", text, flags=re.MULTILINE
    )  # learned, so rounding tells
    text = re.sub(r"--after \S+$", "--after #", text, flags=re.MULTILINE)  # a cursor
    text = re.sub(r"took .* with it$", "took #", text, flags=re.MULTILINE)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+", "#", text)
    return re.sub(r"-{3,}", "---", re.sub(r" +", " ", text))


def typed(text: str) -> list[str]:
    return [line.removeprefix("$ atlas ") for line in text.splitlines() if line.startswith("$ atlas ")]


def transcript(commands: list[str]) -> str:
    """What a person would see who types the commands in a terminal."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for i, command in enumerate(commands):
            printed.write(("\n" if i else "") + f"$ atlas {command}\n")
            assert main(shlex.split(command)) == 0, printed.getvalue()
    return printed.getvalue()


def test_the_first_screen_is_what_the_demo_prints(demo: tuple[Path, str]) -> None:
    printed = demo[1].rstrip("\n") + "\n"
    assert typed(printed) == list(STEPS)
    compared("demo", printed)


def test_the_further_models_of_the_demo_hear_and_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setenv("NEURON_ATLAS", str(tmp_path / "further.atlas"))
    monkeypatch.setattr(render, "_as_terminal", False)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        play(tmp_path / "further.atlas", no_progress=True, steps=FURTHER)
    assert typed(printed.getvalue()) == list(FURTHER)
    compared("full", printed.getvalue().rstrip("\n") + "\n")


def test_the_concepts_live_in_the_neurons_that_were_found(demo: tuple[Path, str]) -> None:
    """The figures that the embedded model was made for, on the demo's stored effects and maps."""
    atlas = Atlas.open(demo[0])
    rows = [r for r in atlas.listing("effects").to_pylist() if r["edit"].startswith("contribution:40:")]
    for source, most in (("text", 0.20), ("image", 0.35)):
        before, edit, random = (
            {subset: pooled(rows, source, subset, condition) for subset in ("concept", "others")}
            for condition in ("before", "edit", "random")
        )
        assert before["concept"] >= 0.95 and edit["concept"] < most
        assert edit["others"] > 0.90
        assert all(abs(random[subset] - before[subset]) < 0.03 for subset in before)
    concepts = atlas.mapped("contribution", source="image")
    lifts = [atlas.shared(c, "contribution", top=40).statistics["lift"] for c in concepts]
    assert len(concepts) >= 16 and sum(lifts) / len(lifts) >= 10


@pytest.mark.parametrize("name", ["ask", "vectors", "edit", "share"])
def test_the_other_transcripts_run_and_match(
    name: str, demo: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what a transcript writes beside the atlas
    compared(name, transcript(typed(block(name))))


def test_the_python_of_the_readme_runs(demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    scope: dict[str, object] = {}
    printed = io.StringIO()
    for code in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        with contextlib.redirect_stdout(printed):
            exec(code, scope)
    lines = printed.getvalue().splitlines()
    assert int(lines[0].split()[0]) > 10  # neurons that both sides share
    assert lines[-1].strip() and "bark" not in lines[-1]  # the dog's neurons are ablated


def test_every_command_and_method_is_in_the_readme() -> None:
    import ingest.methods
    from atlas import registry

    text = README.read_text(encoding="utf-8")
    for word in ("query", "shared", "neuron", "ingest", "evaluate", "generate", "demo", "edit create", "db check"):
        assert f"atlas {word}" in text
    for method in registry.folder_names(ingest.methods):
        assert f"`{method}`" in text
