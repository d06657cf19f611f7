"""Restarting at the last positions against restarting at all of them, and against a model that cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attribution import build, feed, make_items

from atlas.live.edit.restart import layer_output, resume
from atlas.live.edit.suffix import Suffix
from atlas.live.model import LiveModel
from ingest.attribution.path_gradients import SlowPath
from ingest.attribution.trace import traced


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", [1, 2])
def test_changed_copies_come_out_as_from_the_whole_layers(layer: int, live: LiveModel) -> None:
    with torch.no_grad(), traced(live, make_items(live), "text", layers=None, tap="product", grad=False) as trace:
        begin = int(trace.positions.min())
        suffix = Suffix(live.layout, trace.capture, begin)
        assert suffix.works and 0 < begin < suffix.length
        rows = torch.tensor([2, 0, 2, 5])
        hidden = layer_output(trace.capture, layer - 1)[rows].clone()
        hidden[:, begin:] += torch.randn(hidden[:, begin:].shape, generator=torch.Generator().manual_seed(0))
        whole = resume(live.layout, trace.capture, layer, hidden, rows)
        part = suffix.resume(layer, hidden[:, begin:], rows)
    real = trace.real[rows, begin:]
    assert torch.allclose(part[real], whole[:, begin:][real], atol=1e-5)


def test_gradients_flow_through(live: LiveModel) -> None:
    with traced(live, make_items(live), "text", layers=None, tap="product", grad=False) as trace:
        begin = int(trace.positions.min())
        suffix = Suffix(live.layout, trace.capture, begin)
        rows = torch.arange(3)
        gradients = []
        for start in (0, begin):
            leaf = layer_output(trace.capture, 0).detach()[rows][:, start:].requires_grad_(True)
            with torch.enable_grad():
                out = suffix.resume(1, leaf, rows) if start else resume(live.layout, trace.capture, 1, leaf, rows)
                (found,) = torch.autograd.grad(out[:, -3].square().sum(), leaf)
            gradients.append(found[:, begin - start :])
    assert float(gradients[0].abs().max()) > 1e-3
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4)


def test_layers_that_take_no_such_cache_are_found_out(random_llava: Any) -> None:
    model, processor = random_llava(seed=5)
    live = LiveModel(model, processor, name="stubborn")
    attention = live.layout.layers[1].self_attn
    plain = type(attention).forward
    attention.forward = lambda *args, cache=None, past_key_values=None, **kwargs: plain(attention, *args, **kwargs)
    with traced(live, make_items(live), "text", layers=None, tap="product", grad=False) as trace:
        suffix = Suffix(live.layout, trace.capture, int(trace.positions.min()))
        assert not suffix.works and "recorded keys and values" in suffix.refused
        none = Suffix(live.layout, trace.capture, 0)
        assert not none.works and none.refused == ""
        with pytest.warns(SlowPath, match="stubborn runs whole sequences .* recorded keys and values"):
            feed(build("integrated_gradients", steps=2), live, [make_items(live)])
