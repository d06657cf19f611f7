"""What `ablation` is asked for against what the model has; and what becomes of scores that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from atlas.errors import UsageError
from atlas.live.model import LiveModel
from atlas.store import engine
from atlas.store.schema import maps
from ingest.attribution.estimators import NeuronMap
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.job import Execution, make_job
from ingest.methods import ablation
from ingest.run.arrow_tables import rank_columns
from ingest.run.ingest import ingest


def score(live: LiveModel, options: dict[str, Any], traced_layers: tuple[int, ...] | None = None) -> list[NeuronMap]:
    """The maps of one example of the word dog."""
    prompt = live.encoder.prompt("what is this ?", answer="a dog")
    target = Target("dog", len(prompt.answer) - 1, 1.0)
    method = ablation.build(**options)
    with traced(live, [Item(0, prompt, (target,))], "text", layers=traced_layers, tap="product", grad=False) as trace:
        method.update(trace)
    return list(method.result())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "99"}, "no layer 99; this model has layers 0-1"),
        ({"layers": "1-2"}, "no layer 2; this model has layers 0-1"),
        ({"neurons": "9/9"}, "no layer 9; this model has layers 0-1"),
        ({"neurons": "1/3,1/64"}, "no neuron 1/64; layer 1 has neurons 1/0 to 1/63"),
        ({"neurons": "vision/1/17"}, "ablation has no neuron vision/1/17"),
        ({"layers": "0", "neurons": "1/3"}, "have none of the layers that this job scores: 0, 1"),
    ],
)
def test_what_the_model_does_not_have_is_refused(llava: LiveModel, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score(llava, options)


def test_layers_that_the_job_does_not_trace_are_refused(llava: LiveModel) -> None:
    with pytest.raises(UsageError, match="this job scores: 0"):
        score(llava, {"layers": "1"}, traced_layers=(0,))


def test_the_last_neuron_is_a_candidate(llava: LiveModel) -> None:
    (found,) = score(llava, {"neurons": "1/63,1/0"})
    assert found.layers == (1,)
    assert torch.isfinite(found.scores[0]).nonzero()[:, 0].tolist() == [0, 63]


def test_a_refused_job_stores_no_map(llava_folder: Path, empty_atlas: Path) -> None:
    content = {"model": str(llava_folder), "methods": {"ablation": {"neurons": "1/9999"}}, "concepts": ("dog",)}
    with pytest.raises(UsageError, match="no neuron 1/9999"):
        ingest(empty_atlas, make_job({**content, "per_concept": 1}), Execution())
    with engine.connect_readonly(empty_atlas) as connection:
        assert connection.execute(maps.select()).all() == []


def test_scores_that_are_not_finite_are_not_stored() -> None:
    values = torch.tensor([[1.0, float("inf"), 3.0], [float("nan"), -float("inf"), 3.0]])
    found = rank_columns(NeuronMap("dog", "text", "text", "mean", values, (4, 7), 1))
    places = list(zip(found["layer"].tolist(), found["neuron"].tolist(), strict=True))
    assert places == [(4, 0), (4, 2), (7, 2)] and found["score"].tolist() == [1, 3, 3]
    assert found["rank"].tolist() in ([3, 1, 2], [3, 2, 1])
    assert np.isfinite(found["score"]).all()


def test_the_tops_of_maps_that_are_mostly_zero_overlap_by_chance_alone() -> None:
    """Two maps of 2,048 neurons that share nothing but their zeros: 20 of each overlap in 0.2 neurons."""
    overlaps = []
    for seed in range(40):
        tops = []
        for side in (0, 1):
            values = torch.zeros(4, 512)
            values[side, :3] = 1.0  # no neuron in common
            found = rank_columns(NeuronMap("dog", "text", "text", "mean", values, (0, 1, 2, 3), 1), 2 * seed + side)
            assert set(found["layer"][found["rank"] <= 3].tolist()) == {side}
            top = found["rank"] <= 20
            tops.append(set(zip(found["layer"][top].tolist(), found["neuron"][top].tolist(), strict=True)))
        overlaps.append(len(tops[0] & tops[1]))
    assert sum(overlaps) / len(overlaps) < 1
    same = [
        rank_columns(NeuronMap("dog", "text", "text", "mean", torch.zeros(4, 512), (0, 1, 2, 3), 1), 5)
        for _ in range(2)
    ]
    assert np.array_equal(same[0]["rank"], same[1]["rank"])


def test_small_effects_survive_half_precision(random_llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact effects of a model in bfloat16 against those of float32 with the same weights; and what is left of them
    where the restarted layers round every result to bfloat16."""
    model, processor = random_llava(seed=6)
    half = LiveModel(model.to(torch.bfloat16), processor, name="half")
    [found] = score(half, {})
    monkeypatch.setattr(ablation, "HALF", ())
    [rounded] = score(half, {})
    monkeypatch.undo()
    [exact] = score(LiveModel(half.model.float(), processor, name="full"), {})
    size = exact.scores.abs().max()
    assert float((found.scores - exact.scores).abs().max()) < 0.05 * float(size)
    agreement = [float(spearmanr(s.scores.flatten(), exact.scores.flatten()).statistic) for s in (found, rounded)]
    assert agreement[0] > 0.98 and agreement[0] > agreement[1]
    wrong = [float((s.scores.sign() != exact.scores.sign()).float().mean()) for s in (found, rounded)]
    assert wrong[0] < 0.05 and wrong[0] < wrong[1]
