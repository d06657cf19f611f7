"""Every file of ingest/metrics/ against the contract; how they are found; what is said when one cannot be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judges import answers, one, stand_in_moverscore, tiny_bert, tiny_bleurt, tiny_clip, tiny_wordnet

import ingest.metrics
from atlas import registry
from atlas.errors import Unsupported, UsageError
from atlas.testing import check_metric
from ingest.evaluate.metric import Judged, judge, load_metrics

METRICS = registry.folder_names(ingest.metrics)
RANDOM = {"lowest": -np.inf, "highest": np.inf, "empty": None, "understands": False}
"""Tested with random weights, which do not know that the same is the same."""
EXPECTED: dict[str, dict[str, Any]] = {
    "multiple_choice": {"choices": True},
    "exact": {"empty": None},  # a reference may be empty too
    "meteor": {"best": None},  # its penalty leaves short answers below 1
    "moverscore": {"lowest": -np.inf},
    "wrr": {"lowest": -np.inf},
    "wer": {"highest": np.inf, "empty": 1.0, "best": 0.0},
    "cider": {"highest": 10.0, "best": None, "alone": False},  # how rare a word is is counted over all answers
    "clipscore": {"highest": 2.5, "understands": False},
    "bleurt": RANDOM,
}
"""What a metric's values are like where they are not between 0 and 1 (`atlas.testing.check_metric`)."""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    pytest.importorskip("bert_score")
    made = {"bertscore": tiny_bert, "bleurt": tiny_bleurt, "clipscore": tiny_clip}
    return {name: {"model": make(tmp_path_factory.mktemp(name))} for name, make in made.items()}


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What nothing in this repository can bring: WordNet and moverscore_v2."""
    nltk = pytest.importorskip("nltk")
    folder = tiny_wordnet(tmp_path / "nltk", [("dog", "hound"), ("grass", "lawn")])
    monkeypatch.setattr(nltk.data, "path", [str(folder)])
    stand_in_moverscore(monkeypatch)


@pytest.fixture(params=METRICS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_metric_keeps_its_contract(name: str, options: dict[str, dict[str, Any]], data: None) -> None:
    module = registry.load(ingest.metrics, name)
    check_metric(module, options=options.get(name), **EXPECTED.get(name, {}))
    assert getattr(module, "NEEDS_IMAGE", False) == (name == "clipscore")
    assert getattr(module, "LOWER_IS_BETTER", False) == (name == "wer")


def test_all_together(options: dict[str, dict[str, Any]], data: None) -> None:
    names = [m for m in METRICS if m != "multiple_choice"]
    found = judge(load_metrics(names, options), answers("bleu"))
    assert {f"bleu{n}" for n in (1, 2, 3, 4)} | set(names) - {"bleu"} <= set(found)
    assert all(values.shape == (8,) for values in found.values())


def test_importing_them_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "nltk", "sklearn", "scipy", "bert_score", "sacrebleu", "rouge_score", "jiwer"}
    program = (
        "import sys, ingest.evaluate.metric, ingest.metrics; from atlas import registry\n"
        "for name in registry.folder_names(ingest.metrics): registry.load(ingest.metrics, name)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_and_options_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="no metric called 'blue'; did you mean 'bleu'?"):
        load_metrics(["blue"], {})
    with pytest.raises(UsageError, match="no metric called '_common'"):
        load_metrics(["_common"], {})
    with pytest.raises(UsageError, match="no parameter of meteor called 'alfa'; did you mean 'alpha'?"):
        load_metrics(["meteor"], {"meteor": {"alfa": 1}})
    with pytest.raises(UsageError, match="layers='deep' is not a int"):
        load_metrics(["bertscore"], {"bertscore": {"layers": "deep"}})
    with pytest.raises(UsageError, match="options for 'bleurt', which is not among the metrics: exact, vqa"):
        load_metrics(["exact", "vqa"], {"bleurt": {"model": "x"}})


def test_two_metrics_with_one_name_of_a_value_and_an_answer_without_references() -> None:
    loaded = load_metrics(["exact", "vqa"], {})
    assert list(loaded) == ["exact", "vqa"]
    with pytest.raises(ValueError, match="exact"):
        judge({"one": loaded["exact"], "two": loaded["exact"]}, answers("exact"))
    with pytest.raises(ValueError, match="at least one reference"):
        Judged("dog", ())


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("bleu", "sacrebleu"),
        ("rouge_l", "rouge_score"),
        ("rouge_l", "nltk"),
        ("meteor", "nltk"),
        ("bertscore", "bert_score"),
        ("wer", "jiwer"),
        ("wrr", "jiwer"),
    ],
)
def test_a_package_that_is_missing(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [m for m in sys.modules if m == module or m.startswith((f"{module}.", "rouge_score."))]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unsupported, match=r"needs [a-z-]+: pip install 'neuron-atlas\[metrics\]'$"):
        one(name)


def test_a_model_that_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    for name in ("bertscore", "bleurt", "clipscore"):
        with pytest.raises(UsageError, match=f"the {name} metric needs a model: --{name}-model ID_OR_FOLDER"):
            one(name)
        with pytest.raises(UsageError, match=f"{name}: cannot load the model '{tmp_path}': .+"):
            one(name, model=str(tmp_path))
