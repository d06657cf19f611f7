"""The papers' properties, each against the same number from single passes by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attribution import build

from atlas.errors import Unsupported, UsageError
from atlas.live.hooks import shuffling, tracing
from atlas.maintain.check import check
from atlas.store.database import open_readonly
from ingest.analyse.properties import _orders, measure
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.prepare import collect
from ingest.run.resolve import complete

EYES = frozenset({"image", "text"})


@pytest.fixture
def job(small_job: Job) -> Job:
    return replace(small_job, methods={"contribution": {"norm": False}}, per_concept=3)


def rows_of(done: Any, **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in done.rows.to_pylist() if all(r[k] == v for k, v in wanted.items())]


def value(done: Any, **wanted: Any) -> float:
    (row,) = rows_of(done, **wanted)
    return float(row["value"])


def alone(llava: Any, item: Item, source: str) -> dict[str, torch.Tensor]:
    """Each concept's map of one example, by itself."""
    method = build("contribution")
    with traced(llava, [item], source, layers=None, tap="product", grad=False) as trace:
        return dict(zip(trace.concepts, method.scores(trace)[""].transpose(0, 1).flatten(1), strict=True))


def test_every_property_equals_the_same_by_hand(empty_atlas: Path, job: Job, llava: Any) -> None:
    k = 20
    done = measure(empty_atlas, job, Execution(batch_size=4), [k])
    assert done.fresh and not check(empty_atlas)
    dataset = open_dataset(job)
    job = complete(job, dataset, EYES)
    feed, examples = ExampleEncoder(llava, dataset, job), collect(job, dataset)
    items = feed.items([(n, e) for n, e in enumerate(examples) if e.source == "image"], 4)
    maps: dict[str, list[torch.Tensor]] = {"dog": [], "cat": []}
    kept: dict[str, list[float]] = {"dog": [], "cat": []}
    words: dict[str, set[int]] = {"dog": set(), "cat": set()}
    for item in items:
        order = _orders(llava, [item], job.seed)
        with shuffling(llava.layout, order):
            moved = alone(llava, item, "image")
        for concept, scores in alone(llava, item, "image").items():
            maps[concept].append(scores)
            both = set(scores.topk(k).indices.tolist()) & set(moved[concept].topk(k).indices.tolist())
            kept[concept].append(len(both) / k)
        for target in item.targets:
            words[target.concept].add(item.prompt.answer[target.index])
    tops = {c: [set(m.topk(k).indices.tolist()) for m in found] for c, found in maps.items()}
    whole = {c: set(torch.stack(found).sum(0).topk(k).indices.tolist()) for c, found in maps.items()}
    of = {"source": "image", "concept": "dog", "first": f"top {k}"}
    assert value(done, name="region_invariance", condition="before", **of) == pytest.approx(np.mean(kept["dog"]))
    assert 0 < np.mean(kept["dog"]) < 1
    same = np.mean([len(a & b) / k for a, b in combinations(tops["dog"], 2)])
    cross = np.mean([len(a & b) / k for a, b in product(tops["dog"], tops["cat"])])
    assert value(done, name="image_invariance", condition="before", **of) == pytest.approx(same)
    assert value(done, name="image_invariance", condition="others", **of) == pytest.approx(cross)
    own = np.mean([n not in whole["cat"] for n in whole["dog"]])
    assert value(done, name="exclusivity", condition="before", **of) == pytest.approx(own)
    says = []
    hidden = [*llava.encoder.tokenizer.all_special_ids, *llava.encoder.role_of.media_ids.values()]
    for n in range(128):
        raised = llava.layout.unembedding() @ llava.layout.write_vectors(n // 64)[:, n % 64]
        raised[hidden] = -torch.inf
        says.append(bool(words["dog"] & set(raised.topk(10).indices.tolist())))
    sensitive = np.mean([says[n] for n in whole["dog"]])
    assert value(done, name="sensitivity", condition="before", **of) == pytest.approx(sensitive)
    assert value(done, name="sensitivity", condition="random", **of) == pytest.approx(np.mean(says))
    assert not rows_of(done, source="text", name="region_invariance")  # text has no image tokens
    again = measure(empty_atlas, job, Execution(), [k])
    assert not again.fresh and again.rows.num_rows == done.rows.num_rows


def test_what_is_the_same_in_every_picture_is_invariant(empty_atlas: Path, job: Job) -> None:
    """With every neuron in the top, everything is shared by everything."""
    done = measure(empty_atlas, replace(job, sources=("image",)), Execution(), [128])
    for name in ("region_invariance", "image_invariance", "sample_invariance"):
        assert {r["value"] for r in rows_of(done, name=name)} == {1.0}
    assert {r["value"] for r in rows_of(done, name="exclusivity")} == {0.0}


def test_shuffling_moves_embeddings_and_leaves_no_hook(llava: Any, opt: Any, picture: Any) -> None:
    prompt = llava.encoder.prompt("what is this ?", [picture], "a dog")
    items = [Item(3, prompt, ())]
    order = _orders(llava, items, 0)
    batch = llava.batch([prompt])
    image = batch.roles[0] == 3
    assert sorted(order[0].tolist()) == list(range(order.shape[1]))
    assert torch.equal(order[0, ~image], torch.arange(order.shape[1])[~image])
    with torch.no_grad(), tracing(llava.layout) as plain:
        llava.forward(batch)
    with torch.no_grad(), shuffling(llava.layout, order), tracing(llava.layout) as moved:
        llava.forward(batch)
    assert torch.equal(moved.calls[0][0][0][0], plain.calls[0][0][0][0, order[0]])
    assert not llava.layout.layers[0]._forward_pre_hooks
    with pytest.raises(Unsupported, match="learned position"), shuffling(opt.layout, order):
        pass


def test_what_cannot_be_asked(empty_atlas: Path, job: Job) -> None:
    with pytest.raises(UsageError, match="must be between 1 and 128"):
        measure(empty_atlas, job, Execution(), [129])
    two = replace(job, methods={"contribution": {"norm": False}, "random": {"seed": 0}})
    control = replace(job, methods={"random": {"seed": 0}})
    for several in (two, control):
        with pytest.raises(UsageError, match="properties are of one method"):
            measure(empty_atlas, several, Execution(), [5])


def test_pictures_have_no_properties(empty_atlas: Path, job: Job) -> None:
    """Neither what asks for them nor a method that explains them is taken for words."""
    with pytest.raises(UsageError, match=r"atlas properties reads .* draw,draw_has asks for .* other tasks"):
        measure(empty_atlas, replace(job, tasks=("draw", "draw_has", "does"), sources=("text",)), Execution(), [5])
    pictured = make_job({"model": job.model, "methods": {"nam_image": {}}, "concepts": ["dog"]})
    with pytest.raises(UsageError, match="nam_image explains pictures; use method='contribution'"):
        measure(empty_atlas, pictured, Execution(), [5])
    with open_readonly(empty_atlas) as connection:
        assert not connection.sql("SELECT * FROM runs").fetchall()


def test_votes_that_tie_are_invariant_by_chance_alone(empty_atlas: Path, job: Job) -> None:
    """Most neurons have no vote: two examples' tops share few of those, and the part is named."""
    voted = replace(job, methods={"knowledge_neurons": dict(VOTES)}, sources=("text",))
    done = measure(empty_atlas, voted, Execution(), [30])
    assert {r["method"] for r in done.rows.to_pylist()} == {"knowledge_neurons.coarse"}
    assert value(done, name="image_invariance", condition="others", concept="dog") < 0.6


VOTES = {"steps": 4, "endpoints": "right", "threshold": 0.3, "share": 0.5, "tokens": 8192}
