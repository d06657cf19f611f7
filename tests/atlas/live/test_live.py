"""Tracing, editing and replay against the model's own modules, on a gated, a plain and a real-folder model."""

from __future__ import annotations

from typing import Any

import families
import pytest
import torch

from atlas.errors import Unsupported, UsageError
from atlas.live.affine import affine
from atlas.live.draw.drawer import DrawOptions
from atlas.live.edit.restart import layer_output, resume
from atlas.live.encode import IMAGE_ROLE, PAD, ROLES, TEXT_ROLE
from atlas.live.hooks import editing, tracing
from atlas.live.load.fingerprint import fingerprint
from atlas.live.model import LiveModel
from atlas.live.norms import direct_directions


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def batch_of(live: LiveModel, picture: Any) -> Any:
    images = [picture] if live.name == "random-llava" else []
    prompts = [
        live.encoder.prompt("what is this ?", images, answer="a dog"),
        live.encoder.prompt("describe the picture .", images, answer="a red cat and one hot dog ."),
    ]
    return live.batch(prompts)


def final(live: LiveModel, batch: Any) -> torch.Tensor:
    """The last hidden state: what every edit must change and every exit must restore, bit for bit."""
    with torch.no_grad(), tracing(live.layout, layers=[]) as capture:
        live.forward(batch)
    assert capture.norm_out is not None
    return capture.norm_out


def test_the_product_tap_is_the_input_of_the_down_projection(llava: LiveModel, picture: Any) -> None:
    batch = batch_of(llava, picture)
    with torch.no_grad(), tracing(llava.layout) as product:
        llava.forward(batch)
    with torch.no_grad(), tracing(llava.layout, tap="gate") as gate:
        llava.forward(batch)
    mlp = llava.layout.layers[1].mlp
    seen: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        llava.forward(batch)
    handle.remove()
    expected_gate = torch.nn.functional.silu(mlp.gate_proj(seen[0]))
    assert torch.equal(gate.values[1], expected_gate)
    assert torch.equal(product.values[1], expected_gate * mlp.up_proj(seen[0]))


def test_opt_values_come_back_batched_and_the_two_taps_agree(opt: LiveModel, picture: Any) -> None:
    batch = batch_of(opt, picture)
    with torch.no_grad(), tracing(opt.layout) as capture:
        opt.forward(batch)
    assert capture.values[0].shape == (*batch.roles.shape, opt.layout.width)
    assert bool((capture.values[0] >= 0).all())  # ReLU
    with torch.no_grad(), tracing(opt.layout, tap="gate") as gate:
        opt.forward(batch)
    assert torch.equal(gate.values[1], capture.values[1])


def test_no_hook_is_left_after_success_exception_bad_layer_or_interrupt(live: LiveModel, picture: Any) -> None:
    batch = batch_of(live, picture)
    rule = affine(torch.tensor([1]), torch.zeros(1), torch.zeros(1))
    with torch.no_grad():
        live.forward(batch)
    own = hooks(live.model)  # transformers keeps a few of its own, to record hidden states
    with tracing(live.layout), editing(live.layout, {0: rule}), torch.no_grad():
        assert hooks(live.model) > own
        live.forward(batch)
    assert hooks(live.model) == own
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), tracing(live.layout), editing(live.layout, {0: rule}):
            raise error
        assert hooks(live.model) == own
    with pytest.raises(UsageError, match="layers 0-1"), tracing(live.layout, layers=[0, 7]):
        pass
    with pytest.raises(UsageError, match="layers 0-1"), editing(live.layout, {0: rule, 7: rule}):
        pass
    with pytest.raises(UsageError, match="no tap called 'gat'"), tracing(live.layout, tap="gat"):
        pass
    assert hooks(live.model) == own


@pytest.mark.parametrize("neurons", [[0], [3, 17, 40], list(range(64))])
def test_hooked_ablation_equals_the_weight_edit_bit_for_bit(live: LiveModel, picture: Any, neurons: list[int]) -> None:
    batch = batch_of(live, picture)
    clean = final(live, batch)
    index = torch.tensor(neurons)
    rule = affine(index, torch.zeros(len(index)), torch.zeros(len(index)))
    with editing(live.layout, {0: rule, 1: rule}):
        hooked = final(live, batch)
    kept = [live.layout.write_vectors(layer).detach().clone() for layer in (0, 1)]
    with torch.no_grad():
        for layer in (0, 1):
            live.layout.write_vectors(layer)[:, index] = 0
        weighted = final(live, batch)
        for layer, weight in enumerate(kept):
            live.layout.write_vectors(layer).copy_(weight)
    assert torch.equal(hooked, weighted)
    assert not torch.equal(hooked, clean)
    assert torch.equal(final(live, batch), clean)


