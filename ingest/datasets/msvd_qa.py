"""msvd_qa: questions about short videos, each answered by one word.

    PATH/test_qa.json (train_qa.json, val_qa.json)
    PATH/youtube_mapping.txt    lines of "NAME vidN"; without it a video's file is called vidN
    PATH/video/NAME.avi, or YouTubeClips/, videos/, ...; also .mp4 and other endings

Source "video": a few frames of each, read by OpenCV. One concept, msvd_qa, whose words are the answer's.
Xu et al. 2017, Video Question Answering via Gradually Refined Attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from atlas.errors import UsageError
from ingest.data.examples import VIDEO, Example
from ingest.data.video import FRAMES
from ingest.datasets._files import (
    check_names,
    dataset_folder,
    find_one_file,
    identifier,
    media_pointers,
    one_line,
    read_json_rows,
    read_text,
    split_of,
)
from ingest.datasets._tasks import TaskDataset, answer_mention, single_concept

NAME, TASK = "msvd_qa", "vqa"
PARTS = ("test", "val", "train")
FOLDERS = ("video", "YouTubeClips", "videos", ".")
ENDINGS = (".avi", ".mp4", ".mkv", ".webm")
LAYOUT = "test_qa.json and youtube_mapping.txt beside video/ or YouTubeClips/ with the videos"


def build(
    path: str | None = None,
    *,
    part: str = "test",
    instruction: str = "Answer in a single word or a short phrase.",
    frames: int = FRAMES,
) -> TaskDataset:
    """Read an MSVD-QA folder.

    part: test | val | train. instruction: added to each question on a line of its own. frames: how many frames of each
    video the model sees, evenly spaced.
    About one video in five is held out, whatever the part.

    Raises:
        UsageError: no such folder, file or part; a file that is truncated or not MSVD-QA's; no video exists.
        BadMedia: a video's name leads out of the folder.
    """
    check_names("part", [part], PARTS)
    if frames < 1:
        raise UsageError(f"frames={frames}: a video needs at least 1")
    root = dataset_folder(path, NAME)
    file = find_one_file(root, [f"{part}_qa.json"], LAYOUT)
    rows = read_json_rows(file, None)
    ids = [identifier(row.get("video_id"), f"{file}: the video_id of row {n}") for n, row in enumerate(rows)]
    media = _pointers(root, ids)

    def read() -> Iterator[Example]:
        for number, (row, video) in enumerate(zip(rows, ids, strict=True)):
            question = one_line(row.get("question"), f"{file}: the question of row {number}")
            prompt = f"{question}\n{instruction}" if instruction else question
            answer = one_line(row.get("answer"), f"{file}: the answer of row {number}")
            yield Example(VIDEO, TASK, split_of(video), prompt, answer, answer_mention(NAME, answer), (media[video],))

    metrics = {TASK: ("exact", "vqa_any")}
    return TaskDataset(
        NAME,
        root,
        licence="research use",
        concepts=[single_concept(NAME)],
        metrics=metrics,
        examples=read(),
        frames=frames,
    )


def _pointers(root: Path, ids: list[str]) -> dict[str, str]:
    """Each video's pointer by its id; one that does not exist gets a pointer all the same."""
    file = root / "youtube_mapping.txt"
    names = _names(file) if file.exists() else None
    stems: dict[str, str] = {}
    for video in dict.fromkeys(ids):
        if names is not None and f"vid{video}" not in names:
            raise UsageError(f"{file} has no name for vid{video}")
        stems[video] = f"vid{video}" if names is None else names[f"vid{video}"]
    endings = _endings(root)
    files = [f"{stem}{endings.get(stem, ENDINGS[0])}" for stem in stems.values()]
    return dict(zip(stems, media_pointers(root, FOLDERS, files), strict=True))


def _names(file: Path) -> Mapping[str, str]:
    """ "vidN" -> the name of its video."""
    name_by_id: dict[str, str] = {}
    for number, text in enumerate(read_text(file).splitlines(), 1):
        parts = text.split()
        if not parts:
            continue
        if len(parts) != 2:
            raise UsageError(f"{file}: line {number} is not 'NAME vidN': {text[:80]}")
        if name_by_id.setdefault(parts[1], parts[0]) != parts[0]:
            raise UsageError(f"{file}: line {number} gives {parts[1]} a second name")
    return name_by_id


def _endings(root: Path) -> Mapping[str, str]:
    """Each existing video's file ending, by its name without the ending."""
    ending_by_name: dict[str, str] = {}
    for folder in FOLDERS:
        for entry in sorted((root / folder).iterdir()) if (root / folder).is_dir() else ():
            if entry.suffix in ENDINGS:
                ending_by_name.setdefault(entry.stem, entry.suffix)
    return ending_by_name
