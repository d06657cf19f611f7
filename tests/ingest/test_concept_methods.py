"""The papers' concept methods, each against an independent reference: a loop, a finite difference, a closed form."""

from __future__ import annotations

import gc
import weakref
import zlib
from typing import Any

import pytest
import torch
from attribution import CONCEPTS, build, by_hand, feed, log_probability, make_items, maps_of, scaled
from torch import Tensor

from atlas.errors import Unsupported, UsageError
from atlas.live.hooks import editing, tracing
from atlas.live.model import LiveModel
from ingest.attribution.item import Item
from ingest.attribution.path_gradients import nodes
from ingest.attribution.trace import traced
from ingest.methods.logprob_increase import increase_of

LAYERS, WIDTH = 2, 64


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def output(live: LiveModel, item: Item, concept: str, kind: str) -> float:
    capture, places = by_hand(live, item)
    total = 0.0
    for position, token, weight in places[concept]:
        logits = live.logits(capture.norm_out[0, position])
        value = {"logit": logits, "log_probability": logits.log_softmax(-1), "probability": logits.softmax(-1)}[kind]
        total += weight * float(value[token])
    return total


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_gradient_is_the_derivative_by_a_shift_of_the_neuron(kind: str, live: LiveModel) -> None:
    items = make_items(live, answers=["two dogs and a cat"])
    found = maps_of(feed(build("gradient", output=kind), live, [items]))
    for concept in ("dog", "cat"):
        scores = found[concept, "mean"].scores
        for flat in scores.abs().flatten().topk(4).indices.tolist():
            layer, neuron = divmod(flat, WIDTH)
            ends = []
            for d in (0.02, -0.02):
                unit = torch.zeros(WIDTH)
                unit[neuron] = d
                with editing(live.layout, {layer: lambda values, unit=unit: values + unit}):
                    ends.append(output(live, items[0], concept, kind))
            assert (ends[0] - ends[1]) / 0.04 == pytest.approx(float(scores[layer, neuron]), rel=0.03, abs=1e-4)


def test_schwettmann_is_gradient_x_activation_at_the_image(llava: LiveModel, picture: Any) -> None:
    items = make_items(llava, picture)
    found = maps_of(feed(build("schwettmann"), llava, [items], "image"))
    same = maps_of(feed(build("gradient_x_activation", positions="image", output="logit"), llava, [items], "image"))
    assert float(found["dog", "mean"].scores[0].abs().max()) > 1e-4
    assert float(found["dog", "mean"].scores[1].abs().max()) == 0  # nothing reads the image behind the last layer
    assert torch.equal(found["dog", "mean"].scores, same["dog", "mean"].scores)


def layer_scaled(live: LiveModel, item: Item, layer: int, gain: float, where: Tensor) -> Any:
    """One pass with a layer's neurons scaled at some positions; its graph reaches the scaled values."""
    kept: list[Tensor] = []

    def rule(values: Tensor) -> Tensor:
        flat = values.reshape(-1, WIDTH)
        changed = torch.where(where.reshape(-1, 1), gain * flat, flat).detach().requires_grad_(True)
        kept.append(changed)
        return changed.view(values.shape)

    batch = live.batch([item.prompt])
    with editing(live.layout, {layer: rule}), tracing(live.layout) as capture, torch.enable_grad():
        live.forward(batch)
    return capture, kept[0]


def integrated(live: LiveModel, item: Item, concept: str, positions: str, endpoints: str, steps: int) -> Tensor:
    """Integrated gradients as they are defined: a whole pass and a backward pass for every layer and step."""
    capture, places = by_hand(live, item)
    total = torch.zeros(LAYERS, WIDTH)
    where = torch.ones(capture.values[0].shape[1], dtype=torch.bool)
    if positions == "predicting":
        where[:] = False
        where[[p for p, _, _ in places[concept]]] = True
    for layer in range(LAYERS):
        for s in nodes(steps, endpoints).tolist():
            run, values = layer_scaled(live, item, layer, s, where)
            with torch.enable_grad():
                y = sum(w * live.logits(run.norm_out[0, p]).log_softmax(-1)[t] for p, t, w in places[concept])
            (gradient,) = torch.autograd.grad(y, values)
            total[layer] += (capture.values[layer][0] * gradient * where[:, None]).sum(0) / steps
    return total


