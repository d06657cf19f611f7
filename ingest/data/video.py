"""Opening videos from untrusted files, as a few evenly spaced frames: limits first, content after."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import Unsupported
from ingest.data.examples import BadMedia
from ingest.data.media import MAX_PIXELS, open_image, require_file

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 8
MAX_BYTES = 2_000_000_000
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def open_clip(path: Path, frames: int = FRAMES) -> list[Image]:
    """At most `frames` RGB pictures of a video, evenly spaced, all of one size.

    path: a video file, read by OpenCV, or a folder of pictures in the order of their names.

    Raises:
        BadMedia: missing, not a video, corrupt, above a limit, or pictures of several sizes; the message has the path.
        Unsupported: the video is a file, and OpenCV is not installed.
    """
    pictures = _folder(path, frames) if path.is_dir() else _file(path, frames)
    if len({picture.size for picture in pictures}) != 1:
        raise BadMedia(f"{path} has pictures of different sizes; a video's pictures must have the same size")
    return pictures


def spread(count: int, frames: int) -> list[int]:
    """At most `frames` of `count` indices, evenly spaced, including the first and the last.

    >>> spread(10, 4), spread(2, 8), spread(7, 1)
    ([0, 3, 6, 9], [0, 1], [0])
    """
    if count <= frames:
        return list(range(count))
    return [round(i * (count - 1) / max(1, frames - 1)) for i in range(frames)]


def _folder(path: Path, frames: int) -> list[Image]:
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    if not files:
        raise BadMedia(f"{path} has no pictures ({', '.join(PICTURES)}) to make a video of")
    return [open_image(files[i]) for i in spread(len(files), frames)]


def _file(path: Path, frames: int) -> list[Image]:
    from PIL import Image

    require_file(path, "videos", MAX_BYTES)
    # FFmpeg and OpenCV print errors of their own; they read these variables when they first open a video.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise Unsupported(f"reading {path.name} needs OpenCV: pip install 'neuron-atlas[video]'") from error
    reader = cv2.VideoCapture(str(path))
    try:
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        width, height = (int(reader.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not reader.isOpened() or count < 1 or width < 1 or height < 1:
            raise BadMedia(f"{path} is not a video, or corrupt")
        if width * height > MAX_PIXELS:
            raise BadMedia(f"{path} is {width} x {height} pixels, the limit is {MAX_PIXELS:,}")
        pictures, chosen = [], set(spread(count, frames))
        for position in range(max(chosen) + 1):  # one after another: seeking is inexact in many formats
            readable = reader.grab()
            if position in chosen and readable:
                readable, pixels = reader.retrieve()
                if readable:
                    pictures.append(Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)))
            if not readable:
                break
    except cv2.error as error:
        raise BadMedia(f"{path} is corrupt: {error}") from error
    finally:
        reader.release()
    if not pictures:
        raise BadMedia(f"{path} is not a video, or truncated: no frame could be read")
    return pictures
