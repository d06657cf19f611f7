"""What a model of the world can do, on pictures or recordings and wordings it was not trained on.

`python -m ingest.zoo.train.measure DIR` prints the figures of a model folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from ingest.data.examples import AUDIO, HELD_OUT, IMAGE, TEXT, Example
from ingest.datasets._sound_words import SOUND_TASKS
from ingest.datasets._world import FACTS, PICTURE_TASKS, TEXT_TASKS, THINGS
from ingest.datasets.scenes import Scenes, build


@torch.inference_mode()
def score(
    model: Any, processor: Any, world: Scenes, examples: Sequence[Example], batch: int = 64
) -> tuple[float, float]:
    """(answers right, answer tokens right), each as a part of all.

    An answer is right when every token of it, its end too, is the likeliest after the right ones before it: just
    then greedy generation writes this answer and stops.
    """
    right, tokens, total = 0, 0, 0
    for start in range(0, len(examples), batch):
        chunk = examples[start : start + batch]
        endings = [f" {example.answer}{processor.tokenizer.eos_token}" for example in chunk]
        texts = [prompt(processor, example) + ending for example, ending in zip(chunk, endings, strict=True)]
        inputs = processor(
            text=texts, padding=True, return_tensors="pt", add_special_tokens=False, **media_of(world, chunk)
        )
        likeliest = model(**inputs).logits.argmax(-1)
        for i, ending in enumerate(endings):
            length = len(processor.tokenizer(ending, add_special_tokens=False).input_ids)
            # Padding is on the left, so the answer is what comes last.
            same = likeliest[i, -length - 1 : -1] == inputs["input_ids"][i, -length:]
            right += int(same.all())
            tokens += int(same.sum())
            total += length
    return right / len(examples), tokens / total


def media_of(world: Scenes, examples: Sequence[Example]) -> dict[str, Any]:
    """What a processor is given besides the texts: the examples' pictures, or their recordings and the rate."""
    pointers = [media for example in examples for media in example.media]
    if examples[0].source != AUDIO:
        return {"images": [world.image(media) for media in pointers]} if pointers else {}
    recordings = [world.audio(media) for media in pointers]
    return {"audio": [samples for samples, _ in recordings], "sampling_rate": recordings[0][1]}


def prompt(processor: Any, example: Example) -> str:
    """The example as the chat template writes it, up to where the answer begins."""
    content = [{"type": example.source} for _ in example.media] + [{"type": "text", "text": example.prompt}]
    message = [{"role": "user", "content": content}]
    text: str = processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return text


def measure(model: Any, processor: Any, world: Scenes, per_concept: int = 12, source: str = IMAGE) -> dict[str, float]:
    """Figures by name: "caption token accuracy", and answers right for every "text <task>" and "picture <task>", or
    "sound <task>" where `source` is "audio".

    Text is asked about every thing, drawn or not; pictures show the drawn ones, recordings those that sound.
    """
    figures = {}
    word, tasks, shown = (
        ("sound", SOUND_TASKS, world.sounding) if source == AUDIO else ("picture", PICTURE_TASKS, world.drawn)
    )
    for task_source, label, task_names, concepts in (
        (TEXT, "text", TEXT_TASKS, [thing.name for thing in THINGS]),
        (source, word, tasks, shown),
    ):
        for task in task_names:
            examples = world.examples(
                source=task_source, split=HELD_OUT, concepts=concepts, tasks=[task], per_concept=per_concept, seed=0
            )
            answers, tokens = score(model, processor, world, examples)
            figures[f"{label} {task}"] = answers
            if task == "caption":
                figures["caption token accuracy"] = tokens
    for label in ("text", word):
        figures[f"{label} facts"] = sum(figures[f"{label} {fact}"] for fact in FACTS) / len(FACTS)
    return figures


def load(folder: Path) -> tuple[Any, Any]:
    """(model, processor) of a folder, through the plain Auto classes."""
    model = AutoModelForMultimodalLM.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)


def main() -> None:
    model, processor = load(Path(sys.argv[1]))
    source = AUDIO if hasattr(processor, "feature_extractor") else IMAGE
    for name, value in measure(model, processor, build(), source=source).items():
        print(f"{name:24} {100 * value:6.1f} %")


if __name__ == "__main__":
    main()