@pytest.mark.parametrize(("positions", "endpoints"), [("predicting", "right"), ("all", "both"), ("all", "midpoint")])
def test_integrated_gradients_equal_the_plain_loop(positions: str, endpoints: str, live: LiveModel) -> None:
    items = make_items(live, answers=["two dogs and a cat", "one hot dog"])
    method = build("integrated_gradients", steps=4, positions=positions, endpoints=endpoints, tokens=40)
    found = maps_of(feed(method, live, [items]))
    for concept in ("dog", "cat"):
        expected = integrated(live, items[0], concept, positions, endpoints, 4)
        assert float(expected.abs().max()) > 0.01
        assert torch.allclose(found[concept, "mean"].scores, expected, atol=2e-5)


def test_integrated_gradients_sum_to_the_difference_of_the_outputs(live: LiveModel) -> None:
    items = make_items(live, answers=["two dogs and a cat"])
    method = build("integrated_gradients", steps=200, endpoints="midpoint", positions="all")
    found = maps_of(feed(method, live, [items]))
    for concept in ("dog", "cat"):
        full = log_probability(live, items[0], concept)
        for layer in range(LAYERS):
            with editing(live.layout, {layer: torch.zeros_like}):
                without = log_probability(live, items[0], concept)
            assert float(found[concept, "mean"].scores[layer].sum()) == pytest.approx(full - without, abs=2e-3)


def test_the_nodes_of_a_path() -> None:
    assert nodes(4, "right").tolist() == [0.25, 0.5, 0.75, 1.0]
    assert nodes(4, "midpoint").tolist() == [0.125, 0.375, 0.625, 0.875]
    assert nodes(3, "both").tolist() == [0.0, 0.5, 1.0]


def test_knowledge_neurons_vote_and_remove_what_other_concepts_have_too(live: LiveModel) -> None:
    items = make_items(live)
    ig = build("integrated_gradients", output="probability", endpoints="both")
    votes: dict[str, list[Tensor]] = {concept: [] for concept in CONCEPTS}
    for item in items:
        for (concept, reduce), found in maps_of(feed(build("integrated_gradients", **IG), live, [[item]])).items():
            if reduce == "mean" and concept is not None:
                votes[concept].append(found.scores > 0.3 * found.scores.max())
    assert ig.needs == frozenset()
    found = maps_of(feed(build("knowledge_neurons"), live, [items[:5], items[5:]]))
    removed = 0
    for concept, mine in votes.items():
        share = torch.stack(mine).float().mean(0)
        others = torch.stack([v for c, vs in votes.items() if c != concept for v in vs]).float().mean(0)
        assert torch.allclose(found[concept, "mean", "coarse"].scores, share)
        refined = found[concept, "mean"].scores
        assert torch.equal(refined.isnan(), others > 0.5)
        assert torch.allclose(refined.nan_to_num(), share.masked_fill(others > 0.5, 0))
        removed += int((others > 0.5).sum())
    assert removed > 0


IG = {"output": "probability", "endpoints": "both"}


