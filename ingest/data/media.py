"""Opening pictures and recordings from untrusted files: limits first, content after."""

from __future__ import annotations

import importlib
import re
import stat
import struct
import warnings
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from atlas.errors import Unsupported, UsageError
from atlas.live.pixels import rgb
from ingest.data.examples import BadMedia

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000
ORIENTATION, SIDEWAYS = 274, (5, 6, 7, 8)
"""EXIF's orientation tag, and its values that swap height and width (for TIFF, Pillow does so itself)."""
LFS = b"version https://git-lfs"
"""The beginning of the text file that a clone without Git LFS has in place of a large file."""
MAX_SECONDS = 600.0
RATES = (1_000, 1_000_000)
"""The range of plausible sampling rates; with a rate outside, a wrong header would make times and pitches wrong."""
PCM = 1
"""WAVE's format code for integer samples."""
LOUDEST = 2.0
"""Floats up to this are clipped to 1; larger ones mean that the samples are not between -1 and 1."""
MAX_SAMPLES = 100_000_000
"""Of all channels together: as a header may name any rate, ten minutes may have any size."""


def open_image(path: Path, max_pixels: int = MAX_PIXELS, *, max_bytes: int = MAX_BYTES) -> Image:
    """The picture of a file as RGB (`atlas.live.pixels.rgb`), rotated as its EXIF orientation says, fully decoded.

    max_pixels: width times height; checked in the header, before anything is decoded.

    Raises:
        BadMedia: missing, not a picture, corrupt, truncated, above a limit, or with values of unknown range; the
            message has the path.
    """
    from PIL import ImageOps

    with _opened(path, max_pixels, max_bytes) as picture:
        ImageOps.exif_transpose(picture, in_place=True)  # in place, as a copy loses the file's bit depth
        return rgb(picture)


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a file's picture as `open_image` gives it, from its header.

    Raises:
        BadMedia: missing, not a picture, or above a limit; the message has the path.
    """
    with _opened(path, MAX_PIXELS, MAX_BYTES) as picture:
        width, height = picture.size
        turned = picture.format != "TIFF" and picture.getexif().get(ORIENTATION) in SIDEWAYS
        return (height, width) if turned else (width, height)


@contextmanager
def _opened(path: Path, max_pixels: int, max_bytes: int) -> Iterator[Image]:
    """A picture within the limits, its header read; any problem becomes BadMedia with the path."""
    import PIL.Image

    require_file(path, "pictures", max_bytes)
    try:
        with warnings.catch_warnings():
            # Our own limit is checked below.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as picture:
                if picture.width * picture.height > max_pixels:
                    raise BadMedia(f"{path} is {picture.width} x {picture.height} pixels, the limit is {max_pixels:,}")
                yield picture
    except UsageError as error:
        raise BadMedia(f"{path} is {error}") from error
    except PIL.Image.DecompressionBombError as error:
        raise BadMedia(f"{path} is above the limit of {max_pixels:,} pixels: {error}") from error
    except PIL.UnidentifiedImageError as error:
        raise BadMedia(f"{path} is not a picture") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
        # What decoders raise on truncated or changed bytes.
        raise BadMedia(f"{path} is corrupt or truncated: {error}") from error


def open_audio(path: Path, max_seconds: float = MAX_SECONDS, *, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, int]:
    """The recording of a file: (samples,) float32 between -1 and 1, channels averaged; its rate in samples a second.

    The content decides how it is read, whatever the name: WAVE with integer samples (PCM) is read here; every other
    format (FLAC, floats, extensible or unfinished WAVE, ...) by the package soundfile.
    max_seconds: checked in the header, before anything is decoded.

    Raises:
        BadMedia: missing, not a recording, corrupt, truncated, empty, above a limit, or louder than 1; the message has
            the path.
        Unsupported: the format needs soundfile, and it is not installed.
    """
    require_file(path, "recordings", max_bytes)
    samples, rate = (_wav if _is_plain(path) else _sound)(path, max_seconds)
    if not samples.size:
        raise BadMedia(f"{path} is an empty recording")
    loudest = float(np.abs(samples).max())
    if not loudest <= LOUDEST:
        raise BadMedia(f"{path} has samples up to {loudest:g}; floats go from -1 to 1")
    mixed = samples.clip(-1, 1).mean(1, dtype=np.float32)
    if loudest > 0 and float(np.abs(mixed).max()) < loudest / 1000:
        raise BadMedia(f"{path} is silent when its channels are averaged, as they cancel out; keep one of them")
    return mixed, rate


def require_file(path: Path, kind: str, max_bytes: int) -> None:
    """Raise BadMedia for a missing file, a folder, a file that is too large, or a Git LFS pointer in a file's place."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # missing, unreadable, or an impossible name
        raise BadMedia(f"{path} is missing; the dataset's {kind} must be below its folder") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadMedia(f"{path} is not a file; give one of the {kind} themselves")
    if status.st_size > max_bytes:
        raise BadMedia(f"{path} has {status.st_size:,} bytes, the limit is {max_bytes:,}")
    try:
        with path.open("rb") as file:
            pointer = file.read(len(LFS)) == LFS
    except OSError as error:
        raise BadMedia(f"{path} cannot be read: {error.strerror}") from error
    if pointer:
        raise BadMedia(f"{path} is a Git LFS pointer, not the file itself; fetch the {kind} with `git lfs pull`")


