"""What is asked of every model family, on its tiny random model: each check compares with an independent computation.

A check returns nothing where the family passes, raises Unsupported where the project refuses it by name, and fails
otherwise. `python tests/family_checks.py` writes what was found into atlas/capabilities.json and docs/models.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import families
import numpy as np
import small_gill
import torch
from PIL import Image
from torch import Tensor

from atlas import capabilities
from atlas.edits.edit import Change, Intervention
from atlas.edits.positions import Positions
from atlas.errors import Unsupported
from atlas.live.affine import affine
from atlas.live.attention import weights
from atlas.live.bake.bake import bake
from atlas.live.draw.diffusion import Painter
from atlas.live.draw.drawer import DrawOptions
from atlas.live.draw.gill_drawer import GillDrawer
from atlas.live.draw.pictures import states_of
from atlas.live.edit.apply import changing
from atlas.live.edit.restart import check_additive, layer_output, resume
from atlas.live.edit.suffix import Suffix
from atlas.live.encode import Batch, Prompt
from atlas.live.hooks import editing, tracing
from atlas.live.layout import columns_of
from atlas.live.logit_lens import decode
from atlas.live.media import Clip, Sound
from atlas.live.model import LiveModel
from atlas.live.norms import behind_ffn, direct_directions
from atlas.neurons import Neuron
from atlas.token_roles import ROLES

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
CLOSE = {"atol": 2e-4, "rtol": 2e-3}


def pictures(count: int, height: int = 10, width: int = 12, seed: int = 0) -> list[Image.Image]:
    found = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in found]


def sound(seconds: float, seed: int = 0, rate: int = 16000) -> Sound:
    noise = np.random.default_rng(seed).normal(0, 0.3, int(seconds * rate)).astype(np.float32)
    return Sound(noise.clip(-1, 1), rate)


def shown(live: LiveModel, kind: str, seed: int = 0, *, other: bool = False) -> list[Any]:
    """One medium of a kind; `other`: of another size."""
    if kind == "audio":
        return [sound(0.6 if other else 1.0, seed)]
    if kind == "video":
        return [Clip(tuple(pictures(3 if other else 4, 16, 24 if other else 16, seed)))]
    return pictures(1, *((24, 9) if other else (10, 12)), seed)


class NotThere(Exception):
    """The family has no such thing."""


class Subject:
    """A family's model, ready to be checked. kind: the medium that its prompts have, "text" for none."""

    def __init__(self, name: str, device: str = "cpu", live: LiveModel | None = None):
        self.name, (self.kind, _) = name, families.FAMILIES[name]
        if live is None:
            model, processor = families.build(name)
            live = LiveModel(model.to(device), processor, name=name)
        self.live = live

    def prompts(self, *, answers: bool = True, kind: str | None = None) -> list[Prompt]:
        """Two prompts of different length, with media of different size where the family has any."""
        kind = kind or self.kind
        texts, said = ("what is this?", "describe the red dog :"), ("a dog", "two cat barks .")
        made = []
        for i in range(2):
            media = [] if kind == "text" else shown(self.live, kind, i, other=i == 1)
            made.append(self.live.encoder.prompt(texts[i], media, said[i] if answers else None))
        return made

    def logits(self, prompts: list[Prompt]) -> list[Tensor]:
        """(positions, vocabulary) of each prompt's own positions, from one batch."""
        batch = self.live.batch(prompts)
        with torch.no_grad(), tracing(self.live.layout) as capture:
            self.live.forward(batch)
        assert capture.norm_out is not None
        every = self.live.logits(capture.norm_out)
        return [row[: len(p.ids) + len(p.answer)] for row, p in zip(every, prompts, strict=True)]


def locates(of: Subject) -> None:
    layout = of.live.layout
    assert (len(layout.layers), layout.width, layout.d_model) == (2, 64, 32)
    assert all(layout.write_vectors(layer).shape == (32, 64) for layer in range(2))


def traces_product(of: Subject) -> None:
    for read, values, gate in recomputed(of, "product"):
        expected = gate if read is None else gate * read
        torch.testing.assert_close(values, expected, **CLOSE)


def traces_gate(of: Subject) -> None:
    if of.live.layout.gates[0] is None:
        raise NotThere("no gate: the two taps are the same")
    for _, values, gate in recomputed(of, "gate"):
        torch.testing.assert_close(values, gate, **CLOSE)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


