"""coco_captions: photographs with five human captions each, in Karpathy's split.

    PATH/dataset_coco.json (or below karpathy/, annotations/, caption_datasets/)
    PATH/val2014/COCO_val2014_000000000042.jpg, or images/val2014/...; the other parts need train2014/ too

The first caption is the answer, all of them are its references. One concept, coco_captions, whose words are the
answer's; for things and their masks see `coco`. Karpathy & Fei-Fei 2015, Deep Visual-Semantic Alignments for Generating
Image Descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import UsageError
from ingest.data.examples import IMAGE, Example
from ingest.datasets._files import (
    check_names,
    dataset_folder,
    find_one_file,
    identifier,
    media_pointers,
    one_line,
    read_json_rows,
    require_unique,
    sort_key,
    split_of,
)
from ingest.datasets._tasks import TaskDataset, answer_mention, single_concept

NAME, TASK = "coco_captions", "caption"
PARTS = ("test", "val", "train", "restval")
FILE = "dataset_coco.json"
LAYOUT = f"{FILE} beside val2014/ with the pictures"
PROMPT = "Describe the picture in one short sentence."


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """A picture with its captions. number: COCO's id, so that the same pictures are held out here and in `coco`."""

    number: str
    file: str
    part: str
    captions: tuple[str, ...]


def build(path: str | None = None, *, part: str = "test", shots: int = 0) -> TaskDataset:
    """Read a folder with COCO's captions.

    part: test | val | train | restval. shots: how many captions of other pictures the prompt shows as examples of the
    style (MINER: 4), from other parts where there are any, else from pictures that are then left out.
    About one picture in five is held out, whatever the part.

    Raises:
        UsageError: no such folder, file or part; a file that is truncated or not Karpathy's; no picture exists.
        BadMedia: a picture's name leads out of the folder.
    """
    check_names("part", [part], PARTS)
    if shots < 0:
        raise UsageError("shots must be at least 0")
    root = dataset_folder(path, NAME)
    folders = ("", "karpathy/", "annotations/", "caption_datasets/")
    file = find_one_file(root, [f"{folder}{FILE}" for folder in folders], LAYOUT)
    pictures = _pictures(file)
    shot_pictures = sorted(pictures, key=lambda p: (p.part == part, sort_key(0, "shots", p.number)))[:shots]
    prompt = _prompt([picture.captions[0] for picture in shot_pictures])
    chosen = [picture for picture in pictures if picture.part == part and picture not in shot_pictures]
    if not chosen:
        raise UsageError(f"{file} has no pictures of the part {part} besides those for the prompt")
    metrics = {TASK: ("bleu", "rouge_l", "cider", "tfidf_cosine")}
    examples = _examples(root, chosen, prompt)
    return TaskDataset(
        NAME, root, licence="CC BY 4.0", concepts=[single_concept(NAME)], metrics=metrics, examples=examples
    )


def _pictures(file: Path) -> list[CaptionedPicture]:
    """The rows of the file, checked."""
    rows = read_json_rows(file, "images")
    require_unique(rows, "cocoid", file)
    return [_picture(row, f"{file}: row {number}") for number, row in enumerate(rows)]


def _picture(row: Mapping[str, Any], where: str) -> CaptionedPicture:
    part, sentences = one_line(row.get("split"), f"{where}, the split"), row.get("sentences")
    if part not in PARTS:
        raise UsageError(f"{where} has the split {part!r}; there are {', '.join(PARTS)}")
    listed = sentences if isinstance(sentences, list) else []
    raw = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in listed]
    captions = [
        one_line(text, f"{where}, a sentence") for text in raw if not (isinstance(text, str) and not text.strip())
    ]
    if not captions:
        raise UsageError(f"{where} has no sentences")
    name = one_line(row.get("filename"), f"{where}, the filename")
    folder = one_line(row.get("filepath"), f"{where}, the filepath") if row.get("filepath") else ""
    picture_id = identifier(row.get("cocoid"), f"{where}, the cocoid")
    return CaptionedPicture(picture_id, f"{folder}/{name}" if folder else name, part, tuple(captions))


def _prompt(captions: Sequence[str]) -> str:
    if not captions:
        return PROMPT
    return "\n".join([f"{PROMPT} Such sentences are:", *(f"- {caption}" for caption in captions)])


def _examples(root: Path, pictures: Sequence[CaptionedPicture], prompt: str) -> Iterator[Example]:
    pointers = media_pointers(root, (".", "images"), [picture.file for picture in pictures])
    for picture, media in zip(pictures, pointers, strict=True):
        answer, split = picture.captions[0], split_of(picture.number)
        yield Example(IMAGE, TASK, split, prompt, answer, answer_mention(NAME, answer), (media,), picture.captions)
