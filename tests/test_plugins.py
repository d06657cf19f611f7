"""Entries that other distributions add: found, listed, run, recorded, and held to the contracts of our own."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import plugin_parts
import pytest
from plugin_parts import COUNT, COUNTED, Site, forget, listed

import ingest.datasets
import ingest.label_rules
import ingest.methods
import ingest.metrics
from atlas import Atlas, registry
from atlas.errors import UsageError
from atlas.live import families
from atlas.maintain.check import check
from atlas.query.run_record import facts
from atlas.store.database import open_readonly
from atlas.testing import check_family, check_method, check_metric
from cli.main import main
from ingest.analyse import labelling
from ingest.evaluate.generated import plugin_metrics
from ingest.evaluate.metric import load_metrics
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run.ingest import ingest as run_ingest
from ingest.solve.solve import SolveSpec, solve
from ingest.solve.swaps import Swap

ROOT = Path(__file__).resolve().parents[1]
METHOD = "absolute_contribution"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plug-in package of `tests/plugin_example`."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "tests" / "plugin_example", folder / "source")
    offline = ("--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site", folder / "source"]
    subprocess.run(command, check=True)
    return folder / "site"


@pytest.fixture
def installed(example: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example, where Python looks for packages."""
    monkeypatch.syspath_prepend(example)
    yield example
    forget("atlas_example")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with plugin_parts.site(tmp_path, monkeypatch) as made:
        yield made


