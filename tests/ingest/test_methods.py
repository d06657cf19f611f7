"""Every file of ingest/methods/ against the contract, and each method against an independent reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from attribution import ANSWERS, CONCEPTS, build, by_hand, feed, log_probability, make_items, maps_of, scaled
from PIL import Image

import ingest.methods
from atlas import registry
from atlas.errors import Unsupported, UsageError
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from ingest.attribution.estimators import Method, NeuronMap, PairMethod
from ingest.attribution.reductions import CONTRAST
from ingest.attribution.trace import Item, traced

METHODS = registry.names(ingest.methods)


CONCEPT_METHODS = [m for m in METHODS if isinstance(build(m), PairMethod)]
FILTERS = ("knowledge_neurons", "two_stage")
"""Methods whose map has only the neurons that pass."""


def items_for(name: str, live: LiveModel, picture: Any) -> tuple[list[Item], str]:
    """What a method can score, and its source; text where it takes any."""
    if build(name).sources is None:
        return make_items(live), "text"
    if "image" not in live.encoder.role_of.media_ids:
        pytest.skip("a model without pictures")
    twins = [picture.transpose(way) for way in (0, 1, 3)]
    return make_items(live, picture, twins=twins, turn=50), "image"


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def planted(random_llava: Any) -> Iterator[tuple[LiveModel, tuple[int, int], int]]:
    """A model in which neuron 1/17 alone says "dog": always on, and its write vector is the token's direction."""
    model, processor = random_llava(seed=4)
    live = LiveModel(model, processor, name="planted")
    token = live.encoder.prompt("a", answer="dog").answer[0]
    layer, neuron = 1, 17
    mlp = live.layout.layers[layer].mlp
    norm = live.layout.layers[layer].post_attention_layernorm
    with torch.no_grad():
        # One residual dimension is a constant that nothing writes to; the neuron reads only that.
        model.get_input_embeddings().weight[:, 0] = 2.0
        for block in live.layout.layers:
            block.self_attn.o_proj.weight[0] = 0
            block.mlp.down_proj.weight[0] = 0
        mlp.gate_proj.weight[neuron], mlp.up_proj.weight[neuron] = 0, 0
        mlp.gate_proj.weight[neuron, 0] = mlp.up_proj.weight[neuron, 0] = 2.0 / norm.weight[0]
        row = live.layout.unembedding()[token]
        mlp.down_proj.weight[:, neuron] = row / row.norm()
    yield live, (layer, neuron), token


@pytest.fixture
def seen(random_llava: Any) -> tuple[LiveModel, tuple[int, int], list[Any]]:
    """A model in which neuron 0/17 alone, at the image's positions and in this picture alone, says "dog" to the
    predicting position through the next layer's attention; and the picture, and another without what it sees."""
    model, processor = random_llava(seed=4)
    live = LiveModel(model, processor, name="seen")
    token = live.encoder.prompt("a", answer="dog").answer[0]
    noise = np.random.default_rng(0).integers(0, 256, (2, 10, 12, 3), dtype=np.uint8)
    picture, without = (Image.fromarray(pixels) for pixels in noise)
    projector, hidden = model.model.multi_modal_projector, []
    handle = projector.act.register_forward_hook(lambda _m, _i, out: hidden.append(out.detach().mean((0, 1))))
    for shown in (picture, without):
        live.forward(live.batch([live.encoder.prompt("a", [shown], "dog")]))
    handle.remove()
    first, second = live.layout.layers
    attention = second.self_attn
    with torch.no_grad():
        step = hidden[0] - hidden[1]
        projector.linear_2.weight[0] = 3 * step / (step @ step)  # 3 in this picture, 0 in the other
        projector.linear_2.bias[0] = -(projector.linear_2.weight[0] @ hidden[1])
        model.get_input_embeddings().weight[:, 0] = 0.0
        for block in live.layout.layers:
            block.self_attn.o_proj.weight[0] = 0
            block.mlp.down_proj.weight[0] = 0
        first.mlp.gate_proj.weight[17], first.mlp.up_proj.weight[17] = 0, 0
        first.mlp.gate_proj.weight[17, 0] = first.mlp.up_proj.weight[17, 0] = 2.0
        moved = attention.o_proj.weight @ attention.v_proj.weight * second.input_layernorm.weight
        write = moved.T @ live.layout.unembedding()[token]
        write[0] = 0
        first.mlp.down_proj.weight[:, 17] = 3 * write / write.norm()
    return live, (0, 17), [picture, without]