def test_an_affine_rule_equals_a_plain_loop_and_ablates_infinities(llava: LiveModel) -> None:
    values = torch.randn(2, 3, 5)
    values[0, 0, 1] = float("inf")
    rule = affine(torch.tensor([1, 4]), torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0]))
    expected = values.clone()
    expected[..., 1], expected[..., 4] = 0.0, values[..., 4] * 2 - 1
    assert torch.equal(rule(values), expected)
    assert values[0, 0, 1] == float("inf")  # the argument is not changed


def test_components_sum_to_the_logit(live: LiveModel, picture: Any) -> None:
    """Embedding, attention, FFN neurons and biases, through the frozen final norm, give the logit back."""
    batch = batch_of(live, picture)
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(batch)
        assert capture.norm_in is not None and capture.norm_out is not None
        row, position, token = 1, int(batch.starts[1]), torch.tensor([42])
        directions = direct_directions(
            live.layout, token, capture.norm_in[row, position][None], capture.norm_out[row, position][None]
        )[0]
        embedding = capture.calls[0][0][0][row, position]
        total = directions @ embedding
        for layer in range(2):
            before = capture.calls[layer][0][0][row, position]
            ffn = live.layout.write_vectors(layer) @ capture.values[layer][row, position]
            bias = getattr(live.layout.down[layer], "bias", None)
            bias = torch.zeros_like(ffn) if bias is None else bias
            attention = layer_output(capture, layer)[row, position] - before - ffn - bias
            neurons = capture.values[layer][row, position] * (directions @ live.layout.write_vectors(layer))
            total = total + neurons.sum() + directions @ attention + directions @ bias
        norm_bias = getattr(live.layout.norm, "bias", None)
        if norm_bias is not None:
            total = total + live.layout.unembedding()[token[0]] @ norm_bias
        logit = live.logits(capture.norm_out[row, position])[token[0]]
    assert float(total) == pytest.approx(float(logit), rel=1e-4)


def test_resuming_from_any_layer_reproduces_the_pass(live: LiveModel, picture: Any) -> None:
    batch = batch_of(live, picture)
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(batch)
    rows = torch.tensor([1, 0, 1])
    for layer in range(2):
        hidden = layer_output(capture, layer)[rows]
        out = resume(live.layout, capture, layer + 1, hidden, rows)
        assert capture.norm_in is not None
        real = batch.inputs["attention_mask"][rows].bool()
        assert torch.allclose(out[real], capture.norm_in[rows][real], atol=1e-5)


def test_gradients_start_at_the_language_model_and_match_a_finite_difference(live: LiveModel, picture: Any) -> None:
    batch = batch_of(live, picture)
    row, position = 0, int(batch.starts[0])

    def score(capture: Any) -> torch.Tensor:
        return live.logits(capture.norm_out[row, position]).log_softmax(-1)[7]

    with tracing(live.layout, grad=True) as capture:
        live.forward(batch)
        gradient = torch.autograd.grad(score(capture), capture.values[0])[0]
    assert all(p.grad is None for p in live.model.parameters())
    epsilon, neuron = 1e-2, int(gradient[row].abs().sum(0).argmax())
    ends = []
    for sign in (1, -1):
        rule = affine(torch.tensor([neuron]), torch.ones(1), torch.tensor([sign * epsilon]))
        with torch.no_grad(), editing(live.layout, {0: rule}), tracing(live.layout) as moved:
            live.forward(batch)
        ends.append(float(score(moved)))
    slope = (ends[0] - ends[1]) / (2 * epsilon)
    assert slope == pytest.approx(float(gradient[row, :, neuron].sum()), rel=2e-2)


def test_roles_and_answer_positions(llava: LiveModel, picture: Any) -> None:
    batch = batch_of(llava, picture)
    roles = batch.roles
    assert int((roles[0] == IMAGE_ROLE).sum()) == 4
    assert ROLES[int(roles[0, batch.starts[0]])] == "text"
    assert int((roles[0] == PAD).sum()) > 0 and int((roles[1] == PAD).sum()) == 0
    answer = batch.inputs["input_ids"][0, batch.starts[0] :]
    answer = answer[roles[0, batch.starts[0] :] == TEXT_ROLE]
    assert llava.encoder.decode(answer.tolist()).strip() == "a dog"


