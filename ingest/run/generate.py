"""A model and media, as a command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingest.datasets
from atlas import registry
from atlas.errors import UsageError
from atlas.live.draw.drawer import DrawOptions
from atlas.live.draw.pictures import pictures_of
from atlas.live.media import Clip, Medium, Sound
from atlas.live.model import LiveModel
from ingest.data.examples import BadMedia
from ingest.data.media import open_audio, open_image
from ingest.data.video import open_clip
from ingest.job import DataSpec, open_dataset

if TYPE_CHECKING:
    from PIL.Image import Image


PICTURE = "[picture]"


def open_media(
    images: Sequence[str] | None = None, audio: Sequence[str] | None = None, video: Sequence[str] | None = None
) -> list[Medium]:
    """Pictures, then recordings, then videos; see `open_picture`. A video may be a folder of pictures."""
    media: list[Medium] = [open_picture(name) for name in images or ()]
    for name in audio or ():
        dataset_pointer = dataset_of(name)
        media.append(
            Sound(
                *(
                    dataset_pointer[0].audio(dataset_pointer[1])
                    if dataset_pointer
                    else open_audio(_existing(name, "recording"))
                )
            )
        )
    for name in video or ():
        dataset_pointer = dataset_of(name)
        media.append(
            Clip(
                tuple(
                    dataset_pointer[0].video(dataset_pointer[1])
                    if dataset_pointer
                    else open_clip(_existing(name, "video"))
                )
            )
        )
    return media


def generate_answer(
    live: LiveModel, prompt: str, media: Sequence[Medium], *, max_new_tokens: int = 50, seed: int | None = None
) -> tuple[str, Image | None]:
    """The model's greedy answer; with a seed, also the picture that it draws, None where the answer has none. PICTURE
    stands for a picture's tokens in the text.

    Raises:
        Unsupported: a seed is given and the model cannot draw.
    """
    encoded = live.encoder.prompt(prompt, media)
    if seed is None:
        [ids] = live.generate([encoded], max_new_tokens=max_new_tokens)
        return live.encoder.decode(ids).strip(), None
    drawer, options = live.drawer, DrawOptions()
    [ids] = drawer.answers([encoded], options, max_new_tokens)
    places = drawer.places(ids)
    if places is None:
        return live.encoder.decode(ids).strip(), None
    before, after = (live.encoder.decode(part).strip() for part in (ids[: places[0]], ids[places[-1] + 1 :]))
    [picture] = pictures_of(live, [encoded.answered(ids)], [seed], options)
    return " ".join(filter(None, (before, PICTURE, after))), picture


def picture_file(path: Path | None) -> None:
    """Raise UsageError where no picture can be saved under a name, before anything is computed for it."""
    if path is None:
        return
    import PIL.Image

    known = {ending for ending, form in PIL.Image.registered_extensions().items() if form in PIL.Image.SAVE}
    if path.suffix.lower() not in known or path.is_dir():
        raise UsageError(f"{path} is not a name for a picture; give a file such as dog.png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}; make it first, or save the picture elsewhere")


def side_by_side(pictures: Sequence[Image | None]) -> Image:
    """Pictures in a row, a few pixels apart."""
    import PIL.Image

    shown = [picture for picture in pictures if picture is not None]
    gap = max(2, shown[0].width // 16)
    row = PIL.Image.new("RGB", (sum(p.width + gap for p in shown) - gap, max(p.height for p in shown)), "white")
    left = 0
    for picture in shown:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def dataset_of(name: str) -> tuple[Any, str] | None:
    """The dataset and the pointer in a name like scenes:held_out/3; None for a file's name.

    Raises:
        UsageError: the dataset needs a path, which such a name does not have.
    """
    dataset, colon, pointer = name.partition(":")
    if colon and not Path(name).exists() and dataset in registry.names(ingest.datasets):
        return open_dataset(DataSpec(dataset=dataset)), pointer
    return None


def _existing(name: str, kind: str) -> Path:
    if not Path(name).exists():
        raise BadMedia(f"there is no {kind} {name}; give a file, or DATASET:POINTER such as scenes:held_out/3")
    return Path(name)


def open_picture(name: str) -> Image:
    """A picture by file name, or as DATASET:POINTER for a dataset that draws its own (scenes:held_out/3).

    Raises:
        BadMedia: missing, corrupt or too large.
    """
    dataset_pointer = dataset_of(name)
    if dataset_pointer is not None:
        picture: Image = dataset_pointer[0].image(dataset_pointer[1])
        return picture
    return open_image(_existing(name, "picture file"))