def test_logprob_increase_equals_adding_each_neuron_by_itself(live: LiveModel) -> None:
    items = make_items(live, answers=["two dogs and a cat", "dog"])
    found = maps_of(feed(build("logprob_increase"), live, [items]))
    capture, places = by_hand(live, items[0])
    norm = live.layout.norm
    for layer in range(LAYERS):
        expected = torch.zeros(WIDTH)
        for position, token, weight in places["cat"]:
            x = capture.norm_in[0, position]
            if isinstance(norm, torch.nn.LayerNorm):
                scale, bias = 1 / (x.var(unbiased=False) + norm.eps).sqrt(), norm.bias
            else:
                scale, bias = 1 / (x.pow(2).mean() + norm.variance_epsilon).sqrt(), 0.0

            def logp(h: Tensor, scale: Any = scale, bias: Any = bias, token: int = token) -> Tensor:
                centred = h - h.mean() if isinstance(norm, torch.nn.LayerNorm) else h
                return live.logits(centred * scale * norm.weight + bias).log_softmax(-1)[token]

            after = capture.calls[layer + 1][0][0][0, position] if layer + 1 < LAYERS else x
            value = capture.values[layer][0, position]
            before = after - live.layout.down[layer](value)
            for neuron in range(WIDTH):
                wrote = value[neuron] * live.layout.write_vectors(layer)[:, neuron]
                expected[neuron] += weight * (logp(before + wrote) - logp(before))
        assert float(expected.abs().max()) > 1e-3
        assert torch.allclose(found["cat", "mean"].scores[layer], expected, atol=1e-5)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 100.0])
def test_what_a_log_probability_rises_by_is_exact_for_small_and_large_changes(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(3, 200_000, generator=generator).log_softmax(-1)
    tokens, factors = torch.tensor([5, 7, 5]), size * torch.randn(3, 9, generator=generator)
    raised = torch.randn(9, 200_000, generator=generator)
    found = increase_of(before, tokens, factors, raised)
    after = before.double()[:, None] + factors.double()[:, :, None] * raised.double()
    rows = torch.arange(3)
    expected = after.log_softmax(-1)[rows, :, tokens] - before.double().log_softmax(-1)[rows, tokens][:, None]
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-6 * size)


def test_query_neurons_feed_the_strongest_value_neurons(live: LiveModel) -> None:
    items = make_items(live, answers=["a cat"])
    found = maps_of(feed(build("logprob_increase", values=7), live, [items]))
    value, query = found["cat", "mean"].scores, found["cat", "mean", "query"].scores
    best = [divmod(i, WIDTH) for i in value.flatten().topk(7).indices.tolist()]
    layer = live.layout.layers[1]
    keys = layer.fc1.weight if hasattr(layer, "fc1") else layer.mlp.gate_proj.weight
    capture, places = by_hand(live, items[0])
    activation = sum(w * capture.values[0][0, p] for p, _, w in places["cat"])
    for neuron in (0, 17, 40):
        write = live.layout.write_vectors(0)[:, neuron]
        expected = sum(float(activation[neuron] * (write @ keys[n])) for place, n in best if place == 1)
        assert float(query[0, neuron]) == pytest.approx(expected, abs=1e-5)
    assert any(place == 1 for place, _ in best) and float(query[1].abs().max()) == 0
    assert ("cat", "mean", "query") not in maps_of(feed(build("logprob_increase", query=False), live, [items]))


@pytest.mark.parametrize(("kind", "top"), [("none", 1), ("argmax", 1), ("topk", 40)])
def test_nam_text_equals_a_plain_loop(kind: str, top: int, live: LiveModel) -> None:
    items = make_items(live, answers=["a cat"])
    found = maps_of(feed(build("nam_text", filter=kind, top=top, weight=0.5), live, [items]))["cat", "mean"].scores
    capture, places = by_hand(live, items[0])
    c, a = torch.zeros(LAYERS, WIDTH), torch.zeros(LAYERS, WIDTH)
    passed = 0
    for position, token, weight in places["cat"]:
        for layer in range(LAYERS):
            for neuron in range(WIDTH):
                value = capture.values[layer][0, position, neuron]
                raised = value * (live.layout.unembedding() @ live.layout.write_vectors(layer)[:, neuron])
                a[layer, neuron] += weight * value
                raised[live.encoder.tokenizer.all_special_ids] = -torch.inf  # no words
                best = raised.topk(top).indices.tolist() if value != 0 else []
                if kind == "none" or token in best:
                    passed += 1
                    c[layer, neuron] += weight * raised[token]
    scale = float(c.abs().max()) or 1.0
    expected = torch.maximum(c / scale, 0.5 * a / a.abs().max())
    assert passed > 0 or kind == "argmax"
    assert torch.allclose(found, expected, atol=1e-5)


