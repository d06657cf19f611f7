"""Edits made from neurons: stored means and minima against a loop over the examples, every kind of change, algebra."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edit_parts import D_MODEL, WIDTH, edit_of, language, neuron

from atlas import Atlas
from atlas.edits import kinds
from atlas.edits.edit import Change, Intervention
from atlas.edits.kinds import KINDS, make_changes, parse_shift
from atlas.edits.library import create, model_row, store
from atlas.edits.positions import Positions
from atlas.edits.reference_values import MIN, reference_values, tap_of
from atlas.edits.set_expression import of_expression
from atlas.errors import UsageError
from atlas.live.hooks import tracing
from atlas.maintain.check import check
from atlas.neurons import Neuron
from atlas.query.labels import labelled
from atlas.query.neuron_set import NeuronSet
from atlas.stats.random_neurons import matched_random
from atlas.store.engine import connect_writer
from ingest.job import open_dataset
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.prepare import collect
from ingest.run.resolve import complete

EYES = frozenset({"image", "text"})


@pytest.fixture(scope="module")
def values(llava: Any, small_job: Any) -> dict[str, torch.Tensor]:
    """source -> (positions, layers, neurons): every value of every example of the stored run, one by one."""
    dataset = open_dataset(small_job)
    job = complete(small_job, dataset, EYES)
    examples = collect(job, dataset)
    found: dict[str, list[torch.Tensor]] = {}
    for item in ExampleEncoder(llava, dataset, job).items(list(enumerate(examples)), 16):
        with torch.no_grad(), tracing(llava.layout) as capture:
            ids = torch.tensor([item.prompt.ids + item.prompt.answer])
            llava.model(input_ids=ids, **item.prompt.extras, use_cache=False)
        seen = torch.stack([capture.values[layer][0] for layer in range(2)], 1)
        found.setdefault(examples[item.number].source, []).append(seen)
    return {source: torch.cat(some) for source, some in found.items()}


def expected(values: torch.Tensor, statistic: str) -> dict[Neuron, float]:
    exact = values.double()
    reduced = {"mean": exact.mean(0), "min": exact.amin(0), "sd": exact.std(0, correction=0)}[statistic]
    return {neuron(y, i): pytest.approx(float(reduced[y, i]), abs=1e-5) for y in range(2) for i in range(WIDTH)}


@pytest.mark.parametrize("statistic", ["mean", "min", "sd"])
@pytest.mark.parametrize("source", ["image", "text"])
def test_reference_values_are_over_every_position_of_every_example_of_the_source(
    source: str, statistic: str, stored_atlas: Path, values: dict[str, torch.Tensor]
) -> None:
    found = Atlas.open(stored_atlas).query("dog", source=source, top=3)
    assert reference_values(stored_atlas, found.provenance, statistic) == expected(values[source], statistic)


def test_of_two_sources_the_means_are_averaged_and_the_lesser_minimum_is_taken(
    stored_atlas: Path, values: dict[str, torch.Tensor]
) -> None:
    atlas = Atlas.open(stored_atlas)
    both = atlas.query("dog", source="image", top=9) | atlas.query("cat", source="text", top=9)
    unmapped = {"fingerprint": both.provenance["fingerprint"]}  # a run's labels: no map is behind them
    means = torch.stack([values[source].double().mean(0) for source in ("image", "text")]).mean(0)
    least = torch.stack([values[source].amin(0) for source in ("image", "text")]).amin(0)
    for provenance in (both.provenance, {"of": both.provenance}, {"parts": [both.provenance]}, unmapped):
        asked = {"fingerprint": both.provenance["fingerprint"], **provenance}
        for statistic, reference in (("mean", means), ("min", least)):
            found = reference_values(stored_atlas, asked, statistic)
            assert found == expected(reference[None], statistic)
    assert not torch.allclose(values["image"].mean(0), values["text"].mean(0), atol=1e-3)


def test_mean_and_minimum_edits_give_each_neuron_its_own(
    own_atlas: Path, values: dict[str, torch.Tensor], llava: Any, picture: Any
) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", source="text", top=6)
    for statistic, kind in (("mean", kinds.mean()), ("min", kinds.minimum())):
        edit = atlas.create_edit(f"to-{statistic}", found, kind).data
        wanted = expected(values["text"], statistic)
        assert [(c.neuron, c.gain, c.bias) for c in edit.changes] == [(n, 0.0, wanted[n]) for n in found]
        batch = llava.batch([llava.encoder.prompt("what is this ?", [picture])])
        with torch.no_grad(), atlas.edit(edit.name).on(llava), tracing(llava.layout) as capture:
            llava.forward(batch)
        for one in found:
            assert capture.values[one.layer][..., one.index].unique().tolist() == [wanted[one]]


def test_a_shift_in_deviations_is_of_each_neurons_own(own_atlas: Path, values: dict[str, torch.Tensor]) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", source="text", top=6)
    own = values["text"].double().std(0, correction=0)
    for text, factor in (("2sd", 2.0), ("-0.5sd", -0.5)):
        edit = atlas.create_edit("steer", found, parse_shift(text)).data
        assert [c.gain for c in edit.changes] == [1.0] * 6 and [c.neuron for c in edit.changes] == list(found)
        wanted = [factor * float(own[n.layer, n.index]) for n in found]
        assert [c.bias for c in edit.changes] == pytest.approx(wanted, abs=1e-4)
        assert edit.provenance["change"]["shift"] == text
    assert parse_shift("2sd") == kinds.steer(2, unit="sd") and parse_shift("2") == kinds.steer(2.0)
    for wrong in ("", "sd", "2 sigma", "2 sd sd"):
        with pytest.raises(UsageError, match="standard deviations such as 2sd"):
            parse_shift(wrong)
    with pytest.raises(UsageError, match="steer=nan is out of range; give a finite number"):
        parse_shift("nansd")
    with pytest.raises(UsageError, match="changes nothing"):
        parse_shift("0sd")
    with pytest.raises(UsageError, match="unit='sigma' is not a unit; give value or sd"):
        kinds.steer(2, unit="sigma")
    with connect_writer(own_atlas) as connection:
        connection.exec_driver_sql("DELETE FROM maps WHERE reduce = 'sd'")
    with pytest.raises(UsageError, match="no sd values are stored for .*`atlas ingest --methods activation"):
        atlas.create_edit("x", found, kinds.steer(2, unit="sd"))


def test_missing_reference_values_say_what_to_type(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", source="text", top=3)
    at_gate = [{**m, "tap": "gate"} for m in found.provenance["maps"]]
    gated = NeuronSet(found.to_arrow(), {**found.provenance, "maps": at_gate})
    assert tap_of(gated.provenance) == "gate"
    for kind, statistic in ((kinds.mean(), "mean"), (kinds.minimum(), MIN)):
        message = f"no {statistic} values are stored for .*, source text, tap gate; `atlas ingest --methods activation"
        with pytest.raises(UsageError, match=f"{message} --tap gate` stores them"):
            atlas.create_edit("x", gated, kind)
    stranger = {"fingerprint": "0" * 64}
    with pytest.raises(UsageError, match="no mean values are stored for these weights.*--methods activation"):
        reference_values(own_atlas, stranger)
    both = NeuronSet(found.to_arrow(), {**found.provenance, "maps": [*at_gate, *found.provenance["maps"]]})
    with pytest.raises(UsageError, match="found at the taps gate and product; an edit acts at one"):
        atlas.create_edit("x", both, kinds.ablate())
    assert atlas.edits().table.num_rows == 0


N = language((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (kinds.ablate(), [Change(n, 0.0) for n in N]),
        (kinds.set_to(0.5), [Change(n, 0.0, 0.5) for n in N]),
        (kinds.scale(-2.0), [Change(n, -2.0) for n in N]),
        (kinds.scale(0.0), [Change(n, 0.0) for n in N]),
        (kinds.steer(1.5), [Change(n, 1.0, 1.5) for n in N]),
        (kinds.steer(0.5, unit="sd"), [Change(N[0], 1.0, 1.5), Change(N[1], 1.0, -2.0)]),
        (kinds.noise(0.1), [Change(n, noise=0.1) for n in N]),
        (kinds.write_noise(0.1), [Change(n, write=i) for i, n in enumerate(N)]),
        (kinds.mean(), [Change(N[0], 0.0, 3.0), Change(N[1], 0.0, -4.0)]),
        (kinds.minimum(), [Change(N[0], 0.0, 3.0), Change(N[1], 0.0, -4.0)]),
    ],
)
def test_every_kind_of_change(kind: kinds.ChangeKind, changes: list[Change]) -> None:
    own = {N[0]: 3.0, N[1]: -4.0}
    assert make_changes(N, kind, statistics=own) == tuple(changes)
    where = Positions(("image",))
    assert make_changes(N, kind, statistics=own, where=where) == tuple(replace(c, where=where) for c in changes)
    assert kind.name in kind.plain() and list(kind.plain()) == list(KINDS)


def test_a_change_that_cannot_be_says_what_can() -> None:
    with pytest.raises(UsageError, match="no stored value for neuron 1/2; `atlas ingest --methods activation`"):
        make_changes(N, kinds.mean(), statistics={N[0]: 1.0})
    with pytest.raises(UsageError, match=r"no neurons; loosen it \(top, select, layers\)"):
        make_changes([], kinds.ablate())
    for make, amount, message in (
        (kinds.set_to, float("nan"), "set_to=nan is out of range; give a finite number"),
        (kinds.scale, float("inf"), "scale=inf is out of range"),
        (kinds.noise, -0.5, "noise=-0.5 is out of range; give a number, 0 or more"),
        (kinds.write_noise, -1, "write_noise=-1 is out of range"),
    ):
        with pytest.raises(UsageError, match=message):
            make(amount)


def test_what_changes_nothing_is_refused() -> None:
    for make, amount in ((kinds.scale, 1.0), (kinds.steer, 0.0), (kinds.noise, 0.0), (kinds.write_noise, 0.0)):
        with pytest.raises(UsageError, match="changes nothing"):
            make(amount)  # type: ignore[operator]
    assert kinds.scale(0.0).amount == 0


def test_noise_on_write_vectors_is_drawn_from_the_seed(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", top=4)
    edit = atlas.create_edit("noisy", found, kinds.write_noise(0.5), seed=3, where="role=image").data
    wanted = 0.5 * np.random.default_rng(3).standard_normal((4, D_MODEL))
    assert edit.intervention.deltas is not None
    assert np.array_equal(edit.intervention.deltas, wanted.astype(np.float32))
    assert [(c.neuron, c.write, str(c.where)) for c in edit.changes] == [
        (n, i, "role=image") for i, n in enumerate(found)
    ]
    other = atlas.create_edit("noisy", found, kinds.write_noise(0.5), seed=4).data
    assert other.intervention.deltas is not None
    assert not np.array_equal(other.intervention.deltas, edit.intervention.deltas)
    with pytest.raises(UsageError, match="no neurons"):
        atlas.create_edit("x", found - found, kinds.write_noise(1))
    with pytest.raises(UsageError, match="no layer 9"):
        atlas.query("dog", layers=(9,))


def test_noise_and_places_are_stored(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", top=4)
    edit = atlas.create_edit(
        "noisy", found, kinds.noise(0.5), seed=9, where="position=-1;phase=prefill", note="mine"
    ).data
    read = atlas.edit("noisy").data
    assert read == edit and (read.note, read.intervention.seed, read.concept) == ("mine", 9, "dog")
    assert {(c.gain, c.bias, c.noise, str(c.where)) for c in read.changes} == {
        (1.0, 0.0, 0.5, "position=-1;phase=prefill")
    }
    assert read.provenance["change"] == dict.fromkeys(KINDS) | {"noise": 0.5, "mean": False, "min": False}
    with pytest.raises(UsageError, match="no token role called 'smell'"):
        atlas.create_edit("x", found, kinds.ablate(), where="role=smell")
    assert check(own_atlas) == []


def test_the_complement_is_every_other_neuron_once(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", source="text", top=20)
    rest = atlas.complement(found)
    every = {neuron(y, i) for y in range(2) for i in range(WIDTH)}
    assert len(rest) == 108 and set(rest) == every - set(found)
    assert set(atlas.complement(rest)) == set(found)
    edit = atlas.create_edit("only-dog", rest, kinds.mean()).data
    assert len(edit.changes) == 108 and edit.concept == "dog"
    assert set(atlas.edit("only-dog").neurons) == set(rest)


@pytest.mark.parametrize("count", [1, 20, 32, 33, 50, 63, 64])
def test_a_control_has_as_many_neurons_of_a_layer_and_as_few_of_the_edits_own_as_can_be(count: int) -> None:
    own = {int(i) for i in np.random.default_rng(count).choice(64, count, replace=False)}
    drawn = [matched_random([neuron(1, i) for i in own], 64, seed) for seed in range(3)]
    for some in drawn:
        assert len(set(some)) == count and all(n.layer == 1 and 0 <= n.index < 64 for n in some)
        assert len({n.index for n in some} & own) == max(0, 2 * count - 64)
    assert drawn[0] == matched_random([neuron(1, i) for i in own], 64, 0)
    if count not in (32, 64):  # else there is but one
        assert drawn[0] != drawn[1]


def test_the_algebra_of_edits_goes_from_left_to_right(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    for name, top in (("a", 30), ("b", 20), ("c", 10)):
        chosen = atlas.query("dog" if name != "b" else "cat", source="text", reduce="mean", top=top)
        atlas.create_edit(name, chosen, kinds.ablate())
    a, b, c = (set(atlas.edit(name).neurons) for name in "abc")
    assert a & b and b - a
    for text, wanted in (
        ("a@1", a),
        ("a & b", a & b),
        ("a - b | c", (a - b) | c),
        (" c | a - b ", (c | a) - b),
        ("c|(a - edit:b@1)", c | (a - b)),
    ):
        found = of_expression(own_atlas, text)
        assert set(found) == wanted and len(found) == len(wanted)
    made = atlas.create_edit("d", of_expression(own_atlas, "a & b"), kinds.mean()).data
    means = reference_values(own_atlas, atlas.query("dog", source="text").provenance)
    assert {x.neuron: x.bias for x in made.changes} == {n: means[n] for n in a & b}
    assert atlas.create_edit("e", of_expression(own_atlas, "a - c"), kinds.scale(2)).data.concept == "dog"
    assert made.concept is None  # of a dog's and a cat's
    for text, message in (
        ("a b", "'a b' is not a set of neurons; write for example 'dog & cat'"),
        ("a & ", "not a set of neurons"),
        ("a @1", "not a set of neurons"),
        ("a & (b | c", "not a set of neurons"),
        ("z", "no selection or edit called 'z'"),
        ("selection:a", "no selection called 'a'"),
        ("map:a", "write a name, selection:NAME or edit:NAME"),
        ("a - a@7", "no edit called 'a@7'"),
    ):
        with pytest.raises(UsageError, match=message):
            of_expression(own_atlas, text)
    with pytest.raises(UsageError, match="no neurons"):
        create(own_atlas, "none", of_expression(own_atlas, "a - a"), kinds.ablate())
    store(own_atlas, edit_of([Change(N[0], 0.0)], "stranger"))
    with pytest.raises(UsageError, match="two models"):
        of_expression(own_atlas, "a | stranger")


def test_labelled_neurons_become_an_edit(filled: Path) -> None:
    run_id = str(Atlas.open(filled).query("dog").provenance["maps"][0]["run_id"])
    found = labelled(filled, run_id[:8], "image")
    edit = Atlas.open(filled).create_edit("unseen", found, kinds.scale(0.5)).data
    assert edit.neurons == (neuron(1, 3),) and edit.concept is None and edit.tap == "product"
    assert edit.provenance["labels"] == {"run_id": run_id, "label": "image"}
    with pytest.raises(UsageError, match="no label of this run called 'imgae'; did you mean 'image'"):
        labelled(filled, run_id[:8], "imgae")


def test_an_edit_of_a_map_over_all_concepts_is_about_none(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("*", "activation", source="text", top=3)
    assert found.provenance["maps"][0]["concept"] == "*"
    assert atlas.create_edit("quiet", found, kinds.ablate()).data.concept is None


def test_an_unknown_model_is_named(own_atlas: Path) -> None:
    with pytest.raises(UsageError, match="the atlas knows no model of these weights; `atlas ingest"):
        model_row(own_atlas, "0" * 64)
    stranger = NeuronSet(Atlas.open(own_atlas).query("dog", top=2).to_arrow(), {"fingerprint": "0" * 64})
    with pytest.raises(UsageError, match="knows no model"):
        Atlas.open(own_atlas).create_edit("x", stranger, kinds.ablate())


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ([Change(n, 0.0) for n in N], 2 * D_MODEL),
        ([Change(n, write=i) for i, n in enumerate(N)], 2 * D_MODEL),
        ([Change(n, 1.0, 2.0) for n in N], 2 * D_MODEL),  # two layers' biases
        ([Change(N[0], 0.0, 1.0), Change(neuron(0, 5), 0.0, 1.0)], 3 * D_MODEL),  # two columns, one bias
        ([Change(n, noise=1.0) for n in N], 0),
    ],
)
def test_how_many_weights_would_be_others(changes: list[Change], count: int) -> None:
    assert Intervention(tuple(changes)).parameters(D_MODEL) == count
