"""Every file of ingest/methods/ against the contract, and each method against an independent reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attribution import CONCEPTS, build, by_hand, feed, log_probability, make_items, maps_of, scaled

import ingest.methods
from atlas import registry
from atlas.errors import Unsupported, UsageError
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from atlas.testing import check_method
from ingest.attribution.trace import traced

METHODS = registry.folder_names(ingest.methods)
ALLOWED: dict[str, dict[str, Any]] = {
    "random": {"planted": False},
    "knowledge_neurons": {"sparse": True, "ties": 5},  # it counts votes
    "two_stage": {"sparse": True},
    "modality_profile": {"sparse": True},
    "iou": {"unplanted_parts": ("null",)},  # by chance no neuron is to be found
    "logprob_increase": {"unplanted_parts": ("query",)},  # of query neurons there is none to find
}
"""What a method may do that others may not (`atlas.testing.check_method`)."""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_its_contract(name: str) -> None:
    check_method(registry.load(ingest.methods, name), **ALLOWED.get(name, {}))


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm", [False, True])
def test_contribution_equals_a_plain_loop(norm: bool, live: LiveModel) -> None:
    items = make_items(live)
    found = maps_of(feed(build("contribution", norm=norm), live, [items]))
    for concept in CONCEPTS:
        expected, count = torch.zeros(2, 64), 0
        for item in items:
            capture, places = by_hand(live, item)
            count += concept in places
            for position, token, weight in places.get(concept, []):
                row = live.layout.unembedding()[token]
                if norm:  # the logit's derivative by the norm's input is not it: the scale is frozen
                    x, y = capture.norm_in[0, position], capture.norm_out[0, position]
                    module = live.layout.norm
                    if isinstance(module, torch.nn.LayerNorm):
                        sigma = (x.var(unbiased=False) + module.eps).sqrt()
                        row = row * module.weight / sigma
                        row = row - row.mean()
                    else:
                        row = row * module.weight / (x.pow(2).mean() + module.variance_epsilon).sqrt()
                    assert y.shape == x.shape
                for layer in range(2):
                    value = capture.values[layer][0, position]
                    expected[layer] += weight * value * (live.layout.write_vectors(layer).T @ row)
        assert torch.allclose(found[concept, "mean"].scores, expected / count, atol=1e-5)


@pytest.mark.parametrize("positions", ["predicting", "all"])
def test_activation_equals_a_plain_loop(positions: str, live: LiveModel) -> None:
    items = make_items(live)
    found = maps_of(feed(build("activation", positions=positions), live, [items]))
    expected, count, everything, positions_seen = torch.zeros(2, 64), 0, torch.zeros(2, 64), 0
    for item in items:
        capture, places = by_hand(live, item)
        for layer in range(2):
            values = capture.values[layer][0]
            everything[layer] += values.sum(0)
            if "dog" in places:
                weighted = sum(w * values[p] for p, _, w in places["dog"])
                expected[layer] += weighted if positions == "predicting" else values.mean(0)
        count += "dog" in places
        positions_seen += len(capture.values[0][0])
    assert torch.allclose(found["dog", "mean"].scores, expected / count, atol=1e-5)
    assert torch.allclose(found[None, "mean"].scores, everything / positions_seen, atol=1e-5)


def test_activation_pools_the_image_positions(llava: LiveModel, picture: Any) -> None:
    items = make_items(llava, picture, ["a dog", "a red cat"])
    found = maps_of(feed(build("activation", positions="image", pool="max"), llava, [items], "image"))
    batch = llava.batch([items[0].prompt])
    with torch.no_grad(), tracing(llava.layout) as capture:
        llava.forward(batch)
    image = batch.inputs["input_ids"][0] == llava.encoder.role_of.media_ids["image"]
    expected = torch.stack([capture.values[layer][0, image].amax(0) for layer in range(2)])
    assert torch.allclose(found["dog", "mean"].scores, expected, atol=1e-5)


def test_gradient_x_activation_is_the_derivative_of_scaling_the_neuron(live: LiveModel) -> None:
    """At all positions: d/ds y(s * A) at s = 1, by central differences. Rows with two concepts do not mix."""
    items = make_items(live, answers=["two dogs and a cat"])
    found = maps_of(feed(build("gradient_x_activation"), live, [items]))
    for concept in ("dog", "cat"):
        scores = found[concept, "mean"].scores
        for flat in scores.abs().flatten().topk(6).indices.tolist():
            layer, neuron = divmod(flat, 64)
            ends = [scaled(live, items[0], concept, layer, neuron, 1 + d) for d in (0.05, -0.05)]
            assert (ends[0] - ends[1]) / 0.1 == pytest.approx(float(scores[layer, neuron]), rel=0.05, abs=1e-4)


def test_gradients_at_the_predicting_position_are_part_of_those_at_all(llava: LiveModel) -> None:
    items = make_items(llava)
    everywhere = maps_of(feed(build("gradient_x_activation"), llava, [items]))["dog", "mean"].scores
    predicting = maps_of(feed(build("gradient_x_activation", positions="predicting"), llava, [items]))
    # In the last layer only the predicting position can matter.
    assert torch.allclose(predicting["dog", "mean"].scores[1], everywhere[1], atol=1e-5)
    assert not torch.allclose(predicting["dog", "mean"].scores[0], everywhere[0], atol=1e-3)


def test_ablation_equals_the_naive_loop_over_every_neuron(live: LiveModel) -> None:
    items = make_items(live, answers=["two dogs and a cat", "one hot dog"])
    found = maps_of(feed(build("ablation", tokens=100), live, [items]))
    clean = {c: log_probability(live, items[0], c) for c in ("dog", "cat")}
    for concept in ("dog", "cat"):
        expected = torch.tensor(
            [
                [clean[concept] - scaled(live, items[0], concept, layer, neuron, 0.0) for neuron in range(64)]
                for layer in range(2)
            ]
        )
        assert float(expected.abs().max()) > 0.01
        assert torch.allclose(found[concept, "mean"].scores, expected, atol=2e-5)


def test_ablation_of_chosen_layers_and_candidates(llava: LiveModel) -> None:
    items = make_items(llava)
    whole = maps_of(feed(build("ablation"), llava, [items]))["dog", "mean"]
    layer = maps_of(feed(build("ablation", layers="1"), llava, [items]))["dog", "mean"]
    assert layer.layers == (1,) and torch.equal(layer.scores[0], whole.scores[1])
    some = maps_of(feed(build("ablation", neurons="0/3,0/9"), llava, [items]))["dog", "mean"]
    assert some.layers == (0,)
    assert torch.equal(some.scores[0].isfinite().nonzero()[:, 0], torch.tensor([3, 9]))
    assert torch.allclose(some.scores[0, [3, 9]], whole.scores[0, [3, 9]], atol=1e-6)


def test_ablation_refuses_a_model_whose_ffn_output_is_normed(random_llava: Any) -> None:
    model, processor = random_llava(seed=5)
    live = LiveModel(model, processor, name="normed")
    block = live.layout.layers[0]
    plain = type(block.mlp).forward
    block.mlp.forward = lambda x: torch.nn.functional.layer_norm(plain(block.mlp, x), (32,))
    with pytest.raises(Unsupported, match="gradient_x_activation"):
        feed(build("ablation"), live, [make_items(live)])


def test_random_scores_are_uniform_seeded_and_differ_by_concept(llava: LiveModel) -> None:
    items = make_items(llava)
    first, same, other = (maps_of(feed(build("random", seed=s), llava, [items])) for s in (0, 0, 1))
    dog = first["dog", "mean"].scores
    assert torch.equal(dog, same["dog", "mean"].scores)
    assert not torch.equal(dog, other["dog", "mean"].scores)
    assert not torch.equal(dog, first["cat", "mean"].scores)
    assert float(dog.min()) >= 0 and float(dog.max()) < 1 and abs(float(dog.mean()) - 0.5) < 0.1


def test_the_gate_tap_scores_the_activation_function(llava: LiveModel) -> None:
    items = make_items(llava, answers=["a dog"])
    method = build("contribution")
    with traced(llava, items, "text", layers=None, tap="gate", grad=False) as trace:
        method.update(trace)
        target = items[0].targets[0]
        at = trace.batch.starts[0] + target.index
        row = llava.layout.unembedding()[trace.batch.inputs["input_ids"][0, at]]
        gate = trace.capture.values[1][0, at - 1]
    expected = gate * (llava.layout.write_vectors(1).T @ row)
    assert torch.allclose(maps_of(method)["dog", "mean"].scores[1], expected, atol=1e-5)
    with (
        pytest.raises(Unsupported, match="use tap='product'"),
        traced(llava, items, "text", layers=None, tap="gate", grad=False) as trace,
    ):
        build("ablation").update(trace)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("activation", {"positions": "al"}, "no positions called 'al'"),
        ("activation", {"pool": "median"}, "no pool called 'median'"),
        ("gradient_x_activation", {"positions": "last"}, "no positions called 'last'"),
    ],
)
def test_an_unknown_parameter_value_is_named(name: str, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, **parameters)
