"""What a model that draws can do: its words as for any model of the world, and what is seen on its drawings.

`python -m ingest.zoo.train.measure_drawing DIR` prints the figures of a model folder.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from atlas.live.draw.diffusion import Painter
from atlas.live.draw.gill_model import register
from ingest.data.examples import HELD_OUT, IMAGE, TEXT
from ingest.datasets._drawings import DRAW_TASKS, Drawing, draw_requests
from ingest.datasets._world import BACKGROUNDS, COLOURS, FACTS, PICTURE_TASKS, TEXT_TASKS, THINGS
from ingest.datasets.scenes import Scenes, build
from ingest.zoo.train import seen
from ingest.zoo.train.drawing import LARGE, ORDINARY, Sketches, unit
from ingest.zoo.train.judge import NAMES, Judge
from ingest.zoo.train.measure import load, score

STEPS, GUIDANCE = 20, 2.5
BATCH = 54


@dataclass(frozen=True, slots=True)
class DrawnRequest:
    """A request, the requested drawing, whether it was answered with a picture, and the picture. seed: of its noise."""

    request: str
    drawing: Drawing
    answered: bool
    picture: Any
    seed: int


def requests(task: str, per_thing: int, seed: int = 0) -> list[tuple[str, Drawing]]:
    """Held-out wordings. Of four, one says colour and background, one each of them alone, one neither."""
    rng = random.Random(f"requests {seed}/{task}")
    mentions = ((True, True), (True, False), (False, True), (False, False))
    texts = []
    for name in NAMES:
        for number in range(per_thing):
            colour, background = mentions[number % 4] if task == "draw" else (False, False)
            drawing = Drawing(
                name, rng.choice(COLOURS) if colour else "", rng.choice(BACKGROUNDS) if background else ""
            )
            texts.append((rng.choice(list(draw_requests(drawing, task, HELD_OUT))), drawing))
    return texts


def draw(model: Any, processor: Any, painter: Painter, pairs: Sequence[tuple[str, Drawing]]) -> Iterator[DrawnRequest]:
    """Each request answered by the model, and painted; the n-th from seed n. Where no picture is answered, what would
    have been drawn."""
    for start in range(0, len(pairs), BATCH):
        chunk = pairs[start : start + BATCH]
        texts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "text", "text": text}]}], add_generation_prompt=True
            )
            for text, _ in chunk
        ]
        inputs = processor(text=texts, padding=True, return_tensors="pt", add_special_tokens=False)
        answered, prompts = imagined(model, inputs)
        seeds = range(start, start + len(chunk))
        pictures = painter.paint(prompts, seeds=seeds, steps=STEPS, guidance=GUIDANCE)
        yield from (
            DrawnRequest(*request, bool(right), picture, seed)
            for request, right, picture, seed in zip(chunk, answered, pictures, seeds, strict=True)
        )


@torch.inference_mode()
def imagined(model: Any, inputs: Any) -> tuple[Tensor, Tensor]:
    """(batch,) whether the greedy answer is a picture and nothing else, and (batch, queries, width) of the picture."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    tokens = torch.tensor(model.config.img_token_ids)
    expected = torch.cat([tokens, torch.tensor([model.generation_config.eos_token_id])])
    written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=len(expected))[:, ids.shape[1] :]
    answered = (written == expected).all(1) if written.shape[1] == len(expected) else mask.new_zeros(len(ids)) > 0
    full_ids = torch.cat([ids, tokens.expand(len(ids), -1)], 1)
    attended = torch.cat([mask, mask.new_ones(len(ids), len(tokens))], 1)
    return answered, model.imagine(full_ids, attention_mask=attended)


def measure_words(model: Any, processor: Any, world: Scenes, per_concept: int) -> dict[str, float]:
    """As `measure.measure`, of pictures that show one thing."""
    figures = {}
    for source, tasks in ((TEXT, TEXT_TASKS), (IMAGE, PICTURE_TASKS)):
        concepts = [thing.name for thing in THINGS] if source == TEXT else world.drawn
        for task in tasks:
            # Half of the captioned pictures show several things, which one pooled vector does not tell apart.
            count = 2 * per_concept if task == "caption" else per_concept
            examples = world.examples(
                source=source, split=HELD_OUT, concepts=concepts, tasks=[task], per_concept=count, seed=0
            )
            single = [example for example in examples if len(example.mentions) == 1]
            figures[f"{'picture' if source == IMAGE else 'text'} {task}"] = score(model, processor, world, single)[0]
    for source in ("text", "picture"):
        figures[f"{source} facts"] = sum(figures[f"{source} {fact}"] for fact in FACTS) / len(FACTS)
    return figures


