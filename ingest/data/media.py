"""Opening pictures and recordings that someone else made: limits first, content after."""

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
"""EXIF's tag, and its values with which height and width change places (Pillow does it itself for TIFF)."""
LFS = b"version https://git-lfs"
"""How the text begins that a clone without Git LFS has instead of a large file."""
MAX_SECONDS = 600.0
RATES = (1_000, 1_000_000)
"""Samples a second that recordings have; other numbers are a header's mistake, and times and pitches would be too."""
PCM = 1
"""WAVE's code of whole numbers."""
LOUDEST = 2.0
"""Floats a little above 1 are cut to it; far above they are not samples between -1 and 1."""
MAX_SAMPLES = 100_000_000
"""Of all channels together: a header may name any rate, and so make ten minutes of any size."""


def open_image(path: Path, max_pixels: int = MAX_PIXELS, *, max_bytes: int = MAX_BYTES) -> Image:
    """The picture of a file as RGB (`atlas.live.pixels.rgb`), turned the way its EXIF orientation says, all of its
    pixels read.

    max_pixels: width times height; refused from the header, before anything is decoded.

    Raises:
        BadMedia: missing, not a picture, corrupt, truncated, above a limit, or of numbers whose range is not known; the
            message has the path.
    """
    from PIL import ImageOps

    with _opened(path, max_pixels, max_bytes) as found:
        ImageOps.exif_transpose(found, in_place=True)  # in place, as a copy forgets its file's bits
        return rgb(found)


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a file's picture as `open_image` gives it, from its header.

    Raises:
        BadMedia: missing, not a picture, or above a limit; the message has the path.
    """
    with _opened(path, MAX_PIXELS, MAX_BYTES) as found:
        width, height = found.size
        turned = found.format != "TIFF" and found.getexif().get(ORIENTATION) in SIDEWAYS
        return (height, width) if turned else (width, height)


@contextmanager
def _opened(path: Path, max_pixels: int, max_bytes: int) -> Iterator[Image]:
    """A picture within the limits, its header read; whatever is wrong with it is BadMedia with the path."""
    import PIL.Image

    require_file(path, "pictures", max_bytes)
    try:
        with warnings.catch_warnings():
            # Our own limit decides, from the same header.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as found:
                if found.width * found.height > max_pixels:
                    raise BadMedia(f"{path} is {found.width} x {found.height} pixels, the limit is {max_pixels:,}")
                yield found
    except UsageError as error:
        raise BadMedia(f"{path} is {error}") from error
    except PIL.Image.DecompressionBombError as error:
        raise BadMedia(f"{path} is above the limit of {max_pixels:,} pixels: {error}") from error
    except PIL.UnidentifiedImageError as error:
        raise BadMedia(f"{path} is not a picture") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
        # What the decoders of the many formats raise on bytes that are cut or changed.
        raise BadMedia(f"{path} is corrupt or cut: {error}") from error


def open_audio(path: Path, max_seconds: float = MAX_SECONDS, *, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, int]:
    """The recording of a file: (samples,) float32 between -1 and 1, channels averaged; its rate in samples a second.

    Its content decides how it is read, whatever its name: a WAVE of whole numbers (PCM) here; every other format (FLAC,
    floats, extensible or unfinished WAVE, ...) by the package soundfile.
    max_seconds: refused from the header, before anything is decoded.

    Raises:
        BadMedia: missing, no recording, corrupt, cut, empty, above a limit, or louder than 1; the message has the path.
        Unsupported: the format needs soundfile, and it is not installed.
    """
    require_file(path, "recordings", max_bytes)
    samples, rate = (_wav if _is_plain(path) else _sound)(path, max_seconds)
    if not samples.size:
        raise BadMedia(f"{path} is a recording of nothing")
    loudest = float(np.abs(samples).max())
    if not loudest <= LOUDEST:
        raise BadMedia(f"{path} has samples up to {loudest:g}; floats go from -1 to 1")
    mixed = samples.clip(-1, 1).mean(1, dtype=np.float32)
    if loudest > 0 and float(np.abs(mixed).max()) < loudest / 1000:
        raise BadMedia(f"{path} is silent when its channels are averaged, as they cancel each other; keep one of them")
    return mixed, rate


def require_file(path: Path, kind: str, max_bytes: int) -> None:
    """Refuse what is not a file, too large a one, or the pointer that Git LFS leaves in a file's place."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # not there, not to be read, or no name that a file can have
        raise BadMedia(f"{path} is missing; the dataset's {kind} must lie below its folder") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadMedia(f"{path} is not a file; give one of the {kind} themselves")
    if found.st_size > max_bytes:
        raise BadMedia(f"{path} has {found.st_size:,} bytes, the limit is {max_bytes:,}")
    try:
        with path.open("rb") as file:
            pointer = file.read(len(LFS)) == LFS
    except OSError as error:
        raise BadMedia(f"{path} cannot be read: {error.strerror}") from error
    if pointer:
        raise BadMedia(f"{path} is a pointer of Git LFS, and not the file; fetch the {kind} with `git lfs pull`")