def _limit(path: Path, frames: int, rate: int, channels: int, max_seconds: float) -> None:
    """Raise BadMedia where a header's numbers are impossible or above the limits, before the samples are read."""
    if not RATES[0] <= rate <= RATES[1] or channels < 1 or frames < 0:
        raise BadMedia(f"{path} is corrupt: its header says {channels} channels of {rate:,} samples a second")
    if frames / rate > max_seconds:
        raise BadMedia(f"{path} is {frames / rate:,.0f} seconds long, the limit is {max_seconds:,.0f}")
    if frames * channels > MAX_SAMPLES:
        raise BadMedia(f"{path} has {frames * channels:,} samples, the limit is {MAX_SAMPLES:,}")


def _is_plain(path: Path) -> bool:
    """Whether a file is a PCM WAVE whose header gives its length.

    Raises:
        BadMedia: a WAVE with fewer bytes than its header says, or with an unfinished header.
    """
    code = PCM
    with path.open("rb") as file:
        if (file.read(4), file.read(4), file.read(4))[::2] != (b"RIFF", b"WAVE"):
            return False
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            start = file.tell()
            if head[:4] == b"fmt ":
                code = int.from_bytes(file.read(2), "little")
            if head[:4] == b"data":
                available = path.stat().st_size - start
                if size == 0 < available:
                    raise BadMedia(f"{path} is unfinished: its header says 0 bytes of sound, and {available:,} follow")
                unknown = size == 2**32 - 1  # as streams are written
                if size < available - 8 - size % 2 and not _is_chunk(file, start + size + size % 2):
                    raise BadMedia(f"{path} has at least {available:,} bytes of sound, and its header says {size:,}")
                if code != PCM and available < size and not unknown:
                    raise BadMedia(f"{path} is truncated: it has {available:,} of {size:,} bytes of sound")
                return code == PCM and not unknown
            file.seek(start + size + size % 2)
    return code == PCM


def _is_chunk(file: BinaryIO, at: int) -> bool:
    """Whether another chunk of a WAVE begins at a position, by its four letters, or only zeros follow."""
    file.seek(at)
    return re.match(rb"[A-Za-z0-9_ -]{4}", rest := file.read()) is not None or not any(rest)


def _wav(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """(frames, channels) float32 and the rate, of a PCM file of 8, 16, 24 or 32 bits."""
    try:
        with wave.open(str(path), "rb") as recording:
            channels, width, rate, frames = recording.getparams()[:4]
            _limit(path, frames, rate, channels, max_seconds)
            if width > 4:
                raise BadMedia(f"{path} has samples of {8 * width} bits; 8, 16, 24 and 32 are read")
            data = recording.readframes(frames)
    except (wave.Error, EOFError, OSError, ValueError, OverflowError, struct.error) as error:
        raise BadMedia(f"{path} is not a PCM recording, or corrupt: {error or 'it ends early'}") from error
    if len(data) != frames * channels * width:
        raise BadMedia(f"{path} is truncated: it has {len(data):,} of {frames * channels * width:,} bytes of sound")
    return _numbers(data, width).reshape(-1, channels), rate


def _numbers(data: bytes, width: int) -> np.ndarray:
    """(samples,) float32 between -1 and 1, from little-endian integers of `width` bytes; those of one are unsigned."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:  # in the upper three bytes of four
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    return np.frombuffer(data, f"<i{width}").astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _sound(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """(frames, channels) float32 and the rate, of any format that libsndfile reads."""
    try:
        soundfile = importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise Unsupported(f"reading {path.name} needs soundfile: pip install 'neuron-atlas[audio]'") from error
    try:
        about = soundfile.info(str(path))
        _limit(path, about.frames, about.samplerate, about.channels, max_seconds)
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise BadMedia(f"{path} is not a recording, or is corrupt or truncated: {error}") from error
    if len(samples) != about.frames:
        raise BadMedia(f"{path} is truncated: it has {len(samples):,} of {about.frames:,} samples")
    return samples, int(rate)
