"""Stored examples' pictures, small enough to stand in a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
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

    path: of the atlas. ids: of stored examples, whole. side: pixels of the longer side. A recording has neither.
    """
    with open_readonly(path) as connection:
        rows = examples_with(connection, ids)
    media, shown = StoredMedia(), dict[str, tuple[str | None, str | None]]()
    for example in dict.fromkeys(ids):
        try:
            [first, *_] = media.open(rows[example])
        except AtlasError as error:
            shown[example] = None, f"cannot be shown: {error.message}"
        else:
            picture = _visible(first)
            shown[example] = None if picture is None else address(picture, side), None
    return shown


def address(picture: Image, side: int) -> str:
    """A picture as a `data:` address: JPEG, its longer side at most `side` pixels."""
    small, encoded = picture.copy(), BytesIO()
    small.thumbnail((side, side))
    small.save(encoded, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{b64encode(encoded.getvalue()).decode()}"


def _visible(medium: Medium) -> Image | None:
    if isinstance(medium, Sound):
        return None
    return medium.frames[len(medium.frames) // 2] if isinstance(medium, Clip) else medium