def two_stages(llava: LiveModel, picture: Any, **parameters: Any) -> Any:
    twins = [picture.transpose(way) for way in (0, 1, 3)]
    items = make_items(llava, picture, ["a dog", "a red cat"], twins=twins, turn=40)
    return items, maps_of(feed(build("two_stage", **parameters), llava, [items], "image"))


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_the_two_stages_equal_a_plain_loop(pool: str, llava: LiveModel, picture: Any) -> None:
    items, found = two_stages(llava, picture, pool=pool, threshold="fraction", fraction=0.25)
    here, _ = by_hand(llava, items[0])
    there, _ = by_hand(llava, Item(0, items[0].twins["dog"][0], items[0].targets))
    image = llava.batch([items[0].prompt]).inputs["input_ids"][0] == llava.encoder.role_of.media_ids["image"]
    difference = torch.stack([(here.values[n] - there.values[n])[0, image] for n in range(LAYERS)])
    first = difference.amax(1) if pool == "max" else difference.mean(1)
    assert torch.allclose(found["dog", "mean", "stage1"].scores, first, atol=1e-5)
    second = torch.full((LAYERS, WIDTH), -torch.inf)
    for position in image.nonzero()[:, 0].tolist():
        for layer in range(LAYERS):
            run, values = layer_scaled(llava, items[0], layer, 1.0, image)
            y = sum(t.weight * live_logit(llava, run, items[0], t) for t in items[0].targets)
            (gradient,) = torch.autograd.grad(y, values)
            g = (values * gradient).view(-1, WIDTH)[position].detach()
            second[layer] = torch.maximum(second[layer], g)
    assert torch.allclose(found["dog", "mean", "stage2"].scores, second, atol=1e-5)
    passed = (first >= first.flatten().topk(32).values[-1]) & (second > 0)
    assert 0 < int(passed.sum()) < 32
    both = found["dog", "mean"].scores
    assert torch.equal(both.isfinite(), passed) and torch.allclose(both[passed], second[passed], atol=1e-5)


def live_logit(live: LiveModel, run: Any, item: Item, target: Any) -> Tensor:
    at = len(item.prompt.ids) + target.index
    with torch.enable_grad():
        return live.logits(run.norm_out[0, at - 1])[item.prompt.answer[target.index]]


def test_the_automatic_threshold_compares_with_random_regions(llava: LiveModel, picture: Any) -> None:
    """Seven pictures in three versions, by a plain loop: ranks among drawn statistics, and the step-up rule."""
    twins = [picture.transpose(way) for way in (0, 1, 3)]
    items = make_items(llava, picture, ["dog"] * 7, twins=twins, turn=40)
    method = build("two_stage", fdr=0.6, draws=2)
    found = maps_of(feed(method, llava, [items[:3], items[3:]], "image"))
    image = llava.batch([items[0].prompt]).inputs["input_ids"][0] == llava.encoder.role_of.media_ids["image"]

    def pooled(item: Item, draw: int) -> Tensor:
        here, _ = by_hand(llava, item)
        there, _ = by_hand(llava, Item(0, item.twins["dog"][draw], item.targets))
        shown = torch.nn.functional.pad(image, (0, here.values[0].shape[1] - len(image)))
        return torch.stack([(here.values[n] - there.values[n])[0, shown].amax(0) for n in range(LAYERS)])

    versions = torch.stack([torch.stack([pooled(item, draw) for draw in range(3)]) for item in items]).double()
    contrasts = (3 * versions - versions.sum(1, keepdim=True)) / 2  # (7, 3, L, N)
    square = contrasts.square().mean((0, 1))
    p = torch.ones(LAYERS, WIDTH, dtype=torch.float64)
    for layer in range(LAYERS):
        scale = ((3 * square[layer].median() + 7 * square[layer]) / 10 / 7).sqrt()
        null = []
        for draw in range(16):
            chosen = [zlib.crc32(f"{draw} {item.number} dog".encode()) % 3 for item in items]
            null += (sum(contrasts[i, c, layer] for i, c in enumerate(chosen)) / 7 / scale).tolist()
        mine = (contrasts[:, 0, layer].mean(0) / scale).tolist()
        p[layer] = torch.tensor([(1 + sum(n >= m - 1e-9 for n in null)) / (1 + len(null)) for m in mine])
    kept = [value for k, value in enumerate(sorted(p.flatten().tolist()), 1) if value <= 0.6 * k / p.numel()]
    expected = (p <= max(kept, default=-1.0)) & (found["dog", "mean", "stage2"].scores > 0)
    both = found.get(("dog", "mean"))
    assert int(expected.sum()) > 0 and both is not None
    assert torch.equal(both.scores.isfinite(), expected)


