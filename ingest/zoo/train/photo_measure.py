"""What photo-vlm names in photographs that its projector was not trained on, beside what it names in others.

`python -m ingest.zoo.train.photo_measure DIR PHOTOGRAPHS` prints the figures of a model folder.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from ingest.data.examples import FIND, HELD_OUT, IMAGE, Example
from ingest.data.targets import spans
from ingest.datasets import coco
from ingest.datasets.coco import CAPTION, Coco

PERSON = "person"
LEAST = 5  # pictures of a class whose rate is reported
SHIFTS = 20  # how often the answers are handed on to other photographs


@torch.inference_mode()
def captions(model: Any, processor: Any, dataset: Coco, examples: Sequence[Example], batch: int = 9) -> list[str]:
    """The model's greedy answer to every example, in float32: in bfloat16, other batches or threads change some."""
    model, answers = model.float(), []
    for start in range(0, len(examples), batch):
        chunk = examples[start : start + batch]
        content = [[{"type": "image"}, {"type": "text", "text": example.prompt}] for example in chunk]
        texts = [
            processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
            for parts in content
        ]
        pictures = [dataset.image(example.media[0]) for example in chunk]
        inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt").to(model.dtype)
        generated = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        answers += processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def areas(dataset: Coco, example: Example) -> dict[str, int]:
    """Pixels of every concept that a photograph shows."""
    return {mention.concept: int(dataset.mask(example.media[0], mention.concept).sum()) for mention in example.mentions}


def largest(area: dict[str, int], *, people: bool) -> str | None:
    """The concept that fills most of the picture; people: whether a person counts."""
    sizes = {name: size for name, size in area.items() if people or name != PERSON}
    return max(sizes, key=lambda name: sizes[name]) if sizes else None


def figures(dataset: Coco, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    """Rates, each beside "... of others": the same with the answers handed on to another photograph, the mean of
    up to SHIFTS ways to do so.

    "something shown": any of the concepts in the picture is named. "main object": the one that fills most of it.
    "main object, no person": of the photographs whose main object is no person. "largest other than a person": of all
    photographs with one. "classes", where there are any: the mean over the concepts of `by_class` of how often they are
    named where they are shown, and where they are not.
    """
    shown = [areas(dataset, example) for example in examples]
    rates: dict[str, float] = {}
    for label, shifts in (("", [0]), (" of others", range(1, min(SHIFTS, len(answers) - 1) + 1))):
        sums: dict[str, list[float]] = defaultdict(list)
        for shift in shifts:
            for place, area in enumerate(shown):
                text = answers[(place + shift) % len(answers)]
                named = {name for name in area if _named(dataset, text, name)}
                main, thing = largest(area, people=True), largest(area, people=False)
                sums["something shown"].append(bool(named))
                sums["main object"].append(main in named)
                if main != PERSON:
                    sums["main object, no person"].append(main in named)
                if thing is not None:
                    sums["largest other than a person"].append(thing in named)
        rates |= {name + label: sum(values) / len(values) for name, values in sums.items()}
    if classes := by_class(dataset, examples, answers):
        rates["classes"] = sum(named / shows for shows, named, _, _ in classes.values()) / len(classes)
        rates["classes of others"] = sum(alarms / others for _, _, others, alarms in classes.values()) / len(classes)
    return rates


def by_class(
    dataset: Coco, examples: Sequence[Example], answers: Sequence[str]
) -> dict[str, tuple[int, int, int, int]]:
    """Of every concept but people shown in at least LEAST photographs: (photographs, of them named, others, of them
    named)."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    shown = [{mention.concept for mention in example.mentions} for example in examples]
    for name in sorted(set().union(*shown) - {PERSON}):
        for here, text in zip(shown, answers, strict=True):
            column = 0 if name in here else 2
            counts[name][column] += 1
            counts[name][column + 1] += _named(dataset, text, name)
    return {name: (a, b, c, d) for name, (a, b, c, d) in counts.items() if a >= LEAST}


def _named(dataset: Coco, text: str, name: str) -> bool:
    concept = dataset.concepts[name]
    return bool(spans(text, concept.forms, concept.unlike))


def read(photographs: str) -> tuple[Coco, list[Example]]:
    """A COCO folder and its photographs, each once."""
    dataset = coco.build(photographs)
    by_id = {
        example.id: example
        for split in (FIND, HELD_OUT)
        for example in dataset.examples(
            source=IMAGE, split=split, concepts=list(dataset.concepts), tasks=[CAPTION], per_concept=10**6, seed=0
        )
    }
    return dataset, [by_id[key] for key in sorted(by_id)]


def main() -> None:
    model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(sys.argv[1], local_files_only=True)
    dataset, examples = read(sys.argv[2])
    answers = captions(model, processor, dataset, examples)
    for example, answer in zip(examples, answers, strict=True):
        print(f"{Path(example.media[0]).name:24} {answer}")
    for name, value in figures(dataset, examples, answers).items():
        print(f"{name:40} {100 * value:6.1f} %")
    for name, (shows, hits, others, alarms) in by_class(dataset, examples, answers).items():
        print(f"{name:20} named in {hits} of {shows}, and in {alarms} of {others} others")


if __name__ == "__main__":
    main()
