"""Checks of operations on a model family: edits, restarts, generation, media, saving and loading."""

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
from atlas.testing.subjects import CLOSE, EDITED, NotApplicable, Subject, changed_weights, medium
from atlas.token_roles import ROLES


def edits(subject: Subject) -> None:
    """An edit by hooks equals the same change of the weights, and leaves the model unchanged afterwards."""
    prompts = subject.prompts()
    plain = subject.logits(prompts)
    with changing(subject.live, EDITED):
        hooked = subject.logits(prompts)
    with changed_weights(subject.live, EDITED):
        weighed = subject.logits(prompts)
    for edited, reweighted, unedited in zip(hooked, weighed, plain, strict=True):
        torch.testing.assert_close(edited, reweighted, **CLOSE)
        assert not torch.allclose(edited, unedited, **CLOSE), "the edit changes nothing"
    for edited, reweighted in zip(subject.logits(prompts), plain, strict=True):
        assert torch.equal(edited, reweighted), "the model has changed"


def restarts(subject: Subject) -> None:
    """Running the layers again, from any one on, gives the traced final state, for text and for media; without what a
    neuron wrote, it gives the same as a whole pass under an edit."""
    refused = []
    for kind in dict.fromkeys(("text", subject.kind)):
        live, layout = subject.live, subject.live.layout
        batch = live.batch(subject.prompts(kind=kind))
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
            check_ablated(subject, batch, layer)
    if refused:
        raise refused[0]


def restarts_tail(subject: Subject) -> None:
    """The last positions can run alone, from recorded keys and values, which makes gradients along a path cheap.

    A model whose layers cannot be called this way is slower, not wrong, and reports it.
    """
    refused = []
    for kind in dict.fromkeys(("text", subject.kind)):
        live, layout = subject.live, subject.live.layout
        batch = live.batch(subject.prompts(kind=kind))
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


def sees_no_answer(subject: Subject) -> None:
    """Neuron values at the prompt's positions do not depend on the answer after it."""
    live = subject.live
    for kind in dict.fromkeys(("text", *sorted(live.encoder.media))):
        if kind == "video" and not hasattr(live.encoder.processor, "video_processor"):
            continue
        unanswered = subject.prompts(answers=False, kind=kind)
        values_by_answer = []
        for answer in ("a dog", "two cat barks ."):
            ids = live.encoder.tokenizer(answer, add_special_tokens=False).input_ids
            with torch.no_grad(), tracing(live.layout) as capture:
                live.forward(live.batch([prompt.answered(ids) for prompt in unanswered]))
            values = [capture.values[layer].reshape(2, -1, 64) for layer in range(2)]
            values_by_answer.append([v[row, : len(p.ids)] for v in values for row, p in enumerate(unanswered)])
        for first, second in zip(*values_by_answer, strict=True):
            torch.testing.assert_close(first, second, **CLOSE)


def check_ablated(subject: Subject, batch: Batch, layer: int) -> None:
    """The final state without the neurons that wrote most is the same by a restart and by hooks."""
    layout, every = subject.live.layout, torch.arange(2)
    with torch.no_grad(), tracing(layout) as capture:
        subject.live.forward(batch)
    real = batch.roles != 0
    values = capture.values[layer].detach()
    for neuron in (values[real].abs().amax(0) * layout.write_vectors(layer).norm(dim=0)).topk(3).indices.tolist():
        wrote = values[..., neuron, None] * layout.write_vectors(layer)[:, neuron]
        with torch.no_grad():
            restarted = resume(layout, capture, layer + 1, layer_output(capture, layer) - wrote, every)
        rule = affine(torch.tensor([neuron]), torch.zeros(1), torch.zeros(1))
        with torch.no_grad(), editing(layout, {layer: rule}), tracing(layout) as hooked:
            subject.live.forward(batch)
        assert hooked.norm_in is not None and capture.norm_in is not None
        torch.testing.assert_close(restarted[real], hooked.norm_in[real], **CLOSE)
        assert not torch.allclose(restarted[real], capture.norm_in[real], **CLOSE), "the neuron writes nothing"


def edits_roles(subject: Subject) -> None:
    """An edit of one role's positions changes the values there and nowhere else."""
    live = subject.live
    role = "text" if subject.kind == "text" else subject.kind
    where = Positions(roles=(role,))
    only = Intervention((Change(Neuron("language", 0, 3), gain=0.0, bias=7.0, where=where),), "product")
    batch = live.batch(subject.prompts())
    inputs: list[Tensor] = []
    with changing(live, only):
        handle = live.layout.down[0].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
        try:
            live.forward(batch)
        finally:
            handle.remove()
    values = inputs[0].reshape(*batch.roles.shape, 64)[..., 3]
    inside = batch.roles == ROLES.index(role)
    assert bool(inside.any()) and bool((values[inside] == 7).all()) and not bool((values[~inside] == 7).any())


