"""Stored examples' pictures, recordings and videos, by the example's id and never by a path."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
from starlette.responses import Response

from atlas.errors import UsageError
from atlas.store.database import open_readonly
from cli.web.asking import Asking
from cli.web.problems import NotThere

SIDES = (16, 2048)
"""Pixels of a picture's longer side."""

QUALITY = 90
"""Of JPEG, in percent."""

FRAMES = 4
"""Frames of a video, side by side."""


def media(asking: Asking, example: str, number: int, side: str | None) -> Response:
    """A stored example's medium: a picture as JPEG, a recording as WAV, a video as a row of frames.

    number: of the medium, from 0. side: pixels of a picture's longer side; by default as large as it is, to 2,048.

    Raises:
        NotThere: no such example or medium, or its file is gone or damaged. UsageError: another side.
    """
    from ingest.data.examples import BadMedia
    from ingest.run.stored_media import StoredMedia

    row = example_row(asking, example)
    if not 0 <= number < len(row["media"]):
        raise NotThere(f"the example {example} has {len(row['media'])} media")
    pixels = _side(side)
    try:
        medium = StoredMedia().open(row)[number]
    except BadMedia as error:
        raise NotThere(error.message) from error
    return _response(medium, pixels)


def example_row(asking: Asking, example: str) -> dict[str, Any]:
    """A stored example with what opens its media: see `ingest.run.stored_media.COLUMNS`.

    Raises:
        NotThere: there is none of this id.
    """
    from ingest.run.stored_media import examples_with

    with asking.keeper.asking(), open_readonly(asking.path) as connection:
        rows = examples_with(connection, [example])
    if example not in rows:
        raise NotThere(f"no stored example has the id '{example}'")
    return rows[example]


def _side(text: str | None) -> int:
    if not text:
        return SIDES[1]
    if not text.isdecimal() or not SIDES[0] <= int(text) <= SIDES[1]:
        raise UsageError(f"[[side]] must be from {SIDES[0]} to {SIDES[1]:,}")
    return int(text)


def _response(medium: Any, side: int) -> Response:
    from atlas.live.media import Clip, Sound
    from ingest.run.thumbnails import jpeg

    if isinstance(medium, Sound):
        return Response(wav(medium), media_type="audio/wav")
    picture = row_of_frames(medium) if isinstance(medium, Clip) else medium
    return Response(jpeg(picture, side, QUALITY), media_type="image/jpeg")


def wav(sound: Any) -> bytes:
    """A recording as 16-bit PCM."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes((np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes())
    return written.getvalue()


def row_of_frames(clip: Any) -> Any:
    """Evenly spaced frames of a video, side by side."""
    from PIL import Image

    places = np.linspace(0, len(clip.frames) - 1, min(FRAMES, len(clip.frames))).round().astype(int)
    frames = [clip.frames[i] for i in places]
    width, height = frames[0].size
    row = Image.new("RGB", (width * len(frames), height))
    for number, frame in enumerate(frames):
        row.paste(frame, (number * width, 0))
    return row
