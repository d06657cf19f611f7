"""Several edits as one against nested blocks on a live model; what is no one change; what two edits do otherwise."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from edit_parts import D_MODEL, WHERES, edit_of, neuron, same

from atlas import Atlas
from atlas.edits import kinds
from atlas.edits.compose import compose, difference, overlap, told
from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.positions import EVERYWHERE, PHASES, Positions, as_slice
from atlas.errors import UsageError
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.neurons import LANGUAGE, Neuron


def deltas(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, D_MODEL)).astype(np.float32)


def random_edit(seed: int, where: Positions = EVERYWHERE, tap: str = "product", name: str = "edit") -> Edit:
    """Twenty of the model's 128 neurons: scaled, set, shifted or with a delta on the write vector, or both."""
    rng = np.random.default_rng(seed)
    changes, rows = [], 0
    for place in rng.choice(128, size=20, replace=False):
        gain, bias = float(rng.choice([0.0, 1.0, 0.5, -2.0])), float(rng.choice([0.0, 0.0, 1.5]))
        write = rows if rng.random() < 0.5 else None
        rows += write is not None
        changes.append(Change(neuron(int(place) // 64, int(place) % 64), gain, bias, where=where, write=write))
    return edit_of(Intervention(tuple(changes), tap, deltas(rows, seed) if rows else None), f"{name}{seed}")


@pytest.fixture
def batch(llava: Any, picture: Any) -> Any:
    prompt = llava.encoder.prompt("what is this ?", [picture], answer="a dog")
    return llava.batch([prompt, llava.encoder.prompt("describe the picture .", [picture], answer="a red cat .")])


def final(live: Any, batch: Any, *interventions: Intervention) -> torch.Tensor:
    """The last hidden state under nested interventions, the first the outermost."""
    with torch.no_grad(), ExitStack() as stack:
        for intervention in interventions:
            stack.enter_context(changing(live, intervention))
        with tracing(live.layout, layers=[]) as capture:
            live.forward(batch)
    assert capture.norm_out is not None
    return capture.norm_out


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def shared(first: Edit, second: Edit) -> set[Neuron]:
    return set(first.neurons) & set(second.neurons)


@pytest.mark.parametrize("where", WHERES, ids=str)
@pytest.mark.parametrize("tap", ["product", "gate"])
def test_a_sequence_is_what_nested_blocks_do(tap: str, where: Positions, llava: Any, batch: Any) -> None:
    edits = [random_edit(seed, where, tap) for seed in range(3)]
    assert shared(edits[0], edits[1]) and shared(edits[1], edits[2])
    nested = final(llava, batch, *(e.intervention for e in edits))
    assert close(final(llava, batch, compose(edits, "sequence")), nested)
    other = final(llava, batch, *(e.intervention for e in reversed(edits)))
    assert close(final(llava, batch, compose(edits[::-1], "sequence")), other)
    assert not close(nested, final(llava, batch)) and not close(nested, other)


def test_with_priority_the_first_named_has_a_neuron_alone(llava: Any, batch: Any) -> None:
    first, second = random_edit(0), random_edit(1)
    theirs = shared(first, second)
    made = compose([first, second], "priority")
    kept = tuple(c for c in second.changes if c.neuron not in theirs)
    rest = replace(second.intervention, changes=kept)
    assert close(final(llava, batch, made), final(llava, batch, first.intervention, rest))
    assert len(made.changes) == 40 - len(theirs) == len(made.neurons)
    assert not close(final(llava, batch, made), final(llava, batch, compose([second, first], "priority")))


def test_with_priority_places_that_overlap_in_part_are_refused() -> None:
    """Where only the second acts, the first would have the neuron too."""
    image = edit_of([Change(neuron(0, 3), 0.0, where=Positions(("image",)))], "image")
    everywhere = edit_of([Change(neuron(0, 3), 2.0)], "everywhere")
    for edits in ([image, everywhere], [everywhere, image]):
        with pytest.raises(
            UsageError, match="neuron 0/3 is changed where .* which overlap in part; give both edits one"
        ):
            compose(edits, "priority")


def test_without_a_rule_a_conflict_is_refused_and_says_what_to_type() -> None:
    first, second = random_edit(0), random_edit(1)
    (one, *_) = [c.neuron for c in second.changes if c.neuron in shared(first, second)]
    with pytest.raises(UsageError, match=rf"edit1@1 changes neuron {one}, which another.*conflict='priority' or"):
        compose([first, second])
    with pytest.raises(UsageError, match="no conflict rule called 'last'; there are: error, priority, sequence"):
        compose([first, second], "last")


@pytest.mark.parametrize("conflict", ["error", "priority", "sequence"])
def test_edits_of_other_places_do_not_conflict(conflict: str, llava: Any, batch: Any) -> None:
    image, text = Positions(("image",)), Positions(("text",))
    first = edit_of([Change(neuron(0, 3), 0.0, 2.0, where=image), Change(neuron(1, 5), -1.0, where=image)], "first")
    second = edit_of([Change(neuron(0, 3), 3.0, where=text), Change(neuron(1, 9), 0.0, 4.0, where=text)], "second")
    made = compose([first, second], conflict)
    assert len(made.changes) == 4
    nested = final(llava, batch, first.intervention, second.intervention)
    assert close(final(llava, batch, made), nested) and not close(nested, final(llava, batch, first.intervention))


def test_deltas_of_one_neuron_add_and_are_numbered_anew(llava: Any, batch: Any) -> None:
    at = [neuron(0, 3), neuron(1, 4), neuron(0, 9)]
    first = edit_of(Intervention((Change(at[0], write=1), Change(at[1], write=0)), deltas=deltas(2)), "first")
    second = edit_of(Intervention((Change(at[0], write=0), Change(at[2], 2.0)), deltas=deltas(1, 1)), "second")
    made = compose([first, second], "sequence")
    found = {c.neuron: made.delta(c) for c in made.changes}
    assert np.array_equal(found[at[0]], deltas(2)[1] + deltas(1, 1)[0]) and np.array_equal(found[at[1]], deltas(2)[0])
    assert found[at[2]] is None and made.deltas is not None and made.deltas.shape == (2, D_MODEL)
    assert close(final(llava, batch, made), final(llava, batch, first.intervention, second.intervention))
    alone = compose([first, edit_of([Change(at[2], 2.0)], "second")])
    assert sorted(c.write for c in alone.changes if c.write is not None) == [0, 1]


def test_what_is_no_one_change_is_refused() -> None:
    at = neuron(0, 3)
    image = edit_of([Change(at, 0.0, where=Positions(("image",)))], "image")
    everywhere = edit_of([Change(at, 2.0)], "everywhere")
    with pytest.raises(UsageError, match="changed where role=image and where all, which is no one change; nest"):
        compose([image, everywhere], "sequence")
    text = edit_of([Change(at, 0.0, where=Positions(("text",)))], "text")
    with pytest.raises(UsageError, match="no one change"):
        compose([image, text, everywhere], "sequence")
    noisy = edit_of([Change(at, noise=0.1)], "noisy")
    with pytest.raises(UsageError, match="neuron 0/3 gets noise twice; nest"):
        compose([noisy, noisy], "sequence")
    reseeded = edit_of(Intervention((Change(neuron(0, 4), noise=0.1),), seed=1), "reseeded")
    with pytest.raises(UsageError, match="noise of different seeds"):
        compose([noisy, reseeded])
    stranger = edit_of([Change(at, 0.0)], "stranger", fingerprint="0" * 64)
    with pytest.raises(UsageError, match="edits of different weights; compose edits of one model"):
        compose([everywhere, stranger], "priority")


def test_noise_goes_through_what_comes_after_it(llava: Any, batch: Any) -> None:
    at, other = neuron(0, 3), neuron(1, 3)
    noisy = edit_of(Intervention((Change(at, 1.0, 0.5, 0.3), Change(other, noise=2.0)), seed=7), "noisy")
    scaled = edit_of([Change(at, 2.0, 1.0)], "scaled")
    made = compose([noisy, scaled], "sequence")
    assert made.seed == 7
    assert [(c.gain, c.bias, c.noise) for c in made.changes if c.neuron == at] == [(2.0, 2.0, 0.6)]
    nested = final(llava, batch, noisy.intervention, scaled.intervention)
    assert close(final(llava, batch, made), nested)
    made = compose([scaled, noisy], "sequence")
    assert [(c.gain, c.bias, c.noise) for c in made.changes if c.neuron == at] == [(2.0, 1.5, 0.3)]
    assert close(final(llava, batch, made), final(llava, batch, scaled.intervention, noisy.intervention))
    assert not close(nested, final(llava, batch, made))


def test_the_gate_and_the_product_meet_in_gains_alone(llava: Any, batch: Any) -> None:
    at = neuron(0, 3)
    gain = Intervention((Change(at, 2.0),), "gate")
    set_product, set_gate = (Intervention((Change(neuron(0, 4), 0.0, 3.0),), tap) for tap in ("product", "gate"))
    for other, tap in ((set_product, "product"), (set_gate, "gate")):
        made = compose([edit_of(gain, "gain"), edit_of(other, "set")], "sequence")
        assert made.tap == tap
        assert close(final(llava, batch, made), final(llava, batch, gain, other))
    assert compose([edit_of(gain, "a"), edit_of(replace(gain, tap="product"), "b")], "sequence").tap == "product"
    with pytest.raises(UsageError, match="act at the taps gate and product; nest"):
        compose([edit_of(set_product, "a"), edit_of(set_gate, "b")], "priority")


def test_the_gate_acts_first_whichever_edit_is_named_first(llava: Any, batch: Any) -> None:
    """Both on one neuron: zeroing the product and then setting its gate leaves 0, as one change it would not."""
    product = edit_of(Intervention((Change(neuron(0, 3), 0.0),), "product"), "product")
    gate = edit_of(Intervention((Change(neuron(0, 3), 0.0, 3.0),), "gate"), "gate")
    for edits in ([product, gate], [gate, product]):
        nested = final(llava, batch, *(e.intervention for e in edits))
        assert close(nested, final(llava, batch, product.intervention))
        with pytest.raises(UsageError, match="neuron 0/3 is changed at the taps gate and product; nest"):
            compose(edits, "sequence")
        with pytest.raises(UsageError, match="conflict=.priority"):
            compose(edits)


TEXTS = ["all", "role=image", "role=text", "role=image,special", "phase=prefill", "phase=decode", "position=-1"]
TEXTS += ["position=0:3", "role=text;phase=decode", "role=image;phase=prefill", "role=text;position=2:5"]


def reached(where: Positions, length: int = 6) -> set[tuple[str, str, int]]:
    """Every (role, phase, place) that it may change, one by one."""
    spans = {i for span in where.spans for i in range(length)[as_slice(span)]}
    return {
        (role, phase, place)
        for role, phase, place in itertools.product(("text", "special", "image"), PHASES, range(length))
        if (not where.roles or role in where.roles)
        and where.phase in (None, phase)
        and (not where.spans or (phase == "prefill" and place in spans))
    }


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(TEXTS, 2)))
def test_places_that_share_a_position_overlap(one: str, other: str) -> None:
    first, second = Positions.parse(one), Positions.parse(other)
    assert overlap(first, second) == overlap(second, first)
    if reached(first) & reached(second):
        assert overlap(first, second)
    elif not (first.spans and second.spans):  # positions count from both ends: two of them may always meet
        assert not overlap(first, second)


def rows(first: Edit, second: Edit) -> list[tuple[str, str, Any, Any]]:
    return [(r["neuron"], r["where"], r["first"], r["second"]) for r in difference(first, second).to_pylist()]


def test_what_two_edits_do_otherwise() -> None:
    image = Positions(("image",))
    first = edit_of(
        [Change(neuron(0, 3), 0.0), Change(neuron(0, 4), 2.0), Change(neuron(1, 1), where=image, noise=0.1)]
    )
    second = edit_of([Change(neuron(0, 3), 0.0), Change(neuron(0, 4), 1.0, 0.5), Change(neuron(1, 2), 0.0)])
    assert rows(first, second) == [
        ("0/4", "all", "2 x", "x + 0.5"),
        ("1/1", "role=image", "x + noise 0.1", None),
        ("1/2", "all", None, "0"),
    ]
    assert rows(first, first) == [] and difference(first, first).column_names == ["neuron", "where", "first", "second"]
    assert rows(second, first) == [(n, w, b, a) for n, w, a, b in rows(first, second)]


def test_a_difference_that_the_words_do_not_show_is_one_too() -> None:
    at = neuron(0, 3)
    plain = Intervention((Change(at, write=0),), deltas=deltas(1))
    turned = replace(plain, deltas=deltas(1)[:, ::-1].copy())
    assert len(rows(edit_of(plain), edit_of(turned))) == 1
    assert rows(edit_of(plain), edit_of(replace(plain, deltas=deltas(1)))) == []
    noisy = Intervention((Change(at, noise=0.1),), seed=1)
    assert len(rows(edit_of(noisy), edit_of(replace(noisy, seed=2)))) == 1
    assert len(rows(edit_of([Change(at, 2.0)]), edit_of([Change(at, 2.0000001)]))) == 1
    # a gain does the same at both taps, and seeds are nothing without noise
    gain = Intervention((Change(at, 2.0),), "gate", seed=5)
    assert rows(edit_of(gain), edit_of(Intervention((Change(at, 2.0),)))) == []
    steer = Intervention((Change(at, 1.0, 2.0),), "gate")
    assert rows(edit_of(steer), edit_of(replace(steer, tap="product"))) == [("0/3", "all", "gate: x + 2", "x + 2")]


@pytest.mark.parametrize(
    ("change", "delta", "text"),
    [
        (Change(Neuron(LANGUAGE, 0, 0), 0.0), None, "0"),
        (Change(Neuron(LANGUAGE, 0, 0), 0.0, -1.5), None, "-1.5"),
        (Change(Neuron(LANGUAGE, 0, 0), 0.5, 2.0, 0.25), None, "0.5 x + 2 + noise 0.25"),
        (Change(Neuron(LANGUAGE, 0, 0)), np.array([3.0, 4.0]), "write + |5|"),
        (Change(Neuron(LANGUAGE, 0, 0), 0.0), np.array([3.0, 4.0]), "0, write + |5|"),
        (Change(Neuron(LANGUAGE, 0, 0)), None, "x"),
    ],
)
def test_a_change_in_words(change: Change, delta: np.ndarray | None, text: str) -> None:
    assert told(change, delta) == text


def test_a_composed_edit_is_stored_with_what_it_is_made_of(own_atlas: Any) -> None:
    atlas = Atlas.open(own_atlas)
    dog, cat = (atlas.query(name, source="text", reduce="mean", top=20) for name in ("dog", "cat"))
    assert dog & cat
    atlas.create_edit("no-dog", dog, kinds.ablate())
    atlas.create_edit("half-cat", cat, kinds.scale(0.5))
    edit = atlas.compose_edits("both", ["no-dog", "half-cat@1"], conflict="priority", note="my own").data
    assert (edit.label, edit.concept, edit.note) == ("both@1", None, "my own")
    assert edit.provenance["composed"] == ["no-dog@1", "half-cat@1"] and edit.provenance["conflict"] == "priority"
    assert set(edit.neurons) == set(dog) | set(cat)
    assert {c.gain for c in edit.changes if c.neuron in set(dog)} == {0.0}
    read = atlas.edit("both")
    assert read.data == edit and same(read.data.intervention, edit.intervention)
    twice = atlas.compose_edits("twice", ["no-dog", "both"], conflict="sequence").data
    assert twice.concept is None and len(list(read.neurons)) == len(edit.neurons)
    with pytest.raises(UsageError, match="compose two edits or more: atlas edit compose"):
        atlas.compose_edits("one", ["no-dog"])
    with pytest.raises(UsageError, match="no edit called 'no-cat'"):
        atlas.compose_edits("x", ["no-dog", "no-cat"])