FIRSTS = ("gate_proj", "up_proj", "fc1", "c_fc")


def recomputed(of: Subject, tap: str) -> Iterator[tuple[Tensor | None, Tensor, Tensor]]:
    """Of each layer: the up projection (None without a gate), what was traced, and the activation function's output, by
    hand from what the FFN's first projections read."""
    live, layout = of.live, of.live.layout
    config = live.model.config.get_text_config(decoder=True)
    names = ("hidden_act", "hidden_activation", "activation_function")
    act = ACTIVATIONS[next(getattr(config, n) for n in names if getattr(config, n, None))]
    read: dict[str, Tensor] = {}
    firsts = [
        {n.rsplit(".", 1)[-1]: m for n, m in layer.named_modules() if n.endswith(FIRSTS)} for layer in layout.layers
    ]
    handles = [
        module.register_forward_pre_hook(lambda _m, args, key=f"{i}.{name}": read.update({key: args[0]}))
        for i, found in enumerate(firsts)
        for name, module in found.items()
    ]
    batch = live.batch(of.prompts())
    try:
        with torch.no_grad(), tracing(layout, tap=tap) as capture:
            live.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    for i, found in enumerate(firsts):
        outs = {n: read[f"{i}.{n}"] @ columns_of(m).T + (0 if m.bias is None else m.bias) for n, m in found.items()}
        [first] = [out for n, out in outs.items() if n != "up_proj"]
        up = outs.get("up_proj")
        values = capture.values[i].reshape(-1, 64)
        yield None if up is None else up.reshape(-1, 64), values, act(first.reshape(-1, 64))


def agrees(of: Subject) -> None:
    """Logits made of the final norm's output are the model's own."""
    batch = of.live.batch(of.prompts())
    with torch.no_grad():
        expected = of.live.model(**batch.inputs, use_cache=False).logits.float()
    for row, logits in zip(expected, of.logits(of.prompts()), strict=True):
        torch.testing.assert_close(logits.clamp(-1e30), row[: len(logits)].clamp(-1e30), **CLOSE)


def decodes(of: Subject) -> None:
    live, layout = of.live, of.live.layout
    for norm in (False, True):
        found = {(d.layer, d.side): d for d in decode(live, norm=norm, top=3)}
        for layer, neuron in ((0, 5), (1, 40)):
            head = layout.unembedding().float()
            if norm:
                ones = torch.ones(1, 32, device=head.device)
                gain = (
                    layout.norm.forward(ones)[0]
                    if not isinstance(layout.norm, torch.nn.LayerNorm)
                    else layout.norm.weight
                )
                head = head * gain
                head = head - head.mean(-1, keepdim=True) if isinstance(layout.norm, torch.nn.LayerNorm) else head
            write = layout.write_vectors(layer)[:, neuron].float()
            if layout.after[layer] is not None:
                write = write * layout.after[layer].forward(torch.ones(1, 32, device=write.device))[0]
            logits = head @ write
            tokenizer = live.encoder.tokenizer
            for token in {*tokenizer.all_special_ids, *range(len(tokenizer), len(logits))}:
                logits[token] = -torch.inf
            for ids in live.encoder.role_of.media_ids.values():
                logits[ids] = -torch.inf
            assert found[layer, "top"].tokens[neuron].tolist() == logits.topk(3).indices.tolist()


def adds_up(of: Subject) -> None:
    """The direct effects of all neurons, with what attention and embeddings write, sum to the logit."""
    live, layout = of.live, of.live.layout
    prompts = of.prompts()[:1]
    batch = live.batch(prompts)
    streams: list[Tensor] = []
    handles = [m.register_forward_hook(lambda _m, _a, out: streams.append(first_of(out))) for m in layout.layers]
    try:
        with torch.no_grad(), tracing(layout) as capture:
            live.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    at = (0, batch.starts[0] - 1)
    assert capture.norm_in is not None and capture.norm_out is not None
    before, after = capture.norm_in[at][None], capture.norm_out[at][None]
    token = live.logits(after).argmax(-1)
    [direction] = direct_directions(layout, token, before, after)
    total = streams[0][at].float() @ direction  # what the second layer reads
    values, down = capture.values[1][at], layout.down[1]
    wrote = columns_of(down) @ values + (0 if down.bias is None else down.bias)
    frozen = behind_ffn(layout, 1, direction[None], wrote[None])[0]
    ffn = float(values @ (frozen @ layout.write_vectors(1))) + float(0 if down.bias is None else down.bias @ frozen)
    # The stream behind the last layer is what it read, and what its attention and its FFN wrote.
    attended = streams[1][at].float() - streams[0][at].float() - written(layout, 1, wrote)
    logit = total + attended @ direction + ffn
    bias = 0 if getattr(layout.norm, "bias", None) is None else layout.norm.bias @ layout.unembedding()[token[0]]
    expected = live.logits(after)[0, token[0]]
    torch.testing.assert_close(logit + bias, expected, **CLOSE)


