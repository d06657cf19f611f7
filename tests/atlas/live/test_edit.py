"""Edits on live models: a thousand random ones undone bit for bit, against edited weights, and wherever models run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import Int8, Packed, assert_same, build_blip2, gap, hooks, small, state
from torch import Tensor

from atlas.edits.edit import Change, Edit, Intervention, with_deltas
from atlas.edits.library import StoredEdit
from atlas.edits.positions import Positions
from atlas.errors import Unsupported, UsageError
from atlas.live.bake.bake import bake
from atlas.live.edit.apply import changing
from atlas.live.edit.restart import resume
from atlas.live.hooks import tracing
from atlas.live.load.fingerprint import fingerprint
from atlas.live.model import LiveModel
from atlas.live.token_positions import answers_from
from atlas.neurons import GATE, LANGUAGE, PRODUCT, Neuron

WIDTH, D_MODEL = 64, 32
WHERES = ("all", "role=text", "role=special", "role=text,special", "position=0", "position=-1,2:5", "phase=prefill")
WHERES += ("phase=decode", "role=text;phase=decode", "role=text;position=-3:")


@pytest.fixture(scope="module")
def neox(opt: LiveModel) -> LiveModel:
    """A plain FFN with biases that sees (batch, position, neuron), beside attention and not behind it."""
    return LiveModel(small("GPTNeoX"), opt.encoder.processor, name="random-neox")


@pytest.fixture(params=["llava", "opt", "neox"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def sees(live: LiveModel) -> bool:
    return bool(live.encoder.role_of.media_ids)


def batch_of(live: LiveModel, picture: Any) -> Any:
    """Two prompts with answers of different lengths, padded on the right; the first has a picture if the model sees."""
    pictures = [[picture], []] if sees(live) else [[], []]
    texts = [("what is this ?", "a dog"), ("describe the picture .", "a red cat and one hot dog .")]
    return live.batch([live.encoder.prompt(t, p, a) for (t, a), p in zip(texts, pictures, strict=True)])


def final(live: LiveModel, batch: Any) -> Tensor:
    with torch.no_grad(), tracing(live.layout, layers=[]) as capture:
        live.forward(batch)
    assert capture.norm_out is not None
    return capture.norm_out


def change(layer: int, index: int, gain: float = 1.0, bias: float = 0.0, **more: Any) -> Change:
    return Change(Neuron(LANGUAGE, layer, index), gain, bias, **more)


def some(seed: int, wheres: tuple[str, ...] = ("all",), *, noise: bool = False, tap: str = PRODUCT) -> Intervention:
    """A random intervention in some neurons: gains, constants, deltas, and noise where asked for."""
    draw = np.random.default_rng(seed)
    cells = draw.choice(2 * WIDTH, size=int(draw.integers(1, 30)), replace=False)
    changes, deltas = [], []
    for cell in cells.tolist():
        gain = float(draw.choice([0.0, 1.0, draw.normal(), 2.5]))
        bias = float(draw.choice([0.0, draw.normal()]))
        sigma = float(draw.choice([0.0, 0.5])) if noise else 0.0
        where = Positions.parse(str(draw.choice(wheres)))
        changes.append(change(cell // WIDTH, cell % WIDTH, gain, bias, noise=sigma, where=where))
        deltas.append(draw.normal(size=D_MODEL).astype(np.float32) if draw.random() < 0.4 else None)
    made = with_deltas(changes, deltas)
    return Intervention(made.changes, tap, made.deltas, seed)


def edit_of(live: LiveModel, intervention: Intervention) -> StoredEdit:
    model = {"name": live.name, "revision": None, "fingerprint": live.fingerprint, "d_model": D_MODEL}
    return StoredEdit(Edit("random", 1, model, None, {}, intervention, "2026-11-03T10:00:00+00:00"))


@contextmanager
def failing(live: LiveModel, error: type[BaseException]) -> Iterator[None]:
    """The last layer raises in the middle of a pass."""

    def fail(*_: Any) -> None:
        raise error

    handle = live.layout.layers[-1].register_forward_pre_hook(fail)
    told = Unsupported if issubclass(error, Exception) else error  # that the model's own code fails
    try:
        with pytest.raises(told):
            yield
    finally:
        handle.remove()


def applied_in_some_way(number: int, edit: StoredEdit, live: LiveModel, batch: Any) -> Tensor:
    """What the edited model gives; the edit is left in one of five ways."""
    if number % 5 == 4:
        attached = edit.attach(live)
        out = final(live, batch)
        attached.remove()
        attached.remove()
        return out
    with edit.on(live):
        out = final(live, batch)
    error = (None, RuntimeError, KeyboardInterrupt, SystemExit)[number % 4]
    if error is not None:
        with failing(live, error), edit.on(live):
            final(live, batch)
        with pytest.raises(error), edit.on(live):
            raise error
    return out


def test_a_thousand_random_edits_leave_no_trace(live: LiveModel, picture: Any) -> None:
    """Over three architectures; each edit is applied, left by success, an exception or an interrupt, and undone."""
    batch = batch_of(live, picture)
    wheres = (*WHERES, "role=image", "role=image,text;phase=prefill") if sees(live) else WHERES
    clean, before, own = final(live, batch), state(live.model), hooks(live.model)
    did_something = 0
    for number in range(334):
        what = some(number, wheres, noise=number % 3 == 0, tap=(PRODUCT, GATE)[number % 2])
        out = applied_in_some_way(number, edit_of(live, what), live, batch)
        did_something += not torch.equal(out, clean)
        assert hooks(live.model) == own
        assert torch.equal(final(live, batch), clean)
        assert_same(state(live.model), before)
    assert did_something > 320


def by_hand(model: Any, what: Intervention) -> None:
    """Write an intervention into a model's weights, one neuron after another."""
    from atlas.live.layout import locate

    for each in what.changes:
        down: Any = locate(model).down[each.neuron.layer]
        column = down.weight.data[:, each.neuron.index].clone()
        if (delta := what.delta(each)) is not None:
            column += torch.from_numpy(delta)
        down.weight.data[:, each.neuron.index] = each.gain * column
        if each.bias:
            before = torch.zeros(D_MODEL) if down.bias is None else down.bias.data
            down.bias = torch.nn.Parameter(before + each.bias * column, requires_grad=False)


