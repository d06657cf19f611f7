"""Plug-ins that clash, cannot be imported or have unreadable metadata: a clear message, and nothing else breaks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import plugin_parts
import pytest
from plugin_parts import COUNT, COUNTED, Site, listed, read_again

import ingest.methods
from atlas import plugins, registry
from atlas.errors import AtlasError, AtlasWarning, UsageError
from cli.main import main
from ingest.job import make_job

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with plugin_parts.site(tmp_path, monkeypatch) as made:
        yield made


def test_a_plugin_with_a_name_of_ours_is_not_used(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("counting", "[neuron_atlas.methods]\ncontribution = counting\n", COUNT)
    told = "the method 'contribution' of counting 1.0 is not used, as neuron-atlas has an entry of that name; "
    with pytest.warns(AtlasWarning, match=f"{told}.*pip uninstall counting"):
        module = registry.load(ingest.methods, "contribution")
    assert module.__name__ == "ingest.methods.contribution"
    rows, err = listed("methods", capsys)
    assert rows["contribution"]["distribution"] == "neuron-atlas" and len(rows) == len(
        registry.folder_names(ingest.methods)
    )
    assert "not used" in err and "pip uninstall counting" in err and err.count("\n") == 1
    with pytest.warns(AtlasWarning):  # each time in a new process, and once in one
        read_again()
        assert "plugins" not in registry.origins({ingest.methods: ["contribution"]})
        registry.load(ingest.methods, "contribution")


def test_a_name_of_two_distributions_is_refused_and_the_others_are_listed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("counting", COUNTED, COUNT)
    site.install("adding", "[neuron_atlas.methods]\ncount = adding\nplus = adding\n", COUNT, version="2")
    both = "there are 2 methods called 'count', of adding 2 and of counting 1.0; .*pip uninstall"
    with pytest.raises(UsageError, match=both):
        registry.load(ingest.methods, "count")
    rows, err = listed("methods", capsys)
    assert "count" not in rows and rows["plus"]["distribution"] == "adding" and "contribution" in rows
    assert re.search(both, err)
    assert registry.origins({ingest.methods: ["plus"]})["methods"]["plus"]["version"] == "2"


FAULTS = {
    "a package that is missing": ("broken", "import no_such_package\ndef build(): ...\n", "no_such_package"),
    "a module of ours that is gone": ("broken", "from ingest.gone import x\ndef build(): ...\n", "ingest.gone"),
    "a syntax error": ("broken", "def build(:\n", "SyntaxError|cannot be read"),
    "no build": ("broken", '"""Nothing."""\n', "broken has no build"),
    "no module": ("broken.elsewhere", "def build(): ...\n", "broken.elsewhere"),
    "an object in place of a module": ("broken:build", "def build(): ...\n", "does not name a module"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_plugin_is_named_where_it_is_asked_for_or_listed(
    fault: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    module, source, reason = FAULTS[fault]
    site.install("broken", f"[neuron_atlas.methods]\nsplit = {module}\n", source)
    message = f"the method 'split' of broken 1.0 cannot be used: .*({reason}).*pip uninstall broken"
    with pytest.raises(AtlasError, match=message):
        make_job({"methods": {"split": {}}})
    rows, err = listed("methods", capsys)
    assert set(rows) == set(registry.folder_names(ingest.methods))
    assert re.search(message, err) and err.startswith("warning: ") and err.count("\n") == 1
    assert make_job({}).methods == {"contribution": {"norm": False}}


@pytest.mark.parametrize(
    "source", ["raise RuntimeError('not\\ntoday')", "import sys; sys.exit(3)", "from math import x"]
)
def test_a_plugin_that_fails_while_it_is_imported(source: str, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("broken", "[neuron_atlas.methods]\nsplit = broken\n", f"{source}\ndef build(*, a: int = 0): ...\n")
    with pytest.raises(
        AtlasError, match="'split' of broken 1.0 cannot be used: .*pip install --upgrade broken"
    ) as caught:
        registry.load(ingest.methods, "split")
    assert "\n" not in str(caught.value) and caught.value.__cause__ is not None
    assert main(["ingest", "--methods", "split", "--dry-run"]) == 1
    out, err = capsys.readouterr()
    assert "'split' of broken 1.0 cannot be used" in err and "Traceback" not in err and not out


def test_a_constant_of_a_plugin_that_cannot_be_imported(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    source = '"""Split."""\nSIZE = 3\nraise ValueError("no")\ndef build(*, a: int = SIZE): ...\n'
    site.install("broken", "[neuron_atlas.methods]\nsplit = broken\n", source)
    rows, err = listed("methods", capsys)
    assert "split" not in rows and "contribution" in rows and "'split' of broken 1.0 cannot be used" in err


@pytest.mark.parametrize("name", ["a.b", "_helper", "two words", "a/b"])
def test_a_name_that_no_command_line_could_give(name: str, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("counting", f"[neuron_atlas.methods]\n{name} = counting\n", COUNT)
    with pytest.raises(AtlasError, match="a name has only letters, digits, - and _"):
        registry.load(ingest.methods, name)
    rows, err = listed("methods", capsys)
    assert name not in rows and "of counting 1.0 cannot be used" in err


def test_metadata_that_cannot_be_read_breaks_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("odd", "[neuron_atlas.methods]\nno equals sign\n", None)
    site.install("counting", COUNTED, COUNT)
    rows, err = listed("methods", capsys)
    assert "count" in rows and "contribution" in rows and "the plug-ins of odd cannot be read" in err
    with pytest.warns(AtlasWarning, match="odd"), pytest.raises(UsageError, match="no method called 'zzz'"):
        registry.load(ingest.methods, "zzz")


def test_an_older_copy_further_down_the_path_does_not_count(
    site: Site, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("counting", "[neuron_atlas.methods]\nold = counting\n", COUNT, version="0.9")
    newer = tmp_path_factory.mktemp("newer")
    shutil.copytree(site.install("other", COUNTED, None), newer / "counting-1.5.dist-info")
    (newer / "counting-1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: Counting\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(newer)
    found = [
        (p.name, p.version)
        for p in plugins.installed("methods")
        if p.module == "counting" and p.distribution == "Counting"
    ]
    assert found == [("count", "1.5")]
    assert "old" not in registry.names(ingest.methods)


def test_a_question_does_not_look_for_plugins(site: Site, stored_atlas: Path, tmp_path: Path) -> None:
    site.install("broken", "[neuron_atlas.methods]\nsplit = broken\ncontribution = broken\n", "def build(:\n")
    site.install("odd", "[neuron_atlas.methods]\nno equals sign\n", None)
    program = (
        "import sys; from atlas import plugins; from cli.main import main; code = main(sys.argv[1:]);"
        "print(code, plugins._read.cache_info().misses, file=sys.stderr)"
    )
    asked = ("query", "--concept", "dog", "--method", "contribution", "--top", "3", "--format", "jsonl")
    done = subprocess.run(
        [sys.executable, "-c", program, *asked, "--atlas", str(stored_atlas)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stderr.splitlines()[-1] == "0 0" and "broken" not in done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_a_figure_of_no_question_and_a_question_that_is_none_break_nothing_else(
    site: Site, stored_atlas: Path, tmp_path: Path
) -> None:
    points = "[neuron_atlas.figures]\nnothing = odd\n[neuron_atlas.questions]\nstrange = odd\n"
    site.install("odd", points, "def draw(answer, *, ax=None):\n    return ax\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli.main", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)

    for arguments in (("--help",), ("plot", "--help")):
        done = run(*arguments)
        assert done.returncode == 0 and "dose-response" in done.stdout
        assert "warning: the figure 'nothing' cannot be drawn: no question called 'nothing'" in done.stderr
        assert ("warning: the question 'strange' of odd 1.0" in done.stderr) == (arguments == ("--help",))
        assert "Traceback" not in done.stderr
    asked = run("query", "--concept", "dog", "--method", "contribution", "--top", "3", "--atlas", str(stored_atlas))
    assert asked.returncode == 0 and "odd" not in asked.stderr
    strange = run("strange")
    assert strange.returncode == 1 and strange.stderr.startswith("atlas: the question 'strange' of odd 1.0")
    assert strange.stderr.count("\n") == 1
