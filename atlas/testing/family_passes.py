"""Checks of what is done with a model family: edits, restarts, generation, media, saving and loading."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from atlas.edits.edit import Change, Intervention
from atlas.edits.positions import Positions
from atlas.errors import Unsupported
from atlas.live.affine import affine
from atlas.live.bake.bake import bake
from atlas.live.edit.apply import changing
from atlas.live.edit.restart import check_additive, layer_output, resume
from atlas.live.edit.suffix import Suffix
from atlas.live.encode import Batch
from atlas.live.hooks import editing, tracing
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from atlas.testing.subjects import CLOSE, EDITED, NotThere, Subject, by_weights, shown
from atlas.token_roles import ROLES


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
        assert capture.norm_in is not None, "the traced pass did not reach the final norm"
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
        assert capture.norm_in is not None, "the traced pass did not reach the final norm"
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
        counted = int((batch.roles[row] == ROLES.index(kind)).sum())
        assert counted == int((live.batch([prompt]).roles[0] == ROLES.index(kind)).sum()) > 0
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
        other = Subject(of.name, of.kind, again)
        assert type(again.model) is type(of.live.model)
        for mine, theirs in zip(of.logits(of.prompts()), other.logits(other.prompts()), strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)
