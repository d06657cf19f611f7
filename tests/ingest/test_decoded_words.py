"""Whether a concept's word is among the tokens of the neurons that contribute to it, beside random neurons."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from atlas.errors import AtlasError
from atlas.live.logit_lens import Lens
from atlas.live.model import LiveModel
from atlas.query.decoded import PLAIN, Z
from ingest import zoo
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import map_portion
from ingest.run.prepare import collect, completed

RANDOM = 400


def contributions(live: LiveModel, content: dict[str, Any]) -> dict[str, Tensor]:
    """Concept -> (layers * neurons,) contrast of the contribution."""
    job: Job = make_job({"methods": {"contribution": {}}, "model": live.name, **content})
    dataset = open_dataset(job)
    job = completed(job, dataset, Execution())
    numbered = list(enumerate(collect(job, dataset)))
    state = map_portion(live, ExampleEncoder(live, dataset, job), job, Execution(), numbered, lambda done: None)
    maps = state.methods["contribution"].result()
    return {str(m.concept): m.scores.flatten() for m in maps if m.concept is not None and m.reduce == "contrast"}


def spellings(live: LiveModel, word: str) -> list[int]:
    """The tokens that are the word alone, in any usual spelling."""
    found = set()
    for form in (word, f"{word}s", word.capitalize(), f"{word.capitalize()}s"):
        for text in (form, f" {form}"):
            ids = live.encoder.tokenizer(text, add_special_tokens=False).input_ids
            found |= {ids[0]} if len(ids) == 1 else set()
    return sorted(found)


def places(live: LiveModel, neurons: Tensor, word: str) -> dict[str, Tensor]:
    """By each projection: (neurons,) the word's place among the tokens of each neuron, on the side where it is best, as
    a neuron whose value is negative raises what it has on the other side."""
    lens, ids = Lens(live), spellings(live, word)
    write = torch.cat([lens.write(layer) for layer in range(len(live.layout.layers))])[neurons].float()
    plain = write @ lens.rows.float().T
    moments = lens.moments
    z = moments.standardise(plain.clone(), write.norm(dim=1))
    found = {}
    for projection, values in ((PLAIN, plain), (Z, z)):
        high, low = values[:, ids].amax(1, keepdim=True), values[:, ids].amin(1, keepdim=True)
        found[projection] = torch.minimum((values > high).sum(1), (values < low).sum(1)).float() + 1
    return found


def auroc(first: Tensor, second: Tensor) -> float:
    """The share of pairs in which the first's place is the better one; equal places count a half."""
    better, equal = first[:, None] < second, first[:, None] == second
    return float((better + 0.5 * equal).mean())


def told_apart(live: LiveModel, scores: Tensor, word: str, top: int) -> dict[str, float]:
    """By each projection: how well the word's place tells the neurons that contribute most from random ones."""
    drawn = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))[:RANDOM]
    of_random = places(live, drawn, word)
    return {name: auroc(found, of_random[name]) for name, found in places(live, scores.topk(top).indices, word).items()}


@pytest.fixture(scope="module")
def smollm2() -> LiveModel:
    try:
        return LiveModel.load(zoo.resolve("smollm2-135m"), label="smollm2-135m")
    except AtlasError as error:
        pytest.skip(f"its weights are not here: {error}")


def test_dog_is_among_the_tokens_of_the_neurons_that_contribute_to_it(smollm2: LiveModel) -> None:
    """Of a pretrained model. Measured by z and plainly: 0.94 and 0.88 for the best 10 neurons, 0.86 and 0.81 for 20;
    further down the list more neurons are loud ones, which contribute by their value and have other words for their
    tokens. The mean of the twelve concepts is 0.72 and 0.70."""
    concepts = ["dog", "cat", "horse", "bus", "car", "book", "bird", "bear", "bed", "chair", "clock", "pizza"]
    content = {"dataset": "facts", "tasks": ["completion", "sentence"], "split": "all", "concepts": concepts}
    scores = contributions(smollm2, content)
    for top, least in ((10, 0.9), (20, 0.8)):
        found = told_apart(smollm2, scores["dog"], "dog", top)
        assert found[Z] >= least and found[Z] > found[PLAIN], (top, found)
    by_concept = [told_apart(smollm2, scores[concept], concept, 10) for concept in concepts]
    assert sum(found[Z] for found in by_concept) > sum(found[PLAIN] for found in by_concept)


def test_on_an_embedded_model_z_tells_them_apart_no_worse_than_the_plain_projection() -> None:
    live = LiveModel.load(zoo.resolve("tiny-llava"), label="tiny-llava")
    scores = contributions(live, {"dataset": "scenes", "sources": ["image"], "tasks": ["caption"], "per_concept": 4})
    found = [told_apart(live, scores[word], word, 20) for word in sorted(scores) if spellings(live, word)]
    assert len(found) >= 10
    z, plain = (sum(f[name] for f in found) / len(found) for name in (Z, PLAIN))
    assert z >= plain - 0.01, (z, plain)