def test_too_few_pictures_have_no_automatic_threshold(llava: LiveModel, picture: Any) -> None:
    twins = [picture.transpose(way) for way in (0, 1, 3)]
    method = build("two_stage", fdr=0.9)
    found = maps_of(feed(method, llava, [make_items(llava, picture, ["dog"] * 5, twins=twins, turn=40)], "image"))
    assert ("dog", "mean") not in found and found["dog", "mean", "stage1"].examples == 5
    assert "5 pictures of dog are too few for a threshold (6 are needed)" in method.notes["dog"]


def test_a_picture_that_does_not_say_where_the_concept_is_counts_for_other_methods_only(
    llava: LiveModel, picture: Any
) -> None:
    twins = [picture.transpose(way) for way in (0, 1, 3)]
    items = make_items(llava, picture, ["a dog", "a cat", "dog"], twins=twins, turn=40)
    unplaced = [Item(i.number, i.prompt, i.targets, {} if i.number == 2 else i.twins) for i in items]
    two, one = (maps_of(feed(build("two_stage"), llava, [some], "image")) for some in (unplaced, items[:2]))
    assert two["dog", "mean", "stage1"].examples == 1
    assert torch.allclose(two["dog", "mean", "stage1"].scores, one["dog", "mean", "stage1"].scores, atol=1e-5)
    assert maps_of(feed(build("activation"), llava, [unplaced], "image"))["dog", "mean"].examples == 2


@pytest.mark.parametrize("name", ["activation", "gradient", "gradient_x_activation", "integrated_gradients"])
def test_the_images_positions_are_of_pictures_only(name: str) -> None:
    assert build(name, positions="image").sources == {"image"} and build(name).sources is None


def test_no_method_keeps_a_trace_alive(llava: LiveModel) -> None:
    items = make_items(llava)
    for name, parameters in (("contribution", {"norm": True}), ("integrated_gradients", {}), ("nam_text", {})):
        method = build(name, **parameters)
        with traced(llava, items, "text", layers=None, tap="product", grad=False) as trace:
            method.update(trace)
            seen = weakref.ref(trace)
        del trace
        gc.collect()
        assert seen() is None, name


def test_scaling_the_neuron_agrees_with_ablation_for_the_helpers(llava: LiveModel) -> None:
    items = make_items(llava, answers=["a dog"])
    assert scaled(llava, items[0], "dog", 0, 3, 1.0) == pytest.approx(log_probability(llava, items[0], "dog"))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gradient", {"output": "logits"}, "no output called 'logits'"),
        ("integrated_gradients", {"endpoints": "left"}, "no endpoints called 'left'"),
        ("integrated_gradients", {"steps": 0}, "steps"),
        ("knowledge_neurons", {"threshold": 1.5}, "threshold"),
        ("nam_text", {"filter": "max"}, "no filter called 'max'"),
        ("two_stage", {"threshold": "z"}, "no threshold called 'z'"),
        ("two_stage", {"draws": 0}, "draws"),
        ("logprob_increase", {"values": 0}, "values"),
    ],
)
def test_an_unknown_parameter_value_is_named(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, **parameters)


