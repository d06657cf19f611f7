"""Cohen's d and AUROC from mergeable sums, against their definitions on the raw scores; negatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from atlas.errors import UsageError
from ingest.attribution import estimators
from ingest.attribution.estimators import PairMethod
from ingest.attribution.reductions import BINS, REDUCTIONS, auroc, bins, cohens_d
from ingest.data.examples import Example, Mention
from ingest.data.targets import NONE
from ingest.datasets import scenes
from ingest.job import make_job
from ingest.run.prepare import negatives

N = 6


class Given(PairMethod):
    """A method whose scores are handed to it."""

    def scores(self, trace: object) -> dict[str, Tensor]:
        return {"": trace.given}  # type: ignore[attr-defined]

    def layers(self, trace: object) -> tuple[int, ...]:
        return (0, 1)


class Batch:
    source = target = "text"

    def __init__(self, concepts: list[str], given: Tensor):
        self.concepts, self.given, self.pairs = concepts, given, torch.zeros(len(concepts), dtype=torch.long)


def fed(concepts: list[str], scores: Tensor, size: int) -> Given:
    method = Given()
    method.reductions = REDUCTIONS
    for begin in range(0, len(concepts), size):
        method.update(Batch(concepts[begin : begin + size], scores[:, begin : begin + size]))  # type: ignore[arg-type]
    return method


@pytest.fixture
def labelled() -> tuple[list[str], Tensor]:
    generator = torch.Generator().manual_seed(0)
    concepts = ["dog"] * 9 + ["cat"] * 7 + [NONE] * 5
    scores = torch.randn(2, len(concepts), N, generator=generator)
    scores[0, :9, 2] += 5  # this one tells dogs apart
    scores[1, :, 4] = 1.5  # this one never varies
    return concepts, scores


@pytest.mark.parametrize("cells", [estimators.FAR_CELLS, 5])
def test_sums_kept_on_a_gpu_are_the_same(
    cells: int, labelled: tuple[list[str], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    near = fed(*labelled, 4).state()
    monkeypatch.setattr(estimators, "FAR_CELLS", cells)
    monkeypatch.setattr(estimators, "_far", lambda scores: scores is not None)  # as if all came from a GPU
    far = fed(*labelled, 4)
    assert bool(far.pairs._far) is (cells > 5), "they stay until they are asked for, or are too many"
    assert far.state().keys() == near.keys()
    assert all(torch.equal(value, near[key]) for key, value in far.state().items())
    assert not far.pairs._far


def test_every_reduction_against_its_definition(labelled: tuple[list[str], Tensor]) -> None:
    concepts, scores = labelled
    found = {(m.concept, m.reduce): m.scores for m in fed(concepts, scores, 4).result()}
    assert {c for c, _ in found} == {"dog", "cat"}
    dog, rest = scores[:, :9].numpy(), scores[:, 9:].numpy()
    cat, none = scores[:, 9:16].numpy(), scores[:, 16:].numpy()
    gap = dog.mean(1) - (cat.mean(1) + none.mean(1)) / 2
    assert np.allclose(found["dog", "mean"], dog.mean(1), atol=1e-6)
    assert np.allclose(found["dog", "contrast"], gap, atol=1e-6)
    n, m = dog.shape[1], rest.shape[1]
    spread = np.sqrt(((n - 1) * dog.var(1, ddof=1) + (m - 1) * rest.var(1, ddof=1)) / (n + m - 2))
    d = found["dog", "cohens_d"].numpy()
    varied = spread > 1e-6
    assert np.allclose(d[varied], ((dog.mean(1) - rest.mean(1)) / np.where(varied, spread, 1))[varied], atol=1e-5)
    assert np.isnan(d[1, 4]) and varied.sum() == 2 * N - 1
    area = found["dog", "auroc"].numpy()
    pairs = dog[:, :, None] - rest[:, None]
    exact = ((pairs > 0) + 0.5 * (pairs == 0)).mean((1, 2))
    assert np.abs(area - exact).max() < 0.05  # four bins an octave
    assert area[0, 2] == exact[0, 2] == 1.0 and area[1, 4] == 0.5


def test_auroc_of_the_binned_scores_is_exact_and_bins_are_in_order() -> None:
    values = torch.cat([torch.tensor([-(2.0**9), -1.0, -1e-9, 0.0, 1e-9, 1e-7, 0.3, 0.31, 1.0, 1.5, 1e9])])
    place = bins(values)
    assert bool((place.diff() >= 0).all()) and int(place[0]) == 0 and int(place[-1]) == BINS - 1
    assert place[2] == place[3] == place[4] and place[6] == place[7]
    generator = torch.Generator().manual_seed(1)
    p, n = torch.randint(0, BINS, (12,), generator=generator), torch.randint(0, BINS, (15,), generator=generator)
    sides = [torch.bincount(x, minlength=BINS)[None] for x in (p, n)]
    wins = (p[:, None] > n[None]).float() + 0.5 * (p[:, None] == n[None]).float()
    assert float(auroc(*sides)) == pytest.approx(float(wins.mean()))


def test_too_few_pairs_have_no_cohens_d() -> None:
    one = (torch.ones(1), torch.ones(1), 1)
    assert cohens_d(one, one) is None


def test_one_concept_alone_has_a_mean_and_nothing_to_contrast_with() -> None:
    found = [m.reduce for m in fed(["dog"] * 4, torch.randn(2, 4, N), 2).result()]
    assert found == ["mean"]


def test_negatives_show_none_of_the_concepts() -> None:
    world = scenes.build()
    job = make_job({"concepts": ["dog"], "negatives": 5, "sources": ["image"]})
    found = negatives(job, world, "image", "find", ("caption",))
    assert len(found) == 5
    assert all("dog" not in world.shown(e.media[0]) for e in found)
    everything = make_job({"concepts": list(world.concepts), "negatives": 5})
    with pytest.raises(UsageError, match="leave out negatives"):
        negatives(everything, world, "image", "find", ("caption",))


def test_negative_examples_stand_for_no_concept(llava: object) -> None:
    from ingest.run.encode_examples import ExampleEncoder

    world = scenes.build()
    job = make_job({"concepts": ["dog"], "negatives": 1, "sources": ["text"]})
    feed = ExampleEncoder(llava, world, job)  # type: ignore[arg-type]
    example = Example("text", "does", "find", "what does it do ?", "a cat", (Mention("cat"),))
    (item,) = feed.items([(0, example)], 1)
    assert {t.concept for t in item.targets} == {NONE}
    assert sum(t.weight for t in item.targets) == pytest.approx(1)
    assert len(item.targets) == len(item.prompt.answer)


def test_the_vocabulary_finds_every_concept_that_the_answer_names(llava: object) -> None:
    from ingest.run.encode_examples import ExampleEncoder

    world = scenes.build()
    example = Example("text", "does", "find", "what is it ?", "a dog and a cat", (Mention("dog"),))
    for mentions, expected in (("shown", {"dog"}), ("vocabulary", {"dog", "cat"})):
        job = make_job({"sources": ["text"], "mentions": mentions, "concepts": ["cat", "dog"]})
        (item,) = ExampleEncoder(llava, world, job).items([(0, example)], 1)  # type: ignore[arg-type]
        assert {t.concept for t in item.targets} == expected


def test_cohens_d_of_scores_that_barely_vary_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 1 + 1e-4 * torch.randn(2, 60, N, generator=generator)
    concepts = ["dog"] * 30 + ["cat"] * 30
    found = {(m.concept, m.reduce): m.scores for m in fed(concepts, scores, 7).result()}["dog", "cohens_d"]
    dog, cat = scores[:, :30].double(), scores[:, 30:].double()
    expected = (dog.mean(1) - cat.mean(1)) / ((dog.var(1) + cat.var(1)) / 2).sqrt()
    assert torch.allclose(found, expected.float(), atol=0.02)


def test_merging_leaves_the_other_state_as_it_was(labelled: tuple[list[str], Tensor]) -> None:
    concepts, scores = labelled
    other = fed(concepts, scores, 4).state()
    before = {key: value.clone() for key, value in other.items()}
    method = Given()
    method.reductions = REDUCTIONS
    method.merge(other)
    method.merge(other)
    assert all(torch.equal(value, before[key]) for key, value in other.items())