def first_of(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def written(layout: Any, layer: int, wrote: Tensor) -> Tensor:
    """What the FFN adds to the residual stream, given its down projection's output."""
    after = layout.after[layer]
    return wrote if after is None else after.forward(wrote[None])[0]


def differentiates(of: Subject) -> None:
    """The derivative by a neuron's value is what the logit changes by when the value is nudged."""
    live, layout = of.live, of.live.layout
    batch = live.batch(of.prompts()[:1])
    at, neuron = batch.starts[0] - 1, 11
    with torch.enable_grad(), tracing(layout, grad=True) as capture:
        live.forward(batch)
        assert capture.norm_out is not None
        logits = live.logits(capture.norm_out[0, at])
        token = int(logits.argmax())
        [slope] = torch.autograd.grad(logits[token], capture.values[0])
    whole = float(slope[0, :, neuron].sum())
    found = []
    for step in (-1e-2, 1e-2):
        nudged = Intervention((Change(Neuron("language", 0, neuron), bias=step),), "product")
        with changing(live, nudged), torch.no_grad(), tracing(layout) as capture:
            live.forward(batch)
        assert capture.norm_out is not None
        found.append(float(live.logits(capture.norm_out[0, at])[token]))
    measured = (found[1] - found[0]) / 2e-2
    assert abs(measured - whole) <= 0.02 * max(abs(whole), abs(measured)) + 2e-3, (measured, whole)


def attends(of: Subject) -> None:
    """The weights are those of the whole model run in HuggingFace's eager implementation."""
    live = of.live
    batch = live.batch(of.prompts())
    real = batch.roles != 0
    with torch.no_grad(), tracing(live.layout, attention=True) as capture:
        live.forward(batch)
        found = [weights(live.layout, capture, layer, real) for layer in range(2)]
    seen: dict[int, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _a, out, layer=i: seen.update({layer: out[1]}))
        for i, module in enumerate(live.layout.attentions)
        if module is not None
    ]
    with eager(live.model):
        try:
            with torch.no_grad():
                live.forward(batch)
        finally:
            for handle in handles:
                handle.remove()
    for layer in range(2):
        expected = seen[layer] * real[:, None, :, None]
        torch.testing.assert_close(found[layer], expected, **CLOSE)


@contextmanager
def eager(model: Any) -> Iterator[None]:
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


EDITED = Intervention(
    (
        Change(Neuron("language", 0, 3), gain=0.0),
        Change(Neuron("language", 1, 60), gain=-1.5),
        Change(Neuron("language", 1, 7), gain=3.0),
    ),
    "product",
)


@contextmanager
def by_weights(live: LiveModel, intervention: Intervention) -> Iterator[None]:
    """The same change in the weights themselves, by hand."""
    weights = [columns_of(down) for down in live.layout.down]
    kept = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for change in intervention.changes:
            weights[change.neuron.layer][:, change.neuron.index] *= change.gain
    try:
        yield
    finally:
        with torch.no_grad():
            for w, was in zip(weights, kept, strict=True):
                w.copy_(was)