def test_a_plugin_is_listed_with_its_distribution_and_not_imported(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, err = listed("methods", capsys)
    assert rows[METHOD]["distribution"] == "atlas-example" and not err
    assert str(rows[METHOD]["about"]).startswith("The size of a neuron's direct effect")
    assert rows["contribution"]["distribution"] == "neuron-atlas"
    assert set(rows) == {*registry.folder_names(ingest.methods), METHOD}
    assert "atlas_example" not in sys.modules
    assert registry.names(ingest.metrics) == sorted([*registry.folder_names(ingest.metrics), "first_word"])


def test_the_plugin_keeps_the_contracts(installed: Path) -> None:
    check_method(registry.load(ingest.methods, METHOD), name=METHOD)
    check_metric(registry.load(ingest.metrics, "first_word"), name="first_word")


def test_a_misspelt_name_finds_the_plugin(installed: Path) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{METHOD}'"):
        registry.load(ingest.methods, "absolute_contributio")
    with pytest.raises(UsageError, match="did you mean 'first_word'"):
        load_metrics(["frist_word"], {})


def test_a_run_stores_its_maps_and_records_where_it_comes_from(
    installed: Path, empty_atlas: Path, llava_folder: Path
) -> None:
    content = {"model": str(llava_folder), "concepts": ("cat", "dog"), "per_concept": 2, "sources": ("text",)}
    job = make_job(content | {"methods": {METHOD: {}, "contribution": {}}})
    outcome = run_ingest(empty_atlas, job, Execution())
    assert not check(empty_atlas)
    with open_readonly(empty_atlas) as connection:
        query = "SELECT method, min(score) >= 0 FROM maps JOIN scores USING (map_id) WHERE reduce = 'mean' GROUP BY ALL"
        found = dict(connection.execute(query).fetchall())
    assert found == {METHOD: True, "contribution": False}
    recorded = facts(empty_atlas, outcome.run_id).facts["job"]["plugins"]
    digest = hashlib.sha256((installed / "atlas_example" / "method.py").read_bytes()).hexdigest()
    assert recorded == {"methods": {METHOD: {"distribution": "atlas-example", "version": "0.1", "sha256": digest}}}
    without = run_ingest(empty_atlas, make_job(content), Execution())
    assert "plugins" not in facts(empty_atlas, without.run_id).facts["job"]


def test_another_version_or_another_source_is_another_run(site: Site, empty_atlas: Path, llava_folder: Path) -> None:
    content = {"model": str(llava_folder), "concepts": ("dog",), "per_concept": 2, "sources": ("text",)}
    job = content | {"methods": {"count": {}}}
    info = site.install("counting", COUNTED, COUNT)
    first = run_ingest(empty_atlas, make_job(job), Execution())
    assert not run_ingest(empty_atlas, make_job(job), Execution()).fresh
    shutil.rmtree(info)
    info = site.install("counting", COUNTED, COUNT, version="1.1")
    second = run_ingest(empty_atlas, make_job(job), Execution())
    shutil.rmtree(info)
    site.install("counting", COUNTED, COUNT + "# changed\n", version="1.1")
    third = run_ingest(empty_atlas, make_job(job), Execution())
    assert len({first.run_id, second.run_id, third.run_id}) == 3


def test_parameters_of_a_plugin_are_checked_as_our_own(site: Site) -> None:
    site.install("counting", COUNTED, COUNT)
    assert make_job({"methods": {"count": {"of": "3"}}}).methods == {"count": {"of": 3}}
    with pytest.raises(UsageError, match=r"no parameter of count called 'off'; did you mean 'of'\? \(`atlas methods`"):
        make_job({"methods": {"count": {"off": 3}}})


BLINKS = '''
    """blinks: the scenes under another name."""
    from ingest.datasets.scenes import build as scenes

    def build(path=None, *, seed: int = 0):
        """seed: another world."""
        made = scenes(path, seed=seed)
        made.name = "blinks"
        return made
    '''


def test_a_dataset_of_a_plugin(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("blinking", "[neuron_atlas.datasets]\nblinks = blinking\n", BLINKS)
    rows, err = listed("datasets", capsys)
    assert rows["blinks"]["distribution"] == "blinking" and rows["blinks"]["parameters"] == "seed=0" and not err
    assert open_dataset(Job(dataset="blinks")).name == "blinks"
    recorded = registry.origins({ingest.datasets: ["blinks", "scenes"], ingest.methods: ["contribution"]})
    assert list(recorded) == ["datasets"] and recorded["datasets"]["blinks"]["distribution"] == "blinking"


def test_a_metric_of_a_plugin_is_recorded_where_it_judges(installed: Path) -> None:
    dataset = open_dataset(Job())
    used = plugin_metrics(dataset, ["caption"], ["first_word", "exact"])
    assert used["metrics"]["first_word"]["distribution"] == "atlas-example" and list(used["metrics"]) == ["first_word"]
    assert plugin_metrics(dataset, ["caption"], None) == {}


def test_a_family_of_a_plugin(site: Site) -> None:
    import families as tiny

    site.install(
        "reading",
        "[neuron_atlas.families]\nopt = reading\n",
        '"""OPT, with a head that quantisation leaves as it is."""\n'
        "from atlas.live.families._family import Family\nFAMILY = Family(unquantised=('lm_head',))\n",
    )
    model, _ = tiny.opt()
    assert families.of(model.config).unquantised == ("lm_head",)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_family(registry.load(families, "opt"), tiny.opt, kind="text")


WRITING = '''
    """One number for every neuron of a layer."""
    import numpy as np
    from atlas.edits.edit import Change, Intervention
    from atlas.neurons import Neuron
    from ingest.solve.problem import Solution

    class Writing:
        def solve(self, problem):
            changes = tuple(Change(Neuron("language", 1, index), write=index) for index in range(8))
            deltas = np.ones((8, problem.live.layout.d_model), np.float32)
            return Solution(Intervention(changes, deltas=deltas), {})

    def build():
        """No parameters."""
        return Writing()
    '''


def test_a_solver_and_a_rule_of_plugins_are_recorded(site: Site, empty_atlas: Path, llava_folder: Path) -> None:
    rule = '"""None."""\nclass None_:\n    method = "lape"\n    def label(self, runs):\n        return iter(())\n'
    rule += 'def build():\n    """No parameters."""\n    return None_()\n'
    site.install("writing", "[neuron_atlas.solvers]\nones = writing\n", WRITING)
    kind = registry.kind_of(ingest.label_rules)
    site.install("ruling", f"[neuron_atlas.{kind}]\nnone = ruling\n", rule)
    content = {"model": str(llava_folder), "concepts": ("dog",), "per_concept": 2, "sources": ("text",)}
    swap = SolveSpec("ones", Swap("dog", "cat"))
    speaking = {"model": "tiny-llava", "sources": ("image",), "tasks": ("caption",)}
    edit, _ = solve(empty_atlas, "swap", swap, make_job(content | speaking), Execution())
    assert edit.provenance["solver"]["plugins"]["solvers"]["ones"]["distribution"] == "writing"
    run_ingest(empty_atlas, make_job(content | {"methods": {"lape": {}}}), Execution())
    labelled = labelling.make(empty_atlas, "none")
    recorded = facts(empty_atlas, labelled.run_id).facts["job"]["plugins"]
    assert recorded[kind]["none"]["distribution"] == "ruling"


def test_a_family_of_a_plugin_is_recorded(site: Site, empty_atlas: Path, llava_folder: Path) -> None:
    job = make_job({"model": str(llava_folder), "concepts": ("dog",), "per_concept": 1, "sources": ("text",)})
    without = run_ingest(empty_atlas, job, Execution())
    source = '"""LLaVA."""\nfrom atlas.live.families._family import Family\nFAMILY = Family()\n'
    site.install("seeing", "[neuron_atlas.families]\nllava = seeing\n", source)
    outcome = run_ingest(empty_atlas, job, Execution())
    recorded = facts(empty_atlas, outcome.run_id).facts["job"]["plugins"]
    assert recorded["families"]["llava"]["distribution"] == "seeing" and outcome.run_id != without.run_id


ODD = '''
    """Neurons of odd numbers."""
    from __future__ import annotations
    from pathlib import Path
    from atlas.query.neuron_set import NeuronSet
    from atlas.query.option import described, option
    from atlas.query.question import Question
    from atlas.questions.query import Query

    @described
    class Odd(Question[NeuronSet]):
        """The odd neurons among a concept's best."""

        examples = ("atlas odd-neurons --concept dog",)

        concept: str = option("The concept.", "--concept", "-c", default="dog")
        top: int = option("How many are looked at.", default=20, least=1)

        def answer(self, path: Path) -> NeuronSet:
            best = Query(self.concept, top=self.top).answer(path)
            keep = [neuron.index % 2 == 1 for neuron in best]
            return NeuronSet(best.table.filter(keep), best.provenance)
    '''


def test_a_question_of_a_plugin_is_a_command(
    site: Site, stored_atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("oddly", "[neuron_atlas.questions]\nodd_neurons = oddly\n", ODD)
    where = ("--format", "jsonl", "--atlas", str(stored_atlas))
    assert main(["odd-neurons", "--concept", "dog", "--top", "30", *where]) == 0
    odd = [(row["layer"], row["neuron"]) for row in map(json.loads, capsys.readouterr().out.splitlines())]
    best = [(n.layer, n.index) for n in Atlas(stored_atlas).query("dog", top=30)]
    assert odd == [at for at in best if at[1] % 2 == 1] and odd
    assert main(["odd-neurons", "--top", "0", *where]) == 2
    assert "--top must be at least 1" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "odd-neurons" in capsys.readouterr().out


BARS = '''
    """How many maps each run stored."""

    def draw(answer, *, ax=None):
        """A bar for each run."""
        if ax is None:
            from matplotlib import pyplot as plt
            ax = plt.subplots()[1]
        ax.bar(answer["run"].to_pylist(), answer["maps"].to_pylist())
        ax.set(xlabel="run", ylabel="maps")
        return ax
    '''


def test_a_figure_of_a_question_of_ours_is_drawn(
    site: Site, stored_atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib").use("agg")
    from atlas.testing import check_figure

    site.install("bars", "[neuron_atlas.figures]\nruns = bars\n", BARS)
    answer = Atlas(stored_atlas).runs()
    check_figure(registry.load(importlib.import_module("atlas.figures"), "runs"), answer)
    assert [bar.get_height() for bar in answer.plot().patches] == answer["maps"].to_pylist()
    picture = tmp_path / "runs.svg"
    command = ["plot", "runs", "--out", str(picture), "--atlas", str(stored_atlas)]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "cli.main", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "<svg" in picture.read_text(encoding="utf-8"), done.stderr
