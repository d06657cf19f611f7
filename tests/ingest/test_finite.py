"""NaN and infinity are found where they arise, named, and never stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atlas.edits import kinds
from atlas.edits.edit import Change, Intervention, check_intervention
from atlas.edits.kinds import make_changes
from atlas.errors import AtlasError, UsageError
from atlas.live.edit.apply import changing
from atlas.live.finite import NotFinite
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from ingest.attribution.estimators import PairMethod
from ingest.attribution.finite import check_state
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.job import Execution, make_job
from ingest.methods.ablation import Ablation
from ingest.run import arrow_tables, ingest, prepare

DOG = Target("dog", 0, 1.0)


def items(live: LiveModel, count: int = 2) -> list[Item]:
    prompts = [live.encoder.prompt("what is this ?", answer="a dog" if i else "a red dog barks") for i in range(count)]
    return [Item(10 + i, prompt, (DOG,)) for i, prompt in enumerate(prompts)]


def passed(live: LiveModel, some: list[Item], grad: bool = False) -> None:
    with traced(live, some, "text", layers=None, tap="product", grad=grad) as trace:
        if grad:
            trace.gradients_of("logit")


def half(random_llava: Any, scale: float) -> LiveModel:
    """In float16, with gates of layer 1 so large that its products are beyond 65,504."""
    model, processor = random_llava()
    live = LiveModel(model.half(), processor, name="half")
    with torch.no_grad():
        for projection in (live.layout.ffns[1].gate_proj, live.layout.ffns[1].up_proj):  # type: ignore[union-attr]
            projection.weight.mul_(scale)  # type: ignore[operator, union-attr]
    return live


def test_what_is_beyond_float16_is_named_by_layer_and_example(random_llava: Any) -> None:
    passed(half(random_llava, 1.0), items(half(random_llava, 1.0)))
    live = half(random_llava, 1000.0)
    with pytest.raises(NotFinite, match="in float16: the neurons of layer 1 of example number 10, example number 11"):
        passed(live, items(live))
    with pytest.raises(NotFinite, match="use dtype='bfloat16' or float32"):
        passed(live, items(live))


def test_one_row_alone_is_named_and_padding_is_not(llava: LiveModel) -> None:
    """A NaN of one row's real position; the shorter row's padding may hold anything."""
    from atlas.live.finite import broken_rows

    values = torch.zeros(2, 5, 3)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    values[1, 3, 1] = torch.nan
    assert broken_rows(values, real).tolist() == [False, False]
    values[1, 1, 2] = torch.inf
    assert broken_rows(values, real).tolist() == [False, True]
    passed(llava, items(llava))


def test_a_gradient_that_is_nan_is_named(random_llava: Any) -> None:
    """The square root has an infinite derivative at zero, and its values are fine."""
    live = LiveModel(*random_llava(), name="steep")
    layer: Any = live.layout.layers[1]
    plain = layer.forward

    def steep(hidden: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(hidden + (hidden - hidden.detach()).clamp(min=0).sqrt(), *args, **kwargs)

    layer.forward = steep
    passed(live, items(live))
    with pytest.raises(NotFinite, match="in float32: the gradients in layer 0 of example number 10"):
        passed(live, items(live), grad=True)


def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's model, in float16 with a layer that overflows; its weights are finite."""
    usual = prepare.load_model

    def large(job: Any, execution: Execution) -> LiveModel:
        live = usual(job, execution)
        with torch.no_grad():
            for projection in (live.layout.ffns[1].gate_proj, live.layout.ffns[1].up_proj):  # type: ignore[union-attr]
                projection.weight.mul_(1000)  # type: ignore[operator, union-attr]
        return live

    monkeypatch.setattr(ingest, "load_model", large)


def best(path: Path) -> Any:
    """What an older run answers."""
    from atlas.api.atlas import Atlas

    return Atlas(path).query(concept="dog", method="activation", source="text", top=5).to_arrow().to_pydict()


CONTENT = {"methods": {"activation": {}}, "concepts": ("dog",), "per_concept": 3, "sources": ("text",)}


def test_a_run_that_overflows_stores_nothing_and_the_older_one_answers(
    empty_atlas: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"model": str(llava_folder), **CONTENT}
    ingest.ingest(empty_atlas, make_job(content), Execution())
    before = best(empty_atlas)
    overflowing(monkeypatch)
    with pytest.raises(NotFinite, match=r"in float16: the neurons of layer 1 of example \S+"):
        ingest.ingest(empty_atlas, make_job({**content, "dtype": "float16"}), Execution())
    assert best(empty_atlas) == before
    assert not list(empty_atlas.glob("runs/*/shards/*.safetensors"))


