"""Edits attached to a model: they stay until they are removed, and can be seen."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch

from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.library import StoredEdit
from atlas.errors import AtlasWarning, UsageError
from atlas.live import attached
from atlas.live.model import LiveModel
from atlas.neurons import LANGUAGE, Neuron


def edit_of(live: LiveModel, name: str, *indices: int) -> StoredEdit:
    model = {"name": live.name, "revision": None, "fingerprint": live.fingerprint}
    what = Intervention(tuple(Change(Neuron(LANGUAGE, 0, index), 0.0, 5.0) for index in indices))
    return StoredEdit(Edit(name, 1, model, None, {}, what, "2026-11-03T10:00:00+00:00"))


@pytest.fixture
def live(random_llava: Any) -> LiveModel:
    return LiveModel(*random_llava(), name="random-llava")


def logits(live: LiveModel) -> torch.Tensor:
    out: torch.Tensor = live.model(input_ids=torch.tensor([[1, 5, 6, 7]])).logits
    return out


def test_an_edit_acts_until_it_is_removed_whoever_keeps_its_handle(live: LiveModel) -> None:
    clean = logits(live)
    edit_of(live, "loud", 1, 2).attach(live)
    gc.collect()
    assert not torch.equal(logits(live), clean)
    (found,) = attached(live)
    assert attached(live.model) == (found,) and repr(found) == "<loud@1: 2 neurons>"
    found.remove()
    found.remove()
    assert torch.equal(logits(live), clean) and attached(live) == ()
    with edit_of(live, "loud", 1).attach(live):
        assert len(attached(live)) == 1
    assert torch.equal(logits(live), clean) and attached(live) == ()


def test_a_model_is_let_go_of_with_what_is_attached_to_it(random_llava: Any) -> None:
    live = LiveModel(*random_llava(), name="random-llava")
    edit_of(live, "loud", 1).attach(live)
    seen = weakref.ref(live.model)
    del live
    gc.collect()
    assert seen() is None


def test_edits_of_the_same_neurons_are_told(live: LiveModel) -> None:
    clean = logits(live)
    one, two, three = edit_of(live, "one", 1, 2, 3), edit_of(live, "two", 3, 4), edit_of(live, "three", 5)
    one.attach(live)
    with pytest.warns(
        AtlasWarning,
        match=r"edit two@1 changes 1 neurons \(0/3\) that one@1, which is attached to this model, changes first",
    ):
        two.attach(live)
    with pytest.warns(AtlasWarning) as told, two.on(live):
        pass
    assert [str(w.message)[:45] for w in told] == [
        "edit two@1 changes 1 neurons (0/3) that one@1",
        "edit two@1 changes 2 neurons (0/3, 0/4) that ",
    ]
    three.attach(live)
    assert [a.edit.label for a in attached(live)] == ["one@1", "two@1", "three@1"]
    for found in attached(live):
        found.remove()
    assert torch.equal(logits(live), clean)


def test_a_model_with_an_edit_is_not_copied(live: LiveModel) -> None:
    copy.deepcopy(live.model)
    edit_of(live, "loud", 1).attach(live)
    with pytest.raises(UsageError, match="loud@1 attached"):
        copy.deepcopy(live.model)
    attached(live)[0].remove()
    assert attached(copy.deepcopy(live.model)) == ()