def measure_judge(judge: Judge, painter: Painter, world: Scenes, per_thing: int) -> dict[str, float]:
    """How far what is told of a drawing can be relied on: the same told of the world's own pictures, and of these once
    through the autoencoder."""
    coder: Any = painter.pipeline.vae
    figures = {}
    large, ordinary = (Sketches(world.seed, HELD_OUT, per_thing * len(NAMES), sizes) for sizes in (LARGE, ORDINARY))
    with torch.no_grad():
        decoded = coder.decode(coder.encode(unit(large.pixels)).latent_dist.mean).sample
    coded = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    for kind, pixels, shown in (
        ("ordinary scenes", ordinary.pixels, ordinary.drawings),
        ("large scenes", large.pixels, large.drawings),
        ("autoencoded scenes", coded, large.drawings),
    ):
        judged = judge.names(list(pixels))
        figures[f"judge on {kind}"] = _part(name == drawing.name for name, drawing in zip(judged, shown, strict=True))
        if kind != "ordinary scenes":
            right = (seen.colour(p) == drawing.colour for p, drawing in zip(pixels, shown, strict=True))
            figures[f"colour rule on {kind}"] = _part(right)
    return figures


def measure_drawings(
    model: Any, processor: Any, painter: Painter, judge: Judge, per_thing: int
) -> tuple[dict[str, float], list[DrawnRequest]]:
    """What is seen on the drawings of held-out requests; and the drawings asked for by name."""
    figures: dict[str, float] = {}
    by_name: list[DrawnRequest] = []
    for task in DRAW_TASKS:
        count = per_thing if task == "draw" else max(1, per_thing // 3)
        drawn = list(draw(model, processor, painter, requests(task, count)))
        judged = judge.names([drawn_request.picture for drawn_request in drawn])
        right = [
            drawn_request.answered and name == drawn_request.drawing.name
            for drawn_request, name in zip(drawn, judged, strict=True)
        ]
        figures[f"{task} answered"] = _part(drawn_request.answered for drawn_request in drawn)
        figures[f"{task} recognised"] = _part(right)
        if task == "draw":
            by_name = drawn
            figures |= _looks(drawn)
            for number, name in enumerate(NAMES):
                figures[f"draw recognised: {name}"] = _part(right[number * count : (number + 1) * count])
    pictures = painter.paint(
        torch.cat([painter.encode([drawn_request.drawing.caption]) for drawn_request in by_name]),
        seeds=[drawn_request.seed for drawn_request in by_name],
        steps=STEPS,
        guidance=GUIDANCE,
    )
    judged = judge.names(pictures)
    figures["captions drawn recognised"] = _part(
        name == drawn_request.drawing.name for name, drawn_request in zip(judged, by_name, strict=True)
    )
    return figures, by_name


def _looks(drawn: Sequence[DrawnRequest]) -> dict[str, float]:
    """Colours and backgrounds, of the requests that say one."""
    tinted = [drawn_request for drawn_request in drawn if drawn_request.drawing.colour]
    placed = [drawn_request for drawn_request in drawn if drawn_request.drawing.background]
    return {
        "draw in the colour asked": _part(
            seen.colour(drawn_request.picture) == drawn_request.drawing.colour for drawn_request in tinted
        ),
        "draw on the ground asked": _part(
            seen.ground(drawn_request.picture) == drawn_request.drawing.background for drawn_request in placed
        ),
    }


def _part(right: Any) -> float:
    return float(np.mean(list(right)))


def measure_all(folder: Path, world: Scenes, *, per_concept: int = 12, per_thing: int = 12) -> dict[str, float]:
    """Every figure of a model folder, its parts loaded from there."""
    register()
    model, processor = load(folder)
    painter, judge = Painter.load(folder), Judge(folder / "judge")
    figures = measure_words(model, processor, world, per_concept)
    figures |= measure_drawings(model, processor, painter, judge, per_thing)[0]
    return figures | measure_judge(judge, painter, world, max(2, 5 * per_thing))


def main() -> None:
    for name, value in measure_all(Path(sys.argv[1]), build()).items():
        print(f"{name:28} {100 * value:6.1f} %")


if __name__ == "__main__":
    main()
