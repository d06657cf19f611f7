"""Videos as a few frames, and what is refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_folders
from PIL import Image

from atlas.errors import Unsupported
from ingest.data.examples import BadMedia
from ingest.data.video import open_clip, spread


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (1, 8), (7, 7), (100, 8), (9, 1), (10, 4)])
def test_frames_are_spread_from_the_first_to_the_last(count: int, frames: int) -> None:
    found = spread(count, frames)
    assert len(found) == min(count, frames) and found == sorted(set(found)) and found[0] == 0
    assert frames == 1 or found[-1] == count - 1


def test_a_films_frames_are_where_the_square_is(tmp_path: Path) -> None:
    task_folders.video(tmp_path / "film.avi", frames=12)
    frames = open_clip(tmp_path / "film.avi", 4)
    assert len(frames) == 4
    lefts = []
    for frame in frames:
        red = np.asarray(frame).astype(int)[8, :, 0] > 128
        lefts.append(int(np.flatnonzero(red)[0]))
    assert all(abs(a - b) <= 1 for a, b in zip(lefts, spread(12, 4), strict=True)), lefts


def test_a_folder_of_pictures_is_a_film(tmp_path: Path) -> None:
    for n in range(5):
        Image.new("RGB", (6, 4), (50 * n, 0, 0)).save(tmp_path / f"{n}.png")
    frames = open_clip(tmp_path, 3)
    assert [frame.getpixel((0, 0)) for frame in frames] == [(0, 0, 0), (100, 0, 0), (200, 0, 0)]
    Image.new("RGB", (7, 4)).save(tmp_path / "4.png")
    with pytest.raises(BadMedia, match="different sizes"):
        open_clip(tmp_path, 3)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("no film")
    task_folders.video(tmp_path / "film.avi")
    whole = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[:100])
    for name, match in (
        ("empty", "no pictures"),
        ("text.avi", "not a video"),
        ("cut.avi", "not a video"),
        ("none", "missing"),
    ):
        with pytest.raises(BadMedia, match=match):
            open_clip(tmp_path / name)


def test_what_is_wrong_with_a_video_is_said_once(tmp_path: Path) -> None:
    """Not by FFmpeg too ("moov atom not found"). In a process of its own: it writes past Python."""
    begin = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + b"\x00\x00\x40\x00mdat" + bytes(500)
    (tmp_path / "cut.mp4").write_bytes(begin)
    code = (
        "import sys\nfrom pathlib import Path\nfrom ingest.data.video import open_clip\n"
        "from ingest.data.examples import BadMedia\n"
        "try:\n    open_clip(Path(sys.argv[1]))\nexcept BadMedia as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cut.mp4")], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == f"{tmp_path / 'cut.mp4'} is not a video, or corrupt\n" and done.stderr == ""


def test_without_opencv_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task_folders.video(tmp_path / "film.avi")
    usual = importlib.import_module

    def lacking(name: str, *rest: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return usual(name, *rest)

    monkeypatch.setattr(importlib, "import_module", lacking)
    with pytest.raises(Unsupported, match="film.avi needs OpenCV: pip install 'neuron-atlas\\[video\\]'"):
        open_clip(tmp_path / "film.avi")