def bakes(subject: Subject) -> None:
    """A baked edit equals the same edit by hooks, and is undone bit for bit."""
    prompts = subject.prompts()
    plain = subject.logits(prompts)
    with changing(subject.live, EDITED):
        hooked = subject.logits(prompts)
    baked = bake(subject.live, EDITED)
    try:
        for baked_logits, hooked_logits in zip(subject.logits(prompts), hooked, strict=True):
            torch.testing.assert_close(baked_logits, hooked_logits, **CLOSE)
    finally:
        baked.restore()
    for baked_logits, hooked_logits in zip(subject.logits(prompts), plain, strict=True):
        assert torch.equal(baked_logits, hooked_logits), "the model has changed"


def generates(subject: Subject) -> None:
    """A batch with padding on the left gives the same answers as each prompt alone, and as the teacher-forced pass."""
    check_generation(subject)


def generates_edited(subject: Subject) -> None:
    """Generation under an edit by hooks equals generation with changed weights."""
    prompts = subject.prompts(answers=False)
    with changing(subject.live, EDITED):
        check_generation(subject)
        hooked = subject.live.generate(prompts, max_new_tokens=5)
    with changed_weights(subject.live, EDITED):
        assert subject.live.generate(prompts, max_new_tokens=5) == hooked


def check_generation(subject: Subject) -> None:
    """Answers of a batch equal those of each prompt alone, and the most likely tokens of the teacher-forced pass."""
    prompts = subject.prompts(answers=False)
    answers = subject.live.generate(prompts, max_new_tokens=5)
    assert all(answers), answers
    for prompt, answer in zip(prompts, answers, strict=True):
        assert subject.live.generate([prompt], max_new_tokens=5) == [answer]
    with_answers = [p.answered(a) for p, a in zip(prompts, answers, strict=True)]
    for prompt, logits in zip(with_answers, subject.logits(with_answers), strict=True):
        never = [
            *subject.live.encoder.role_of.media_ids.values(),
            *getattr(subject.live.model.config, "img_token_ids", [])[1:],
        ]
        logits[:, never] = -torch.inf
        predicted = logits[len(prompt.ids) - 1 : -1].argmax(-1).tolist()
        assert predicted == list(prompt.answer)


def has_role(subject: Subject, kind: str) -> None:
    """A medium has as many positions as the model has features for it, and its prompts run."""
    live = subject.live
    if kind not in live.encoder.media:
        raise NotApplicable(f"no {kind}")
    prompts = subject.prompts(kind=kind)
    batch = live.batch(prompts)
    for row, prompt in enumerate(prompts):
        counted = int((batch.roles[row] == ROLES.index(kind)).sum())
        assert counted == int((live.batch([prompt]).roles[0] == ROLES.index(kind)).sum()) > 0
    one, two = (subject.logits([prompt])[0] for prompt in prompts)
    for together, alone in zip(subject.logits(prompts), (one, two), strict=True):
        torch.testing.assert_close(together, alone, **CLOSE)
    # Another medium changes the logits: its features are at the placeholders.
    changed = live.encoder.prompt("what is this?", medium(live, kind, 5), "a dog")
    assert changed.ids == prompts[0].ids
    assert not torch.allclose(subject.logits([changed])[0], one, **CLOSE)


def reads_text(subject: Subject) -> None:
    """Prompts of text only run, alone and in a batch, with the same logits."""
    prompts = subject.prompts(kind="text")
    for together, prompt in zip(subject.logits(prompts), prompts, strict=True):
        torch.testing.assert_close(together, subject.logits([prompt])[0], **CLOSE)
    generated = subject.live.generate(subject.prompts(kind="text", answers=False), max_new_tokens=3)
    assert all(generated)


def loads(subject: Subject) -> None:
    """Saved, and loaded by this project, it computes the same."""
    with tempfile.TemporaryDirectory() as folder:
        subject.live.model.save_pretrained(folder)
        subject.live.encoder.processor.save_pretrained(folder)
        again = LiveModel.load(Path(folder))
        loaded = Subject(subject.name, subject.kind, again)
        assert type(again.model) is type(subject.live.model)
        for before, after in zip(subject.logits(subject.prompts()), loaded.logits(loaded.prompts()), strict=True):
            torch.testing.assert_close(before, after, **CLOSE)