def test_the_released_path_begins_before_the_activation_function(opt: LiveModel) -> None:
    """A plain loop: a layer's inputs scaled from 0 in four steps, whole passes, the derivative by them."""
    items = make_items(opt, answers=["a dog"])
    method = build("knowledge_neurons", steps=4, endpoints="midpoint", tap="input")
    with traced(opt, items, "text", layers=None, tap="product", grad=False) as trace:
        found = torch.stack([method.score(trace, layer) for layer in trace.layers])[:, 0]
        plain = torch.stack([build("knowledge_neurons", steps=4).score(trace, layer) for layer in trace.layers])[:, 0]
    _, places = by_hand(opt, items[0])
    (position, token, _), batch = places["dog"][0], opt.batch([items[0].prompt])
    assert len(places["dog"]) == 1
    for layer in range(LAYERS):
        first, total = opt.layout.layers[layer].fc1, torch.zeros(WIDTH)
        for s in (0.125, 0.375, 0.625, 0.875):
            kept: list[Tensor] = []

            def scale(_m: Any, _a: Any, out: Tensor, s: float = s, kept: list[Tensor] = kept) -> Tensor:
                flat = out.view(-1, WIDTH).clone().detach()
                kept.append(flat[position].clone())
                leaf = (s * flat[position]).requires_grad_(True)
                kept.append(leaf)
                return torch.cat([flat[:position], leaf[None], flat[position + 1 :]]).view(out.shape)

            handle = first.register_forward_hook(scale)
            try:
                with torch.enable_grad(), tracing(opt.layout, layers=[]) as run:
                    opt.forward(batch)
                    assert run.norm_out is not None
                    chance = opt.logits(run.norm_out[0, position]).softmax(-1)[token]
                    total += torch.autograd.grad(chance, kept[1])[0] / 4
            finally:
                handle.remove()
        expected = kept[0] * total
        assert float(expected.abs().max()) > 1e-5
        assert torch.allclose(found[layer], expected, atol=1e-7, rtol=1e-3)
    assert not torch.allclose(found, plain, rtol=0.1)


def test_a_gated_ffn_has_no_single_input(llava: LiveModel) -> None:
    items = make_items(llava, answers=["a dog"])
    with (
        traced(llava, items, "text", layers=None, tap="product", grad=False) as trace,
        pytest.raises(Unsupported, match="has a gate"),
    ):
        build("knowledge_neurons", tap="input").score(trace, 0)


def test_negatives_are_kept_as_released(live: LiveModel) -> None:
    items = make_items(live)
    kept = maps_of(feed(build("knowledge_neurons", negatives="kept"), live, [items]))
    assert torch.equal(kept["dog", "mean"].scores, kept["dog", "mean", "coarse"].scores)
    removed = maps_of(feed(build("knowledge_neurons"), live, [items]))
    assert bool(removed["dog", "mean"].scores.isnan().any())


@pytest.mark.parametrize("name", ["integrated_gradients", "knowledge_neurons", "logprob_increase"])
def test_methods_that_restart_the_model_refuse_a_norm_behind_the_ffn(name: str, random_llava: Any) -> None:
    model, processor = random_llava(seed=5)
    live = LiveModel(model, processor, name="normed")
    block = live.layout.layers[0]
    plain = type(block.mlp).forward
    block.mlp.forward = lambda x: torch.nn.functional.layer_norm(plain(block.mlp, x), (32,))
    with pytest.raises(Unsupported, match="gradient_x_activation"):
        feed(build(name), live, [make_items(live)])
