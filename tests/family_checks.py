"""What is asked of every model family, on its tiny random model: `atlas.testing.families` and what is drawn.

A check returns nothing where the family passes, raises Unsupported where the project refuses it by name, and fails
otherwise. `python tests/family_checks.py` writes what was found into atlas/capabilities.json and docs/models.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import families
import small_gill
import torch
from torch import Tensor

from atlas import capabilities
from atlas.errors import Unsupported
from atlas.live.draw.diffusion import Painter
from atlas.live.draw.drawer import DrawOptions
from atlas.live.draw.gill_drawer import GillDrawer
from atlas.live.draw.pictures import states_of
from atlas.live.model import LiveModel
from atlas.testing import subjects
from atlas.testing.families import CHECKS as CHECKS_OF_READERS
from atlas.testing.subjects import CLOSE, EDITED, NotApplicable, medium, pictures, sound

__all__ = ["CHECKS", "CLOSE", "EDITED", "Subject", "markdown", "medium", "outcome", "pictures", "sound"]

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"


class Subject(subjects.Subject):
    """One of the project's own families by name."""

    def __init__(self, name: str, device: str = "cpu", live: LiveModel | None = None):
        kind, _ = families.FAMILIES[name]
        if live is None:
            model, processor = families.build(name)
            live = LiveModel(model.to(device), processor, name=name)
        super().__init__(name, kind, live)


def draws(of: Subject) -> None:
    """It answers with a picture; importance by its states is a finite difference, and stays inside the mask."""
    live = of.live
    if live.encoder.family.drawer is None:
        raise NotApplicable("it draws nothing")
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


CHECKS: dict[str, Callable[[Subject], None]] = {**CHECKS_OF_READERS, "image_output": draws}


def outcome(of: Subject, check: str) -> str:
    """What the matrix says of it; a check that fails raises."""
    try:
        CHECKS[check](of)
    except NotApplicable:
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
