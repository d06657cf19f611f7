"""Compiled models: what they were made of is read and edited; the compiled code itself would leave an edit out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from atlas.edits.edit import Change, Intervention
from atlas.errors import AtlasWarning, UsageError
from atlas.live.edit.apply import changing
from atlas.live.model import LiveModel
from atlas.neurons import Neuron

OFF = Intervention(tuple(Change(Neuron("language", 1, i), gain=0.0) for i in range(64)))


@pytest.fixture(autouse=True)
def clean() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_compiled_model_that_is_handed_in_is_the_one_it_was_made_of(random_llava: Any) -> None:
    model, processor = random_llava()
    plain = LiveModel(model, processor, name="plain")
    with pytest.warns(AtlasWarning, match="LlavaForConditionalGeneration was compiled .* its uncompiled original"):
        live = LiveModel(torch.compile(model, backend="eager"), processor, name="compiled")  # type: ignore[arg-type]
    assert live.model is model and live.identity == plain.identity
    batch = live.batch([live.encoder.prompt("what is this ?", answer="a dog")])
    with torch.no_grad():
        before = live.forward(batch)
        with changing(live, OFF):
            assert not torch.equal(live.forward(batch), before)


def test_an_edit_of_compiled_code_is_refused_and_of_what_it_was_made_of_is_not(random_llava: Any) -> None:
    model, _ = random_llava()
    compiled: Any = torch.compile(model, backend="eager")
    with pytest.raises(UsageError, match=r"this model is compiled .*; give, and call, .*: model._orig_mod"):
        changing(compiled, OFF).__enter__()
    with changing(compiled._orig_mod, OFF):
        pass
    part, _ = random_llava()
    part.model.language_model.layers[1] = torch.compile(part.model.language_model.layers[1], backend="eager")
    with pytest.raises(UsageError, match="'model.language_model.layers.1' of this model is compiled"):
        changing(part, OFF).__enter__()
    place: Any = random_llava()[0]
    place.compile(backend="eager")
    with pytest.raises(UsageError, match=r"LlavaForConditionalGeneration.compile\(\) was called, .* do not compile it"):
        changing(place, OFF).__enter__()