def _limit(path: Path, frames: int, rate: int, channels: int, max_seconds: float) -> None:
    """Refuse what a header promises, before it is read."""
    if not RATES[0] <= rate <= RATES[1] or channels < 1 or frames < 0:
        raise BadMedia(f"{path} is corrupt: its header says {channels} channels of {rate:,} samples a second")
    if frames / rate > max_seconds:
        raise BadMedia(f"{path} is {frames / rate:,.0f} seconds long, the limit is {max_seconds:,.0f}")
    if frames * channels > MAX_SAMPLES:
        raise BadMedia(f"{path} has {frames * channels:,} samples, the limit is {MAX_SAMPLES:,}")


def _is_plain(path: Path) -> bool:
    """Whether a file is a WAVE of PCM whose header says how long it is.

    Raises:
        BadMedia: a WAVE with less in it than its header says, or whose header was never finished.
    """
    code = PCM
    with path.open("rb") as file:
        if (file.read(4), file.read(4), file.read(4))[::2] != (b"RIFF", b"WAVE"):
            return False
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            at = file.tell()
            if head[:4] == b"fmt ":
                code = int.from_bytes(file.read(2), "little")
            if head[:4] == b"data":
                there = path.stat().st_size - at
                if size == 0 < there:
                    raise BadMedia(f"{path} was never finished: its header says 0 bytes of sound, and {there:,} follow")
                unknown = size == 2**32 - 1  # as a stream is written
                if size < there - 8 - size % 2 and not _is_chunk(file, at + size + size % 2):
                    raise BadMedia(f"{path} has {there:,} bytes of sound or more, and its header says {size:,}")
                if code != PCM and there < size and not unknown:
                    raise BadMedia(f"{path} is cut: {there:,} of {size:,} bytes of sound are there")
                return code == PCM and not unknown
            file.seek(at + size + size % 2)
    return code == PCM


def _is_chunk(file: BinaryIO, at: int) -> bool:
    """Whether a chunk of a WAVE begins there, as after the sound, by its four letters; or nothing but zeros follow."""
    file.seek(at)
    return re.match(rb"[A-Za-z0-9_ -]{4}", rest := file.read()) is not None or not any(rest)


def _wav(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """(frames, channels) float32 and the rate, of a PCM file of 8, 16, 24 or 32 bits."""
    try:
        with wave.open(str(path), "rb") as found:
            channels, width, rate, frames = found.getparams()[:4]
            _limit(path, frames, rate, channels, max_seconds)
            if width > 4:
                raise BadMedia(f"{path} has samples of {8 * width} bits; 8, 16, 24 and 32 are read")
            data = found.readframes(frames)
    except (wave.Error, EOFError, OSError, ValueError, OverflowError, struct.error) as error:
        raise BadMedia(f"{path} is not a PCM recording, or corrupt: {error or 'it ends too soon'}") from error
    if len(data) != frames * channels * width:
        raise BadMedia(f"{path} is cut: {len(data):,} of {frames * channels * width:,} bytes of sound are there")
    return _numbers(data, width).reshape(-1, channels), rate


def _numbers(data: bytes, width: int) -> np.ndarray:
    """(samples,) float32 between -1 and 1, of little-endian whole numbers of `width` bytes; one byte has no sign."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:  # in the upper three bytes of four
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    return np.frombuffer(data, f"<i{width}").astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _sound(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """(frames, channels) float32 and the rate, of whatever libsndfile reads."""
    try:
        soundfile = importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise Unsupported(f"reading {path.name} needs soundfile: pip install 'neuron-atlas[audio]'") from error
    try:
        about = soundfile.info(str(path))
        _limit(path, about.frames, about.samplerate, about.channels, max_seconds)
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise BadMedia(f"{path} is not a recording, corrupt or cut: {error}") from error
    if len(samples) != about.frames:
        raise BadMedia(f"{path} is cut: {len(samples):,} of {about.frames:,} samples are there")
    return samples, int(rate)
