"""Small folders in the form of each dataset, written by the tests themselves."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scene_coco import write_coco

COUNT = 30
"""Pictures, speakers, videos: enough that both splits have some."""


def picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)


def sound(file: Path, samples: int = 80, *, rate: int = 16_000, width: int = 2, channels: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as out:
        out.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        out.writeframes(
            bytes(range(256)) * (samples * channels * width // 256) + bytes(samples * channels * width % 256)
        )


def video(file: Path, seed: int = 0, frames: int = 12, width: int = 32, height: int = 24) -> None:
    """A short film of a square that moves to the right."""
    import cv2

    file.parent.mkdir(parents=True, exist_ok=True)
    out = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    for n in range(frames):
        frame = np.full((height, width, 3), seed % 200, np.uint8)
        frame[4:12, n : n + 8] = (0, 0, 255)
        out.write(frame)
    out.release()


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def textvqa(root: Path, part: str = "val") -> Path:
    """Two questions about each picture."""
    rows = []
    for n in range(COUNT):
        picture(root / "train_images" / f"{n:016x}.jpg", n)
        for word in ("brand", "number"):
            said = [f"{word} {n}", "other", "Other", *[f"{word} {n}"] * 7]
            row = {"question": f"what {word} is this?", "image_id": f"{n:016x}", "answers": said}
            rows.append(row | {"question_id": len(rows), "flickr_300k_url": "http://x", "image_classes": ["Sign"]})
    write_json(root / f"TextVQA_0.5.1_{part}.json", {"dataset_type": part, "data": rows})
    return root


def mmlu_rows(subject: str, count: int) -> list[list[str]]:
    return [
        [f"{subject}, question {n}?", f"{n}", "two, or more", 'a "third"', "x\ny", "ABCD"[n % 4]] for n in range(count)
    ]


SUBJECTS = ("abstract_algebra", "virology")


def mmlu(root: Path) -> Path:
    for subject in SUBJECTS:
        for part, count in (("test", COUNT), ("dev", 5), ("val", 4)):
            file = root / part / f"{subject}_{part}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w", encoding="utf-8", newline="") as out:
                csv.writer(out).writerows(mmlu_rows(f"{subject} {part}", count))
    return root


def mmlu_parquet(root: Path) -> Path:
    """The same questions in the other layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part, prefix, count in (("test", "test", COUNT), ("dev", "dev", 5), ("val", "validation", 4)):
        rows = [
            {"question": q[0], "subject": subject, "choices": q[1:5], "answer": "ABCD".index(q[5])}
            for subject in SUBJECTS
            for q in mmlu_rows(f"{subject} {part}", count)
        ]
        (root / "all").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), root / "all" / f"{prefix}-00000-of-00001.parquet")
    return root


def msvd_qa(root: Path) -> Path:
    """Two questions about each video."""
    rows, mapping = [], []
    (root / "YouTubeClips").mkdir(parents=True)
    for n in range(1, COUNT + 1):
        mapping.append(f"-4wsuPCjDBc_{n}_{n + 10} vid{n}")
        video(root / "YouTubeClips" / f"-4wsuPCjDBc_{n}_{n + 10}.avi", n)
        for asked, answer in (("who is running?", "man"), (f"what is it doing {n}?", "eat")):
            rows.append({"answer": answer, "id": len(rows), "question": asked, "video_id": n})
    write_json(root / "test_qa.json", rows)
    (root / "youtube_mapping.txt").write_text("\n".join(mapping) + "\n")
    return root


def librispeech(root: Path) -> Path:
    """Two utterances of each speaker, as .wav, which needs no package to be read."""
    for n in range(COUNT):
        place = root / "test-clean" / f"{1000 + n}" / "7"
        lines = []
        for utterance in range(2):
            name = f"{1000 + n}-7-{utterance:04}"
            sound(place / f"{name}.wav", 40 + n)
            lines.append(f"{name} HE SAID IT'S NUMBER {n} {utterance}")
        (place / f"{1000 + n}-7.trans.txt").write_text("\n".join(lines) + "\n")
    return root


def audio(root: Path) -> Path:
    """Three kinds of sound in ESC-50's layout, two takes cut from each original."""
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for n in range(COUNT):
        for take in "AB":
            name = f"1-{n}-{take}-{n % 3}.wav"
            sound(root / "audio" / name, 40 + n)
            rows.append(f"{name},1,{n % 3},{('dog', 'sea_waves', 'rain')[n % 3]},True,{n},{take}")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return root


LABELS = ("laughter", "sigh", "cough", "throatclearing", "sneeze", "sniff")


def vocalsound(root: Path) -> Path:
    for n in range(COUNT):
        for label in LABELS:
            sound(root / "audio_16k" / f"f{n:04}_0_{label}.wav", 40 + n)
    names = [f"f{n:04}_0_{label}.wav" for n in range(10) for label in LABELS]
    write_json(
        root / "datafiles" / "te.json", {"data": [{"wav": f"/their/folder/{n}", "labels": "/m/1"} for n in names]}
    )
    (root / "meta").mkdir()
    (root / "meta" / "val_meta.csv").write_text("f0011,female,22,Chile,Spanish,no\nf0012,female,41,India,Hindi,no\n")
    return root


def coco_captions(root: Path) -> Path:
    rows = []
    for n in range(COUNT + 10):
        part = "test" if n < COUNT else "train"
        place, name = ("val2014", f"COCO_val2014_{n:012}.jpg") if n < COUNT else ("train2014", f"COCO_{n:012}.jpg")
        if n < COUNT:
            picture(root / place / name, n)
        said = [{"raw": f"Thing {n},  seen by person {k}. ", "tokens": []} for k in range(5)]
        rows.append({"filepath": place, "filename": name, "cocoid": n, "split": part, "sentences": said})
    write_json(root / "dataset_coco.json", {"images": rows, "dataset": "coco"})
    return root


def coco(root: Path) -> Path:
    from ingest.datasets import scenes

    write_coco(scenes.build(), root, 60)
    return root


def folder(root: Path) -> Path:
    """Two questions about each picture, in a table."""
    rows = []
    for n in range(COUNT):
        picture(root / "images" / f"{n}.png", n)
        name = ("dog", "golden retriever")[n % 2]
        for prompt, answer in (("what is it?", f"a {name}"), ("what does it do?", "barks")):
            rows.append({"file_name": f"{n}.png", "prompt": prompt, "answer": answer, "concepts": [name]})
    root.joinpath("metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root


def prompts(root: Path) -> Path:
    """Two wordings of each fact."""
    rows = []
    for n in range(COUNT):
        for wording in ("The capital of land {} is", "Name the capital of land {}."):
            rows.append({"prompt": wording.format(n), "answer": f"City {n}", "concepts": ["north", "south"][n % 2]})
    root.mkdir(parents=True, exist_ok=True)
    root.joinpath("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "audio": audio,
    "coco": coco,
    "coco_captions": coco_captions,
    "folder": folder,
    "librispeech": librispeech,
    "mmlu": mmlu,
    "msvd_qa": msvd_qa,
    "prompts": prompts,
    "textvqa": textvqa,
    "vocalsound": vocalsound,
}
"""One for every dataset that reads a folder."""