def test_an_edit_everywhere_is_an_edit_of_the_weights(live: LiveModel, picture: Any) -> None:
    batch, clean = batch_of(live, picture), None
    clean = final(live, batch)
    for seed in range(20):
        what = some(seed)
        edited = LiveModel(copy.deepcopy(live.model), live.encoder.processor, name="edited")
        by_hand(edited.model, what)
        with changing(live, what):
            hooked = final(live, batch)
        assert gap(hooked, final(edited, batch)) < 3e-6
        assert not torch.equal(hooked, clean)


def test_nested_edits_are_the_composed_one(live: LiveModel, picture: Any) -> None:
    """x <- g2 (g1 x + b1) + b2, the outer edit first; deltas of the write vectors add."""
    batch = batch_of(live, picture)
    one, two = np.random.default_rng(1).normal(size=(2, D_MODEL)).astype(np.float32)
    outer = with_deltas([change(0, 3, 2.0, 0.5), change(1, 9, -1.0), change(0, 7, 0.0)], [one, None, None])
    inner = with_deltas([change(0, 3, 0.5, -1.0), change(1, 9, 3.0, 0.25), change(1, 10, 0.0)], [two, two, None])
    cells = [change(0, 3, 1.0, -0.75), change(1, 9, -3.0, 0.25), change(0, 7, 0.0), change(1, 10, 0.0)]
    together = with_deltas(cells, [one + two, two, None, None])
    with changing(live, outer), changing(live, inner):
        nested = final(live, batch)
    with changing(live, together):
        assert gap(nested, final(live, batch)) < 1e-6
    with changing(live, inner), changing(live, outer):
        assert gap(nested, final(live, batch)) > 1e-4, "the order matters"


def prompts_of(live: LiveModel, picture: Any) -> Any:
    """Two prompts of different lengths, padded on the left."""
    pictures = [[picture], []] if sees(live) else [[], []]
    texts = ["what is this ?", "describe the picture . two dogs and one"]
    return live.batch([live.encoder.prompt(t, p) for t, p in zip(texts, pictures, strict=True)], left=True)


STEPS = 5


