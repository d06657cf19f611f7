"""A picture or a recording that someone sends: as base64 within JSON, opened within limits, and never by a path."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError

if TYPE_CHECKING:
    from atlas.live.media import Medium

MOST_BYTES = 10 << 20
"""Of a file that is sent."""

MOST_PIXELS = 16_000_000

MOST_SECONDS = 60.0
"""Of a recording."""

PICTURE, RECORDING = "picture", "recording"


def media_of(content: Mapping[str, Any]) -> tuple[str, tuple[Medium, ...]]:
    """The source that a request's media are, and they themselves.

    content: with `picture` or `recording`, both optional: the file's bytes in base64.

    Raises:
        UsageError: both, not base64, not a file of this kind, or above a limit.
    """
    from atlas.live.media import Sound
    from ingest.data.media import open_audio, open_image

    picture, recording = (content.get(name) for name in (PICTURE, RECORDING))
    if picture and recording:
        raise UsageError("send a picture or a recording, not both")
    if picture:
        return "image", (_opened(PICTURE, picture, lambda file: open_image(file, MOST_PIXELS)),)
    if recording:
        return "audio", (_opened(RECORDING, recording, lambda file: Sound(*open_audio(file, MOST_SECONDS))),)
    return "text", ()


def _opened(kind: str, text: object, open_file: Callable[[Path], Medium]) -> Medium:
    """What the bytes are. They are read from a file of their own, as those of a dataset are, which is gone then."""
    from ingest.data.examples import BadMedia

    if not isinstance(text, str):
        raise UsageError(f"[[{kind}]] is the bytes of a file in base64")
    if len(text) > 4 * MOST_BYTES // 3 + 4:
        raise UsageError(f"a {kind} has at most {MOST_BYTES >> 20} MiB here")
    try:
        content = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise UsageError(f"[[{kind}]] is not base64") from None
    with TemporaryDirectory(prefix="atlas-live-") as folder:
        file = Path(folder) / kind
        file.write_bytes(content)
        try:
            return open_file(file)
        except BadMedia as error:
            raise UsageError(error.message.replace(str(file), f"the {kind}")) from error