@pytest.mark.parametrize("name", [m for m in CONCEPT_METHODS if m != "random"])
def test_every_method_ranks_the_planted_neuron_first(name: str, request: pytest.FixtureRequest) -> None:
    if build(name).sources is None:
        live, planted, _ = request.getfixturevalue("planted")
        # What is strong for every concept is removed by a filter: there, dogs alone.
        items, source = make_items(live, answers=["a dog", "dog"] if name in FILTERS else ANSWERS), "text"
    else:
        live, planted, (picture, without) = request.getfixturevalue("seen")
        # By chance another region changes nothing, and its opposite changes something.
        items, source = make_items(live, picture, ["a dog"] * 8, twins=[without, picture, picture]), "image"
    found = maps_of(feed(build(name), live, [items], source))
    assert ("dog", "mean") in found
    for key, one in found.items():
        if key[:2] == ("dog", "mean") and key[2:] != ("query",):  # of query neurons there is none to find
            scores = one.scores.nan_to_num(-torch.inf)
            assert scores[planted] == scores.max(), key
            assert int((scores == scores.max()).sum()) <= (5 if name == "knowledge_neurons" else 1)  # it counts votes


@pytest.mark.parametrize("name", CONCEPT_METHODS)
def test_shapes_finiteness_determinism_and_examples(name: str, live: LiveModel, picture: Any) -> None:
    items, source = items_for(name, live, picture)
    first, again = (maps_of(feed(build(name), live, [items], source)) for _ in range(2))
    for key, found in first.items():
        assert found.scores.shape == (2, 64) and found.scores.dtype == torch.float32
        assert bool(found.scores.isfinite().all()) or (name in FILTERS and not found.part)
        assert torch.equal(found.scores.nan_to_num(7), again[key].scores.nan_to_num(7))
    counts = {key[0]: found.examples for key, found in first.items() if key[1] == "mean" and key[0] is not None}
    assert counts == {"dog": 5, "cat": 3, "hot dog": 2}  # a pure hot dog is no dog


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_equals_two_and_a_merge_of_halves_equals_one_pass(name: str, live: LiveModel, picture: Any) -> None:
    items, source = items_for(name, live, picture)

    def fresh() -> Method:
        method = build(name)
        if isinstance(method, PairMethod):
            method.reductions = method.supported
        return method

    def maps(method: Method) -> dict[tuple[Any, ...], NeuronMap]:
        return {(m.concept, m.source, m.reduce, m.part): m for m in method.result()}

    whole = maps(feed(fresh(), live, [items], source))
    halves = feed(fresh(), live, [items[:3], items[3:]], source)
    left, right = (feed(fresh(), live, [part], source) for part in (items[:3], items[3:]))
    merged = fresh()
    merged.merge(right.state())
    merged.merge(left.state())
    assert whole
    for found in (maps(halves), maps(merged)):
        assert found.keys() == whole.keys()
        for key, mine in found.items():
            assert mine.examples == whole[key].examples
            if key[2] == "auroc":  # rounding may put a score into the next bin
                assert float((mine.scores - whole[key].scores).nan_to_num().abs().max()) < 0.2, key
                continue
            tolerance = 1e-3 if key[2] == "cohens_d" else 1e-5
            assert torch.allclose(mine.scores, whole[key].scores, atol=tolerance, rtol=1e-3, equal_nan=True), key


@pytest.mark.parametrize("name", [m for m in CONCEPT_METHODS if CONTRAST in build(m).supported and m not in FILTERS])
def test_the_contrast_is_the_mean_minus_the_mean_of_the_other_concepts(
    name: str, llava: LiveModel, picture: Any
) -> None:
    items, source = items_for(name, llava, picture)
    found = maps_of(feed(build(name), llava, [items], source))
    others = torch.stack([found[c, "mean"].scores for c in ("cat", "hot dog")]).mean(0)
    assert torch.allclose(found["dog", "contrast"].scores, found["dog", "mean"].scores - others, atol=1e-6)


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
        pytest.raises(Unsupported, match="--tap product"),
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