def generated(live: LiveModel, batch: Any, *, cache: bool) -> tuple[Tensor, Tensor]:
    """The tokens of prompt and answer, (2, P + STEPS), and the logits of every step, (2, STEPS, vocabulary)."""
    width = batch.inputs["input_ids"].shape[1]
    with torch.no_grad(), answers_from([width] * 2):
        out = live.model.generate(
            **batch.inputs,
            use_cache=cache,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return out.sequences, torch.stack(out.logits, 1)


def forced(live: LiveModel, batch: Any, tokens: Tensor) -> Tensor:
    """The logits of the same steps in one pass over prompt and answer."""
    inputs, width = dict(batch.inputs), batch.inputs["input_ids"].shape[1]
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, STEPS, dtype=torch.long)], 1)
    inputs |= {"input_ids": tokens, "attention_mask": mask}
    with torch.no_grad(), answers_from([width] * 2):
        logits: Tensor = live.model(**inputs, use_cache=False).logits
    return logits[:, width - 1 : -1]


GENERATED = {
    "everywhere": ("all", False),
    "decode": ("phase=decode", False),
    "prefill": ("phase=prefill", False),
    "positions": ("position=-1,1:3", False),
    "noise": ("all", True),
    "noise in the answer": ("phase=decode", True),
}


@pytest.mark.parametrize("case", GENERATED)
def test_generation_with_and_without_cache_and_teacher_forcing_agree(case: str, live: LiveModel, picture: Any) -> None:
    where, noise = GENERATED[case]
    batch = prompts_of(live, picture)
    assert not bool(batch.inputs["attention_mask"].all()), "without padding this proves less"
    _, plain = generated(live, batch, cache=True)
    with edit_of(live, some(11, (where,), noise=noise)).on(live):
        tokens, cached = generated(live, batch, cache=True)
        again, uncached = generated(live, batch, cache=False)
        teacher = forced(live, batch, tokens)
    assert torch.equal(tokens, again)
    assert gap(cached, uncached) < 1e-5 and gap(cached, teacher) < 1e-5
    assert gap(cached, plain) > 1e-3
    if case.endswith(("decode", "answer")):  # the first token of the answer is predicted at the prompt's last position
        assert torch.equal(cached[:, 0], plain[:, 0])


def test_noise_depends_on_its_neuron_and_place_alone(live: LiveModel) -> None:
    prompts = [live.encoder.prompt(text) for text in ("what is this ?", "describe the picture . two dogs")]

    def noise(*changes: Change, rows: list[int], seed: int = 3, layer: int = 1) -> Tensor:
        """What a layer's neuron 5 is at the positions of the first prompt."""
        batch = live.batch([prompts[row] for row in rows], left=True)
        with torch.no_grad(), changing(live, Intervention(changes, seed=seed)), tracing(live.layout) as inside:
            live.forward(batch)
        row = rows.index(0)
        return inside.values[layer][row, batch.inputs["attention_mask"][row].bool(), 5]

    mine = change(1, 5, 0.0, noise=1.0)
    alone = noise(mine, rows=[0])
    assert len(alone) > 3 and len(alone.unique()) == len(alone)
    others = [change(1, n, 0.0, noise=2.0) for n in (2, 40, 63)]
    assert torch.equal(alone, noise(*others, mine, rows=[1, 0]))
    assert torch.allclose(2 * alone, noise(change(1, 5, 0.0, noise=2.0), rows=[0]))
    assert not torch.isclose(alone, noise(mine, rows=[0], seed=4)).any()
    other_layer = noise(change(0, 5, 0.0, noise=1.0), rows=[0], layer=0)
    assert not torch.isclose(alone, other_layer).any()


def test_noise_is_gaussian_of_the_given_spread(llava: LiveModel) -> None:
    """400 values of a neuron and 60 neurons: mean 0, the standard deviation given, no two neurons alike."""
    from atlas.live.edit.apply import Noise

    drawn = Noise([change(0, n, noise=0.5 + n) for n in range(60)], seed=1, layer=0)
    rows = torch.stack([drawn._row(place) for place in range(400)]) / (0.5 + torch.arange(60))
    assert float(rows.mean().abs()) < 0.02 and float(rows.std()) == pytest.approx(1, abs=0.02)
    assert float((torch.corrcoef(rows.T) - torch.eye(60)).abs().max()) < 0.25  # 5 standard errors


