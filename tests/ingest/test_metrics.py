"""Every file of ingest/metrics/ against the contract; how they are found; what is said when one cannot be had."""

from __future__ import annotations

import inspect
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
from ingest.evaluate.metric import Judged, Metric, judge, load_metrics

METRICS = registry.names(ingest.metrics)
OF_THE_SET = ("cider",)
"""Metrics whose value of an answer depends on the others: how rare a word is is counted over all of them."""
RANDOM = ("bleurt", "clipscore")
"""Tested with random weights, which do not know that the same is the same."""
HIGHEST = {"cider": 10.0, "clipscore": 2.5, "bleurt": np.inf, "wer": np.inf}
LOWEST = {"bleurt": -np.inf, "moverscore": -np.inf, "wrr": -np.inf}


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


@pytest.fixture
def metric(name: str, options: dict[str, dict[str, Any]], data: None) -> Metric:
    return one(name, **options.get(name, {}))


def test_one_finite_value_an_answer_within_the_bounds_and_always_the_same(name: str, metric: Metric) -> None:
    judged = answers(name)
    found, again = metric.score(judged), metric.score(judged)
    assert found
    for key, values in found.items():
        assert key.startswith(name) and values.shape == (8,) and values.dtype == np.float64
        assert np.isfinite(values).all() and values.min() >= LOWEST.get(name, 0.0)
        assert values.max() <= HIGHEST.get(name, 1.0) and np.ptp(values) > 0
        assert np.array_equal(values, again[key])


def test_empty_answers_and_no_answers(name: str, metric: Metric) -> None:
    judged = [Judged(said, one.references, one.image) for one in answers(name) for said in ("", " \n", "?!")]
    assert all(np.isfinite(v).all() and v.shape == (24,) for v in metric.score(judged).values())
    assert all(v.shape == (0,) and v.dtype == np.float64 for v in metric.score([]).values())
    if name not in ("bleurt", "exact"):  # a model's own word on an empty text; a reference may be empty too
        worst = 1.0 if name == "wer" else 0.0
        (values, *_) = metric.score([Judged("", ("C",), answers(name)[0].image)]).values()
        assert values.tolist() == [worst]


@pytest.mark.parametrize("name", [m for m in METRICS if m not in RANDOM], indirect=True)
def test_the_reference_itself_is_the_best_answer(name: str, metric: Metric) -> None:
    judged = [Judged(one.answer, one.references[:1], one.image) for one in answers(name)]
    perfect = [Judged(one.references[0], one.references, one.image) for one in judged]
    lower = getattr(registry.load(ingest.metrics, name), "LOWER_IS_BETTER", False)
    best, found = metric.score(perfect), metric.score(judged)
    for key, values in found.items():
        better = best[key] - values if not lower else values - best[key]
        assert (better >= -1e-6).all() and (better > 0.01).any()
        if name not in (*OF_THE_SET, "meteor"):  # METEOR's penalty leaves short ones below 1
            assert np.allclose(best[key], 0 if lower else 1, atol=1e-6)


@pytest.mark.parametrize("name", [m for m in METRICS if m not in OF_THE_SET], indirect=True)
def test_an_answer_is_judged_alone(name: str, metric: Metric) -> None:
    judged = answers(name)
    whole, first, second = (metric.score(part) for part in (judged, judged[:4], judged[4:]))
    for key, values in whole.items():
        assert np.allclose(values, np.concatenate([first[key], second[key]]), atol=1e-5)


def test_all_together(options: dict[str, dict[str, Any]], data: None) -> None:
    names = [m for m in METRICS if m != "multiple_choice"]
    found = judge(load_metrics(names, options), answers("bleu"))
    assert {f"bleu{n}" for n in (1, 2, 3, 4)} | set(names) - {"bleu"} <= set(found)
    assert all(values.shape == (8,) for values in found.values())


def test_options_are_keywords_with_defaults_and_what_a_metric_is_for_is_said(name: str) -> None:
    module = registry.load(ingest.metrics, name)
    assert module.__doc__ and module.build.__doc__
    kinds = {p.kind for p in inspect.signature(module.build).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY}
    assert set(registry.parameters(module.build)) == set(inspect.signature(module.build).parameters)
    assert getattr(module, "NEEDS_IMAGE", False) == (name == "clipscore")
    assert getattr(module, "LOWER_IS_BETTER", False) == (name == "wer")


def test_importing_them_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "nltk", "sklearn", "scipy", "bert_score", "sacrebleu", "rouge_score", "jiwer"}
    program = (
        "import sys, ingest.evaluate.metric, ingest.metrics; from atlas import registry\n"
        "for name in registry.names(ingest.metrics): registry.load(ingest.metrics, name)\n"
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