def test_maps_without_a_score_are_not_stored(
    empty_atlas: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"model": str(llava_folder), **CONTENT}
    ingest.ingest(empty_atlas, make_job(content), Execution())
    before, usual = best(empty_atlas), arrow_tables.collect_maps

    def without(*args: Any) -> Any:
        return [(name, replace(m, scores=torch.full_like(m.scores, torch.nan))) for name, m in usual(*args)]

    monkeypatch.setattr(arrow_tables, "collect_maps", without)
    with pytest.raises(AtlasError, match=r"no neuron has a score, so there is nothing to store \(activation: dog\)"):
        ingest.ingest(empty_atlas, make_job({**content, "per_concept": 4}), Execution())
    assert best(empty_atlas) == before


def test_a_method_may_lack_scores_where_it_says_so_and_infinity_is_never_one(llava: LiveModel) -> None:
    lacking, infinite = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.inf])
    check_state("ablation", Ablation("", "", 8), {"sum||text|dog": lacking})
    for method, state in ((Ablation("", "", 8), infinite), (PairMethod(), lacking), (PairMethod(), infinite)):
        with pytest.raises(NotFinite, match=r"the scores of m are NaN or infinite \(sum of text dog\)"):
            check_state("m", method, {"sum||text|dog": state})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_however_they_come(
    bad: float, tmp_path: Path, random_llava: Any
) -> None:
    model, processor = random_llava()
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.down_proj.weight[3, 5] = bad
    match = r"weights that are NaN or infinite: .*layers.1.mlp.down_proj.weight \(1 of 64 tensors, float32\)"
    with pytest.raises(UsageError, match=match):
        LiveModel(model, processor, name="bad")
    model.save_pretrained(tmp_path / "bad")
    processor.save_pretrained(tmp_path / "bad")
    with pytest.raises(UsageError, match=match):
        LiveModel.load(tmp_path / "bad")


def test_an_answer_of_broken_logits_is_refused_and_its_prompt_named(random_llava: Any) -> None:
    """Greedy decoding takes token 0 where all logits are NaN: an answer of padding, or an empty one."""
    live = half(random_llava, 1000.0)
    asked = [live.encoder.prompt("what is this ?"), live.encoder.prompt("a dog barks")]
    with pytest.raises(NotFinite, match="in float16: the logits of prompt 1, prompt 2; the largest float16 number"):
        live.generate(asked, max_new_tokens=3)
    with pytest.raises(NotFinite, match="the logits of example a, example b"):
        live.generate(asked, max_new_tokens=3, names=["example a", "example b"])
    whole = LiveModel(*random_llava(), name="whole")
    assert len(whole.generate(asked, max_new_tokens=3)) == 2


def test_an_edit_that_overflows_is_refused_where_it_is_measured_and_where_it_answers(llava: LiveModel) -> None:
    edit = Intervention(tuple(Change(Neuron("language", 0, i), gain=3e38) for i in range(64)))
    with changing(llava, edit):
        with pytest.raises(NotFinite, match="what an edit multiplies or adds"):
            passed(llava, items(llava))
        with pytest.raises(NotFinite, match="in float32: the logits of prompt 1"):
            llava.ask("what is this ?")


def test_an_edit_with_numbers_that_no_model_computes_with_is_not_made_or_stored() -> None:
    """1e39 is infinite to every model, and 1e38 is squared by its norms, which then give nothing."""
    neuron = Neuron("language", 0, 1)
    with pytest.raises(UsageError, match=r"scale=1e\+39 is out of range; give a finite number, up to 1e\+12"):
        make_changes([neuron], kinds.scale(1e39))
    deltas = np.zeros((1, 4), np.float32)
    for changes, rows in (
        ((Change(neuron, gain=1e13),), None),
        ((Change(neuron, bias=float("nan")),), None),
        ((Change(neuron, write=0),), deltas + np.nan),
    ):
        with pytest.raises(UsageError, match="it is not stored"):
            check_intervention("x", Intervention(changes, deltas=rows))
    check_intervention("x", Intervention((Change(neuron, gain=1e12, write=0),), deltas=deltas))