def test_generation_of_a_language_model_inside_another_knows_phase_and_place() -> None:
    """BLIP-2's own `generate` never calls the whole model."""
    model = build_blip2()
    ids = torch.tensor([[3, 3, 3, 3, 1, 7, 9], [3, 3, 3, 3, 1, 8, 11]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["pixel_values"] = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def logits() -> Tensor:
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.stack(out.logits, 1)

    plain, own = logits(), hooks(model)
    prefill, decode = (
        Intervention(
            (change(0, 5, 0.0, 3.0, where=Positions(phase=p)), change(1, 8, noise=2.0, where=Positions(phase=p)))
        )
        for p in ("prefill", "decode")
    )
    with changing(model, decode):
        answering = logits()
        with pytest.raises(Unsupported, match="without the KV cache"):  # all of it would look like prompt
            model(**inputs, use_cache=False)
    assert torch.equal(answering[:, 0], plain[:, 0]) and gap(plain[:, 1:], answering[:, 1:]) > 1e-3
    with changing(model, prefill):
        assert gap(plain[:, 0], logits()[:, 0]) > 1e-3
    with changing(model, prefill), changing(model, decode):
        both = logits()
    with changing(model, Intervention(tuple(Change(c.neuron, c.gain, c.bias, c.noise) for c in prefill.changes))):
        assert torch.allclose(both, logits(), atol=1e-5)
    with pytest.raises(Unsupported, match="this pass was given embeddings"):  # noqa: SIM117
        with changing(model, Intervention((change(0, 5, 0.0, where=Positions(("image",))),))):
            logits()
    assert hooks(model) == own and torch.equal(logits(), plain)


def test_a_layer_by_itself_is_not_taken_for_the_last_pass(live: LiveModel, picture: Any) -> None:
    batch = batch_of(live, picture)
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(batch)
    hidden, rows = capture.calls[1][0][0], torch.arange(2)
    with torch.no_grad(), changing(live, Intervention((change(1, 3, 0.0, where=Positions(spans=("0",))),))):
        live.forward(batch)
        with pytest.raises(Unsupported, match="needs passes of the whole model"):
            resume(live.layout, capture, 1, hidden, rows)
    with torch.no_grad(), changing(live, Intervention((change(1, 3, 0.0),))):
        resume(live.layout, capture, 1, hidden, rows)  # everywhere is everywhere


def test_bfloat16_hooks_are_those_of_the_weights(llava_folder: Path, llava: LiveModel, picture: Any) -> None:
    half = LiveModel.load(llava_folder, dtype="bfloat16")
    batch = batch_of(half, picture)
    clean, before = final(half, batch), state(half.model)
    ablation = Intervention(tuple(change(y, n, 0.0) for y in (0, 1) for n in (1, 7, 33)))
    edited = LiveModel(copy.deepcopy(half.model), half.encoder.processor, name="edited")
    by_hand(edited.model, ablation)
    with edit_of(llava, ablation).on(half):  # the fingerprint is that of the float32 model
        hooked = final(half, batch)
    assert hooked.dtype == torch.bfloat16 and torch.equal(hooked, final(edited, batch))
    wild = some(3, WHERES, noise=True)
    with edit_of(llava, wild).on(half):
        assert bool(final(half, batch).isfinite().all())
    assert torch.equal(final(half, batch), clean)
    assert_same(state(half.model), before)


OFFLOADED = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "model.language_model": "disk"}


def test_a_model_partly_on_the_disk(llava_folder: Path, llava: LiveModel, picture: Any, tmp_path: Path) -> None:
    model = transformers.LlavaForConditionalGeneration.from_pretrained(
        llava_folder, device_map=OFFLOADED | {"lm_head": "cpu"}, offload_folder=tmp_path
    ).eval()
    assert model.model.language_model.layers[0].mlp.down_proj.weight.is_meta
    assert fingerprint(model) == llava.fingerprint
    spread = LiveModel(model, llava.encoder.processor, name="spread")
    assert torch.equal(final(spread, batch_of(spread, picture)), final(llava, batch_of(llava, picture)))
    inputs = batch_of(llava, picture).inputs
    edit = edit_of(llava, some(5, ("all", "role=image", "phase=prefill"), noise=True))
    with torch.no_grad():
        clean, own = model(**inputs).logits, hooks(model)
        with edit.on(model, processor=llava.encoder.processor):
            out = model(**inputs).logits
        with edit.on(llava):
            assert torch.equal(out, llava.model(**inputs).logits)
        assert not torch.equal(out, clean) and torch.equal(model(**inputs).logits, clean)
    assert hooks(model) == own
    with pytest.raises(Unsupported, match="the FFN of layer 1 is not in memory"):
        spread.layout.write_vectors(1)
    with pytest.raises(Unsupported, match="not in memory"):
        bake(model, Intervention((change(0, 1, 0.0),)))


def test_weights_fetched_by_accelerate_have_the_same_fingerprint(opt: LiveModel, random_llava: Any) -> None:
    """OPT's embeddings are tied, which putting them away unties."""
    from accelerate import cpu_offload

    for live in (opt, LiveModel(*random_llava(), name="own")):
        model = copy.deepcopy(live.model)
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert all(p.is_meta for p in model.parameters())
        assert fingerprint(model) == live.fingerprint
        hook = model.get_decoder().layers[0].self_attn.q_proj._hf_hook
        hook.weights_map["weight"][0] += 1
        assert fingerprint(model) != live.fingerprint
    with torch.device("meta"):
        empty = type(opt.model)(opt.model.config)
    with pytest.raises(Unsupported, match="have no values"):
        fingerprint(empty)


@pytest.mark.parametrize("kind", [Int8, Packed])
def test_quantised_layers_take_hooks_and_no_baking(
    kind: Callable[[Any], Any], random_llava: Any, llava: LiveModel, picture: Any
) -> None:
    model, processor = random_llava()
    plain, _ = random_llava()  # with the rounded weights as floats
    for own, other in zip(model.model.language_model.layers, plain.model.language_model.layers, strict=True):
        own.mlp.down_proj = kind(own.mlp.down_proj)
        other.mlp.down_proj.weight.data = Int8(other.mlp.down_proj).full()
    live, floats = LiveModel(model, processor, name="int8"), LiveModel(plain, processor, name="floats")
    batch, edit = batch_of(live, picture), edit_of(llava, some(9, ("all", "role=image"), noise=True))
    clean, own = final(live, batch), hooks(model)
    assert torch.equal(clean, final(floats, batch)) and not torch.equal(clean, final(llava, batch))
    refusals = {Int8: (UsageError, "not for these weights"), Packed: (Unsupported, "any_weights=True")}
    error, message = refusals[kind]
    with pytest.raises(error, match=message), edit.on(live):
        pass
    with edit.on(live, any_weights=True):
        out = final(live, batch)
    with changing(floats, edit.data.intervention):
        assert torch.equal(out, final(floats, batch))
    assert not torch.equal(out, clean) and torch.equal(final(live, batch), clean) and hooks(model) == own
    with pytest.raises(Unsupported, match="not a plain torch.nn.Linear"):
        bake(live, Intervention((change(0, 1, 0.0),)))
    with pytest.raises(Unsupported, match=f"layer 0 is quantised \\({kind.__name__}\\)"):
        live.layout.write_vectors(0)
    gate = model.model.language_model.layers[0].mlp.gate_proj
    model.model.language_model.layers[0].mlp.gate_proj = Int8(gate)
    with pytest.raises(Unsupported, match="layer 0 is quantised \\(Int8\\)"):
        live.layout.keys(0)


def test_what_quantised_layers_keep_in_buffers_is_part_of_the_fingerprint(random_llava: Any) -> None:
    model, _ = random_llava()
    mlp = model.model.language_model.layers[0].mlp
    mlp.down_proj = Int8(mlp.down_proj)
    before = fingerprint(model)
    mlp.down_proj.scale[0] *= 2
    assert fingerprint(model) != before


@pytest.mark.parametrize("name", ["llava", "neox"])  # a projection found by its name, and one by its widths alone
def test_an_adapter_around_a_projection_is_edited_as_a_whole(name: str, random_llava: Any, opt: LiveModel) -> None:
    """As PEFT has it: in_features and out_features outside, the old Linear inside."""

    class Adapter(torch.nn.Module):
        def __init__(self, base: torch.nn.Linear):
            super().__init__()
            self.base_layer, self.in_features, self.out_features = base, base.in_features, base.out_features
            self.extra = torch.nn.Parameter(torch.ones(D_MODEL, WIDTH), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + x @ self.extra.T

    model = random_llava()[0] if name == "llava" else small("GPTNeoX")
    mlp = model.get_decoder().layers[1].mlp
    word = "down_proj" if name == "llava" else "dense_4h_to_h"
    adapter = Adapter(getattr(mlp, word).requires_grad_(False))
    setattr(mlp, word, adapter)
    live = LiveModel(model, opt.encoder.processor, name="adapted")
    assert live.layout.down[1] is adapter
    batch = live.batch([live.encoder.prompt("what is this ?")])
    with changing(live, Intervention(tuple(change(1, n, 0.0) for n in range(WIDTH)))):
        ablated = final(live, batch)
    with pytest.raises(Unsupported, match="Adapter and not a plain"):
        bake(live, Intervention((change(1, 1, 0.0),)))
    adapter.extra.zero_()
    adapter.base_layer.weight.zero_()
    assert torch.equal(ablated, final(live, batch))


def test_a_pipeline(llava_folder: Path, llava: LiveModel, picture: Any) -> None:
    pipe = transformers.pipeline("image-text-to-text", model=str(llava_folder), device="cpu")

    def said() -> str:
        out = pipe(images=picture, text="<image> what is this ?", max_new_tokens=6, return_full_text=False)
        return str(out[0]["generated_text"])

    plain, own = said(), hooks(pipe.model)
    everywhere = edit_of(llava, Intervention(tuple(change(1, n, 0.0, 5.0) for n in range(20))))
    with everywhere.on(pipe):
        edited = said()
    assert edited != plain
    with everywhere.on(pipe.model):
        assert said() == edited
    # "text" and "special" are told apart by the pipeline's own processor
    words = edit_of(llava, Intervention(tuple(change(1, n, 0.0, 5.0, where=Positions(("text",))) for n in range(20))))
    with words.on(pipe):
        assert said() != plain
    with pytest.raises(Unsupported, match="processor="), words.on(pipe.model):
        said()
    with words.on(pipe.model, processor=pipe.processor):
        assert said() != plain
    assert said() == plain and hooks(pipe.model) == own


def test_models_that_an_edit_was_not_made_for_are_refused(
    random_llava: Any, llava: LiveModel, llava_folder: Path, tmp_path: Path
) -> None:
    edit = edit_of(llava, Intervention((change(0, 40, 0.0),)))
    other, processor = random_llava(seed=1)
    other.save_pretrained(tmp_path / llava_folder.name)
    same_name = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / llava_folder.name)
    for wrong in (other, same_name, LiveModel(other, processor, name=llava.name), small("GPTNeoX")):
        own = hooks(getattr(wrong, "model", wrong) if isinstance(wrong, LiveModel) else wrong)
        with pytest.raises(UsageError, match=f"random@1 was made for random-llava .weights {llava.fingerprint[:12]}"):
            edit.attach(wrong)
        assert hooks(getattr(wrong, "model", wrong) if isinstance(wrong, LiveModel) else wrong) == own
    trained, _ = random_llava()
    with edit.on(trained):
        pass
    trained.model.language_model.layers[0].mlp.down_proj.weight.data[0, 0] += 0.01
    with (
        pytest.raises(UsageError, match="load that model, in the precision .*, or create the edit for this one"),
        edit.on(trained),
    ):
        pass
    with pytest.raises(UsageError, match="a dict is not a model"), edit.on({}):
        pass


def test_neurons_and_deltas_of_another_width_are_refused(llava: LiveModel) -> None:
    narrow = small("GPTNeoX", intermediate_size=40)
    for what in (change(0, 40, 0.0), change(2, 0, 0.0)):
        edit = edit_of(llava, Intervention((what,)))
        with pytest.raises(UsageError, match=f"no neuron {what.neuron}; this model has neurons 0/0 to 1/39"):
            edit.attach(narrow, any_weights=True)
    thin = with_deltas([change(0, 1)], [np.ones(16, np.float32)])
    with pytest.raises(UsageError, match="the edit's deltas have 16 numbers, this model's residual 32"):
        edit_of(llava, thin).attach(narrow, any_weights=True)
    with pytest.raises(UsageError, match="deltas have 16 numbers"):
        bake(narrow, thin)
    vision = Intervention((Change(Neuron("vision", 0, 1), 0.0),))
    with pytest.raises(UsageError, match="vision/0/1: only the language model's"):
        edit_of(llava, vision).attach(llava)
    assert hooks(narrow) == 0
