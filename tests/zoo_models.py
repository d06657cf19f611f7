"""What the tests of every embedded model ask of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import ingest.zoo
from ingest.data.examples import AUDIO, HELD_OUT, Example
from ingest.datasets._world import THINGS
from ingest.datasets.scenes import Scenes


def generate(loaded: tuple[Any, Any], world: Scenes, examples: list[Example]) -> list[str]:
    """The model's own answers, through nothing but the processor and `generate`."""
    model, processor = loaded
    messages = [
        [
            {
                "role": "user",
                "content": [{"type": example.source} for _ in example.media]
                + [{"type": "text", "text": example.prompt}],
            }
        ]
        for example in examples
    ]
    texts = [processor.apply_chat_template(message, add_generation_prompt=True) for message in messages]
    media = [media for example in examples for media in example.media]
    given: dict[str, Any] = {}
    if examples[0].source == AUDIO:
        given = {"audio": [world.audio(one)[0] for one in media], "sampling_rate": 16_000}
    elif media:
        given = {"images": [world.image(one) for one in media]}
    inputs = processor(text=texts, padding=True, return_tensors="pt", **given)
    with torch.inference_mode():
        written = model.generate(**inputs)
    answers: list[str] = processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def held_out(world: Scenes, source: str, task: str, concepts: Sequence[str]) -> list[Example]:
    return world.examples(source=source, split=HELD_OUT, concepts=concepts, tasks=[task], per_concept=1, seed=7)


def reads_any_text(tokenizer: Any) -> None:
    """The world's things are the tokens that they are meant to be, and any other text comes back as it was."""
    for thing in THINGS:
        assert len(tokenizer.tokenize(f" {thing.name}")) == max(1, len(thing.pieces))
    for text in (" what does a zebra do?", " übung 日本 🙂", "\n\ttabs  and spaces "):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.padding_side == "left"


def small_and_plain(folder: Path, most: float = 12 * 2**20) -> None:
    """A model's folder is small, holds no code, and tells of no machine that it was on."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < most
    assert {file.suffix for file in files} <= {".json", ".jinja", ".safetensors", ".md"}
    for file in files:
        if file.suffix == ".json" and "tokenizer" not in file.name:
            assert not re.search(r'"_name_or_path"|"(/|[A-Z]:)', file.read_text(encoding="utf-8")), file


def carded(folder: Path) -> dict[str, float]:
    """The measured figures of a model, all of which its card tells."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    figures: dict[str, float] = json.loads((folder / "figures.json").read_text())
    for name, value in figures.items():
        assert f"| {name} | {100 * value:.1f} % |" in card, name
    return figures


def run_recipe(name: str, out: Path) -> None:
    """A few steps of the recipe write all files of the model's folder but its card."""
    command = [sys.executable, "-m", "ingest.zoo.train", name, "--smoke", "--out", str(out)]
    folder = Path(ingest.zoo.__file__).parent
    done = subprocess.run(command, cwd=folder.parents[1], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    there, made = ({file.relative_to(top) for file in top.rglob("*")} for top in (folder / name, out))
    assert there - {Path("README.md")} == made