def test_generation_with_left_padding_equals_one_by_one_and_a_loop_without_cache(
    llava: LiveModel, picture: Any
) -> None:
    prompts = [llava.encoder.prompt("what is this ?", [picture]), llava.encoder.prompt("a")]
    together = llava.generate(prompts, max_new_tokens=6)
    assert together == [llava.generate([p], max_new_tokens=6)[0] for p in prompts]
    ids = list(prompts[0].ids)
    for _ in range(6):
        batch = llava.batch([prompts[0].answered(ids[len(prompts[0].ids) :])])
        with torch.no_grad(), tracing(llava.layout, layers=[]) as capture:
            llava.forward(batch)
        assert capture.norm_out is not None
        ids.append(int(llava.logits(capture.norm_out[0, -1]).argmax()))
    assert together[0] == ids[len(prompts[0].ids) :]


def test_the_statistics_of_batch_norms_are_part_of_the_fingerprint() -> None:
    import families

    live = LiveModel(*families.build("FastVLM"), name="fastvlm")
    before, norm = live.fingerprint, live.model.model.vision_tower.embeddings.batchnorm
    norm.running_var[0] *= 2
    changed = live.fingerprint
    norm.running_mean[0] += 1
    assert len({before, changed, live.fingerprint}) == 3


def test_a_fingerprint_knows_the_weights_and_not_the_precision(llava: LiveModel, random_llava: Any) -> None:
    same, other = random_llava()[0], random_llava(seed=1)[0]
    assert fingerprint(same) == llava.fingerprint != fingerprint(other)
    assert fingerprint(same.to(torch.bfloat16)) == llava.fingerprint
    with torch.no_grad():
        next(iter(other.parameters())).add_(1)
    before = fingerprint(other)
    with torch.no_grad():
        next(iter(other.parameters())).flatten()[0].mul_(1.01)
    assert fingerprint(other) != before


def test_a_saved_folder_loads_to_the_same_model(llava: LiveModel, llava_folder: Any, picture: Any) -> None:
    loaded = LiveModel.load(llava_folder)
    assert loaded.fingerprint == llava.fingerprint
    assert torch.equal(final(loaded, batch_of(llava, picture)), final(llava, batch_of(llava, picture)))
    assert loaded.ask("what is this ?", [picture], max_new_tokens=4) == llava.ask(
        "what is this ?", [picture], max_new_tokens=4
    )


def test_a_model_that_is_not_there_says_what_to_type() -> None:
    with pytest.raises(UsageError, match="cannot load the model 'no/such-model'.*atlas models"):
        LiveModel.load("no/such-model")


def test_a_model_spread_by_a_device_map_is_the_same_model(llava: LiveModel, llava_folder: Any, picture: Any) -> None:
    loaded = LiveModel.load(llava_folder, device_map="cpu")
    assert loaded.fingerprint == llava.fingerprint
    assert torch.equal(final(loaded, batch_of(llava, picture)), final(llava, batch_of(llava, picture)))


def test_what_is_missing_for_a_device_map_is_named(llava_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(Unsupported, match=r"pip install 'neuron-atlas\[device-map\]'"):
        LiveModel.load(llava_folder, device_map="auto")


def test_bfloat16_loads_traces_and_edits(llava_folder: Any, llava: LiveModel, picture: Any) -> None:
    half = LiveModel.load(llava_folder, dtype="bfloat16")
    assert half.dtype == "bfloat16" and half.fingerprint == llava.fingerprint
    batch = batch_of(half, picture)
    clean = final(half, batch)
    rule = affine(torch.arange(64), torch.zeros(64), torch.zeros(64))
    with editing(half.layout, {0: rule}):
        edited = final(half, batch)
    assert clean.dtype == torch.bfloat16 and not torch.equal(edited, clean)
    assert torch.equal(final(half, batch), clean)


@pytest.mark.filterwarnings("ignore")
def test_janus_answers_and_draws_without_remarks_of_its_library(caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging

    live = LiveModel(*families.build("Janus"), name="janus")
    prompt = live.encoder.prompt("a red dog")
    logging.enable_propagation()
    try:
        live.generate([prompt], max_new_tokens=2)
        live.drawer.answers([prompt], DrawOptions(), 1)
    finally:
        logging.disable_propagation()
    assert [record.getMessage() for record in caplog.records] == []