def edits(of: Subject) -> None:
    prompts = of.prompts()
    plain = of.logits(prompts)
    with changing(of.live, EDITED):
        hooked = of.logits(prompts)
    with by_weights(of.live, EDITED):
        weighed = of.logits(prompts)
    for one, other, was in zip(hooked, weighed, plain, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
        assert not torch.allclose(one, was, **CLOSE), "the edit changes nothing"
    for one, other in zip(of.logits(prompts), plain, strict=True):
        assert torch.equal(one, other), "the model is not as it was"


def restarts(of: Subject) -> None:
    """From every layer on, the layers run again give the traced final state, for text and for media; and without what
    a neuron wrote, what a whole pass gives under an edit."""
    refused = []
    for kind in dict.fromkeys(("text", of.kind)):
        live, layout = of.live, of.live.layout
        batch = live.batch(of.prompts(kind=kind))
        real = batch.roles != 0
        every = torch.arange(2)
        with torch.no_grad(), tracing(layout) as capture:
            live.forward(batch)
        begin = int(real.long().argmax(1).max()) + 1
        suffix = Suffix(layout, capture, begin)
        for layer in range(2):
            entered = capture.calls[layer][0][0]
            ends = {0: resume(layout, capture, layer, entered, every)}
            if suffix.works:
                ends[begin] = suffix.resume(layer, entered[:, begin:], every)
            for start, end in ends.items():
                torch.testing.assert_close(end[real[:, start:]], capture.norm_in[:, start:][real[:, start:]], **CLOSE)
            try:
                check_additive(layout, capture, layer)
            except Unsupported as refusal:
                refused.append(refusal)
                continue
            check_ablated(of, batch, layer)
    if refused:
        raise refused[0]


def restarts_tail(of: Subject) -> None:
    """The last positions run alone, from keys and values that were recorded once: what makes paths of gradients cheap.

    A model whose layers cannot be called so is slower, not wrong, and says so.
    """
    refused = []
    for kind in dict.fromkeys(("text", of.kind)):
        live, layout = of.live, of.live.layout
        batch = live.batch(of.prompts(kind=kind))
        real, every = batch.roles != 0, torch.arange(2)
        with torch.no_grad(), tracing(layout) as capture:
            live.forward(batch)
        begin = min(batch.starts) - 1
        suffix = Suffix(layout, capture, begin)
        if suffix.refused:
            refused.append(Unsupported(f"{suffix.refused}, so whole sequences are run"))
            continue
        for layer in range(2):
            end = suffix.resume(layer, capture.calls[layer][0][0][:, begin:], every)
            torch.testing.assert_close(end[real[:, begin:]], capture.norm_in[:, begin:][real[:, begin:]], **CLOSE)
    if refused:
        raise refused[0]


def sees_no_answer(of: Subject) -> None:
    """What neurons do at the prompt's positions does not depend on the answer that is given behind it."""
    live = of.live
    for kind in dict.fromkeys(("text", *sorted(live.encoder.media))):
        if kind == "video" and not hasattr(live.encoder.processor, "video_processor"):
            continue
        asked = of.prompts(answers=False, kind=kind)
        seen = []
        for answer in ("a dog", "two cat barks ."):
            ids = live.encoder.tokenizer(answer, add_special_tokens=False).input_ids
            with torch.no_grad(), tracing(live.layout) as capture:
                live.forward(live.batch([prompt.answered(ids) for prompt in asked]))
            values = [capture.values[layer].reshape(2, -1, 64) for layer in range(2)]
            seen.append([v[row, : len(p.ids)] for v in values for row, p in enumerate(asked)])
        for one, other in zip(*seen, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


def check_ablated(of: Subject, batch: Batch, layer: int) -> None:
    """The final state without the neurons that wrote most, by a restart and by hooks."""
    layout, every = of.live.layout, torch.arange(2)
    with torch.no_grad(), tracing(layout) as capture:
        of.live.forward(batch)
    real = batch.roles != 0
    values = capture.values[layer].detach()
    for neuron in (values[real].abs().amax(0) * layout.write_vectors(layer).norm(dim=0)).topk(3).indices.tolist():
        wrote = values[..., neuron, None] * layout.write_vectors(layer)[:, neuron]
        with torch.no_grad():
            found = resume(layout, capture, layer + 1, layer_output(capture, layer) - wrote, every)
        rule = affine(torch.tensor([neuron]), torch.zeros(1), torch.zeros(1))
        with torch.no_grad(), editing(layout, {layer: rule}), tracing(layout) as hooked:
            of.live.forward(batch)
        assert hooked.norm_in is not None and capture.norm_in is not None
        torch.testing.assert_close(found[real], hooked.norm_in[real], **CLOSE)
        assert not torch.allclose(found[real], capture.norm_in[real], **CLOSE), "the neuron writes nothing"


def edits_roles(of: Subject) -> None:
    """An edit of one role's positions changes the values there and nowhere else."""
    live = of.live
    role = "text" if of.kind == "text" else of.kind
    where = Positions(roles=(role,))
    only = Intervention((Change(Neuron("language", 0, 3), gain=0.0, bias=7.0, where=where),), "product")
    batch = live.batch(of.prompts())
    seen: list[Tensor] = []
    with changing(live, only):
        handle = live.layout.down[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        try:
            live.forward(batch)
        finally:
            handle.remove()
    values = seen[0].reshape(*batch.roles.shape, 64)[..., 3]
    inside = batch.roles == ROLES.index(role)
    assert bool(inside.any()) and bool((values[inside] == 7).all()) and not bool((values[~inside] == 7).any())


def bakes(of: Subject) -> None:
    prompts = of.prompts()
    plain = of.logits(prompts)
    with changing(of.live, EDITED):
        hooked = of.logits(prompts)
    baked = bake(of.live, EDITED)
    try:
        for one, other in zip(of.logits(prompts), hooked, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)
    finally:
        baked.restore()
    for one, other in zip(of.logits(prompts), plain, strict=True):
        assert torch.equal(one, other), "the model is not as it was"


def generates(of: Subject) -> None:
    """A batch with padding on the left says what each prompt alone says, and what the teacher-forced pass expects."""
    check_generation(of)


def generates_edited(of: Subject) -> None:
    prompts = of.prompts(answers=False)
    with changing(of.live, EDITED):
        check_generation(of)
        hooked = of.live.generate(prompts, max_new_tokens=5)
    with by_weights(of.live, EDITED):
        assert of.live.generate(prompts, max_new_tokens=5) == hooked


def check_generation(of: Subject) -> None:
    prompts = of.prompts(answers=False)
    answers = of.live.generate(prompts, max_new_tokens=5)
    assert all(answers), answers
    for prompt, answer in zip(prompts, answers, strict=True):
        assert of.live.generate([prompt], max_new_tokens=5) == [answer]
    given = [p.answered(a) for p, a in zip(prompts, answers, strict=True)]
    for prompt, logits in zip(given, of.logits(given), strict=True):
        never = [*of.live.encoder.role_of.media_ids.values(), *getattr(of.live.model.config, "img_token_ids", [])[1:]]
        logits[:, never] = -torch.inf
        said = logits[len(prompt.ids) - 1 : -1].argmax(-1).tolist()
        assert said == list(prompt.answer)


def has_role(of: Subject, kind: str) -> None:
    """The positions of a medium are as many as the model has features for it, and its prompts run."""
    live = of.live
    if kind not in live.encoder.media:
        raise NotThere(f"no {kind}")
    prompts = of.prompts(kind=kind)
    batch = live.batch(prompts)
    for row, prompt in enumerate(prompts):
        alone = live.batch([prompt])
        counted = int((batch.roles[row] == ROLES.index(kind)).sum())
        assert counted == int((alone.roles[0] == ROLES.index(kind)).sum()) > 0
    one, two = (of.logits([prompt])[0] for prompt in prompts)
    for together, alone in zip(of.logits(prompts), (one, two), strict=True):
        torch.testing.assert_close(together, alone, **CLOSE)
    # What is shown changes what is said: the features are where the placeholders are.
    other = live.encoder.prompt("what is this?", shown(live, kind, 5), "a dog")
    assert other.ids == prompts[0].ids
    assert not torch.allclose(of.logits([other])[0], one, **CLOSE)


def reads_text(of: Subject) -> None:
    prompts = of.prompts(kind="text")
    for together, prompt in zip(of.logits(prompts), prompts, strict=True):
        torch.testing.assert_close(together, of.logits([prompt])[0], **CLOSE)
    said = of.live.generate(of.prompts(kind="text", answers=False), max_new_tokens=3)
    assert all(said)


def loads(of: Subject) -> None:
    """Saved and loaded by this project's own way, it computes the same."""
    with tempfile.TemporaryDirectory() as folder:
        of.live.model.save_pretrained(folder)
        of.live.encoder.processor.save_pretrained(folder)
        again = LiveModel.load(Path(folder))
        other = Subject(of.name, live=again)
        assert type(again.model) is type(of.live.model)
        for mine, theirs in zip(of.logits(of.prompts()), other.logits(other.prompts()), strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)


def draws(of: Subject) -> None:
    """It answers with a picture; importance by its states is a finite difference, and stays inside the mask."""
    live = of.live
    if live.encoder.family.drawer is None:
        raise NotThere("it draws nothing")
    prompts = [live.encoder.prompt(text) for text in ("a red dog", "draw two cat :")]
    if of.name == "GILL":  # which answers in words as long as it is random: it is given the picture's tokens
        how = DrawOptions(steps=2, looks=1)
        live.__dict__["drawer"] = GillDrawer(live, painter(live.device))
        answers = [live.model.config.img_token_ids] * 2
    else:
        how = DrawOptions() if of.name == "Janus" else DrawOptions(side=2)
        answers = live.drawer.answers(prompts, how, 12)
        assert all(live.drawer.answers([p], how, 12) == [a] for p, a in zip(prompts, answers, strict=True))
    asked = [prompt.answered(ids) for prompt, ids in zip(prompts, answers, strict=True)]
    capture, at, tokens = states_of(live, asked)
    assert capture.norm_out is not None
    states = capture.norm_out[torch.arange(2)[:, None], at].detach()
    drawn = live.drawer.draw(states, tokens, [1, 2], how)
    assert len(drawn.pictures) == 2 and drawn.pictures[0].size[0] == drawn.pictures[0].size[1] > 1
    side = drawn.pictures[0].size[0]
    mask = torch.zeros(2, side, side, device=states.device)
    mask[:, : side // 2] = 1  # the upper half
    found = live.drawer.importance(states, drawn, mask, how)
    cells = int(tokens.shape[1] ** 0.5)
    if live.drawer.offset == -1:
        assert not found[:, cells * ((cells + 1) // 2) :].any(), "the lower half's tokens decide nothing of the upper"
        assert found[:, : cells * (cells // 2)].any()
    assert found.shape == states.shape and bool(found.isfinite().all())
    check_predicted(of, states, tokens)


def painter(device: torch.device) -> Painter:
    with tempfile.TemporaryDirectory() as folder:
        return Painter.load(small_gill.save_pipeline(Path(folder)), device=device)


def check_predicted(of: Subject, states: Tensor, tokens: Tensor) -> None:
    """Pictures made of tokens: where nothing guides it, the states' likeliest token is the one that was made."""
    if of.name != "Emu3":
        return
    logits = of.live.layout.head(states)
    ids = sorted(of.live.drawer.maker.ids)
    assert torch.equal(torch.tensor(ids)[logits[..., ids].argmax(-1).cpu()], tokens.cpu())


CHECKS: dict[str, Callable[[Subject], None]] = {
    "load": loads,
    "locate": locates,
    "trace_product": traces_product,
    "trace_gate": traces_gate,
    "logits": agrees,
    "decode": decodes,
    "direct_effects": adds_up,
    "gradient": differentiates,
    "attention": attends,
    "restart": restarts,
    "restart_tail": restarts_tail,
    "answer_unseen": sees_no_answer,
    "edit": edits,
    "edit_roles": edits_roles,
    "bake": bakes,
    "generate": generates,
    "generate_with_edit": generates_edited,
    "text": reads_text,
    "image": lambda of: has_role(of, "image"),
    "audio": lambda of: has_role(of, "audio"),
    "video": lambda of: has_role(of, "video"),
    "image_output": draws,
}


def outcome(of: Subject, check: str) -> str:
    """What the matrix says of it; a check that fails raises."""
    try:
        CHECKS[check](of)
    except NotThere:
        return capabilities.ABSENT
    except Unsupported as refusal:
        return str(refusal)
    return capabilities.YES


def main() -> None:
    """Write the matrix that these checks find."""
    found = {}
    for name in families.FAMILIES:
        of = Subject(name)
        found[name] = {check: outcome(of, check) for check in CHECKS}
    (ROOT / "atlas" / "capabilities.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "models.md"
    text = page.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(f"{text[:begin]}\n{markdown()}\n{text[end:]}", encoding="utf-8")


def markdown() -> str:
    """The stored matrix as a table for the page, families as rows."""
    rows = capabilities.table().to_pylist()
    names = [name for name in rows[0] if name != "notes"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(row[name] for name in names) + " |" for row in rows]
    notes = [f"- {row['family']}: {row['notes']}" for row in rows if row["notes"]]
    return "\n".join([*lines, "", *notes]) if notes else "\n".join(lines)


if __name__ == "__main__":
    main()
