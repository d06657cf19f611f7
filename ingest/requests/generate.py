"""A live model's answer, and what it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.query.option import REPEATED, described, option, required
from ingest.requests.options import LoadOptions, ModelOptions, load
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from atlas.edits.library import StoredEdit
    from atlas.live.media import Medium
    from atlas.live.model import LiveModel

MODEL = "tiny-llava"
"""The model that is asked where none is named."""


@dataclass(frozen=True)
class Generated:
    """text: the answer; a picture in it is `[picture]`. picture: None where the answer has none."""

    text: str
    picture: Image | None = None

    def __str__(self) -> str:
        return self.text


@described
class Generate(Request[Generated], LoadOptions, ModelOptions):
    """A live model's greedy answer, and what it draws.

    Raises:
        BadMedia: a picture, recording or video that is missing or cannot be read.
        Unsupported: a picture is wanted of a model that draws none.
    """

    prompt: str = required("What to ask the model.", "--prompt", "-p", kw_only=False)
    image: Sequence[str] | None = option(
        "A picture: a file, or DATASET:POINTER.", "--image", "-i", default=None, several=REPEATED
    )
    audio: Sequence[str] | None = option("A recording: a file, or DATASET:POINTER.", default=None, several=REPEATED)
    video: Sequence[str] | None = option(
        "A video: a file, a folder of pictures, or DATASET:POINTER.", default=None, several=REPEATED
    )
    max_new_tokens: int = option("The longest answer.", default=50, least=1)
    draw: Path | None = option("Save the picture that the answer asks for.", default=None)
    seed: int = option("Of the picture's noise.", default=0)

    def perform(self, path: Path | None = None, progress: Progress = silent) -> Generated:
        """path: not needed; no atlas is read."""
        media = self._media()
        answer = self._ask(load(self, MODEL), media)
        if self.draw is not None and answer.picture is not None:
            answer.picture.save(self.draw)
        return answer

    def compare(self, edit: StoredEdit) -> tuple[Generated, Generated]:
        """The answers without and with an edit, by the model that it was made for where none is named; their pictures
        are saved side by side."""
        media = self._media()
        model = edit.data.model
        live = load(self, str(model["name"]), model["revision"])
        without = self._ask(live, media)
        with edit.on(live):
            edited = self._ask(live, media)
        if self.draw is not None and (without.picture or edited.picture):
            from ingest.run.generate import side_by_side

            side_by_side([without.picture, edited.picture]).save(self.draw)
        return without, edited

    def _media(self) -> list[Medium]:
        """What the model is shown, read before it is loaded."""
        from ingest.run.generate import open_media, picture_file

        picture_file(self.draw)
        return open_media(self.image, self.audio, self.video)

    def _ask(self, live: LiveModel, media: Sequence[Medium]) -> Generated:
        from ingest.run.generate import generate_answer

        noise = self.seed if self.draw else None
        return Generated(*generate_answer(live, self.prompt, media, max_new_tokens=self.max_new_tokens, seed=noise))
