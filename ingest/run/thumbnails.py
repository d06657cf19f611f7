"""Stored examples' pictures, small enough to stand in a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import AtlasError
from atlas.live.media import Clip, Medium, Sound
from atlas.store.database import open_readonly
from ingest.run.stored_media import StoredMedia, examples_with

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 85
"""Of JPEG, in percent: pictures of 128 pixels then have some 5 kB."""


def thumbnails(path: Path, ids: Sequence[str], side: int) -> dict[str, tuple[str | None, str | None]]:
    """By example, its first picture or a video's middle frame as a `data:` address, or in words why it is not shown.

    path: of the atlas. ids: of stored examples, whole. side: pixels of the longer side. Recordings
    and texts have neither.
    """
    shown = dict[str, tuple[str | None, str | None]]()
    for example, data, problem in _opened(path, ids, side):
        address = None if data is None else f"data:image/jpeg;base64,{b64encode(data).decode()}"
        shown[example] = address, problem
    return shown


def pictures(path: Path, ids: Sequence[str], side: int) -> dict[str, bytes | None]:
    """By example, its first picture or a video's middle frame as JPEG; None where it cannot be shown."""
    return {example: data for example, data, _ in _opened(path, ids, side)}


def _opened(path: Path, ids: Sequence[str], side: int) -> Iterator[tuple[str, bytes | None, str | None]]:
    """Every example, its picture as JPEG, and why there is none."""
    with open_readonly(path) as connection:
        rows = examples_with(connection, ids)
    media = StoredMedia()
    for example in dict.fromkeys(ids):
        if example not in rows:
            yield example, None, "its run is no longer here"
            continue
        try:
            opened = media.open(rows[example])
        except AtlasError as error:
            yield example, None, f"cannot be shown: {error.message}"
            continue
        picture = _visible(opened[0]) if opened else None
        yield example, None if picture is None else jpeg(picture, side), None


def jpeg(picture: Image, side: int, quality: int = QUALITY) -> bytes:
    """A picture as JPEG, its longer side at most `side` pixels."""
    small, encoded = picture.copy(), BytesIO()
    small.thumbnail((side, side))
    small.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _visible(medium: Medium) -> Image | None:
    if isinstance(medium, Sound):
        return None
    return medium.frames[len(medium.frames) // 2] if isinstance(medium, Clip) else medium
