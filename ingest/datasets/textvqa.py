"""textvqa: questions about the words that can be read in photographs, each with ten people's answers.

    PATH/TextVQA_0.5.1_val.json (train: TextVQA_0.5.1_train.json)
    PATH/train_images/IMAGE_ID.jpg, or train_val_images/train_images/, images/, ...

The answer is the most frequent of the ten, the first of equals; all ten are its references. One concept, textvqa, whose
words are the answer's. Singh et al. 2019, Towards VQA Models That Can Read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
    split_of,
)
from ingest.datasets._tasks import TaskDataset, answer_mention, single_concept

NAME, TASK = "textvqa", "vqa"
PARTS = ("val", "train")
FOLDERS = ("train_images", "train_val_images/train_images", "train_val_images", "images", "val_images", ".")
LAYOUT = "TextVQA_0.5.1_val.json beside train_images/ with the pictures"


def build(path: str | None = None, *, part: str = "val", instruction: str = "") -> TaskDataset:
    """Read a TextVQA folder.

    part: val | train. instruction: added to each question on a line of its own; MINER has none.
    About one picture in five is held out, whatever the part.

    Raises:
        UsageError: no such folder, file or part; a file that is truncated or not TextVQA's; no picture exists.
        BadMedia: a picture's id leads out of the folder.
    """
    check_names("part", [part], PARTS)
    root = dataset_folder(path, NAME)
    file = find_one_file(root, [f"TextVQA_[0-9]*_{part}.json"], LAYOUT)
    rows = read_json_rows(file, "data")
    require_unique(rows, "question_id", file)
    ids = [identifier(row.get("image_id"), f"{file}: the image_id of row {n}") for n, row in enumerate(rows)]
    media = media_pointers(root, FOLDERS, [f"{image}.jpg" for image in ids])

    def read() -> Iterator[Example]:
        for number, (row, image, pointer) in enumerate(zip(rows, ids, media, strict=True)):
            where = f"of row {number}"
            question = one_line(row.get("question"), f"{file}: the question {where}")
            prompt = f"{question}\n{instruction}" if instruction else question
            answers = _answers(row, f"{file}: an answer {where}")
            [(answer, _)] = Counter(answers).most_common(1)
            mentions = answer_mention(NAME, answer)
            yield Example(IMAGE, TASK, split_of(image), prompt, answer, mentions, (pointer,), answers)

    metrics = {TASK: ("vqa", "vqa_any")}
    return TaskDataset(
        NAME, root, licence="CC BY 4.0", concepts=[single_concept(NAME)], metrics=metrics, examples=read()
    )


def _answers(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Every answer that is not blank."""
    raw_answers = row.get("answers")
    listed = raw_answers if isinstance(raw_answers, list) else []
    answers = [one_line(answer, where) for answer in listed if not (isinstance(answer, str) and not answer.strip())]
    if not answers:
        raise UsageError(f"{where} is missing; the test part has no answers, so use val or train")
    return tuple(answers)
