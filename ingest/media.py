"""Opening pictures that someone else made: limits first, pixels after."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.examples import BadMedia

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000


def open_image(path: Path, max_pixels: int = MAX_PIXELS, *, max_bytes: int = MAX_BYTES) -> Image:
    """The picture of a file as RGB, turned the way its EXIF orientation says, all of its pixels read.

    max_pixels: width times height; refused from the header, before anything is decoded.

    Raises:
        BadMedia: missing, not a picture, corrupt, truncated, or above a limit; the message has the path.
    """
    import PIL.Image
    from PIL import ImageOps

    if not path.is_file():
        raise BadMedia(f"{path} is missing; the dataset's pictures must lie below its folder")
    size = path.stat().st_size
    if size > max_bytes:
        raise BadMedia(f"{path} has {size:,} bytes, the limit is {max_bytes:,}")
    try:
        with warnings.catch_warnings():
            # Our own limit decides, from the same header.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as found:
                if found.width * found.height > max_pixels:
                    raise BadMedia(f"{path} is {found.width} x {found.height} pixels, the limit is {max_pixels:,}")
                return ImageOps.exif_transpose(found).convert("RGB")
    except PIL.Image.DecompressionBombError as error:
        raise BadMedia(f"{path} is above the limit of {max_pixels:,} pixels: {error}") from error
    except PIL.UnidentifiedImageError as error:
        raise BadMedia(f"{path} is not a picture") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
        # What the decoders of the many formats raise on bytes that are cut or changed.
        raise BadMedia(f"{path} is corrupt or cut: {error}") from error
