"""A model's own processor, also on machines without torchvision.

Processors with a video processor need torchvision, although their picture processors do not. They are made here without
it; models that read two frames a patch read videos through the picture processor instead.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from atlas.errors import Unsupported

NEEDS_TORCHVISION = "torchvision: pip install 'neuron-atlas[torchvision]'"


def load_processor(name: str | Path, revision: str | None, config: Any, **options: Any) -> Any:
    """The processor of a checkpoint, or its tokenizer where the model takes text only.

    Raises:
        Unsupported: it needs a package that is not installed; the message names it.
        OSError, ValueError: it cannot be read.
    """
    import transformers

    kind = processor_class(config)
    try:
        if kind is not None and _owns_video(kind) and not has_torchvision():
            return without_video(kind).from_pretrained(name, revision=revision)
        return transformers.AutoProcessor.from_pretrained(name, revision=revision, **options)
    except ImportError as error:
        raise Unsupported(f"the processor of '{name}' needs {_missing(error)}") from error
    except (OSError, ValueError) as error:
        if kind is not None:
            raise
        # A text model: what failed may have been the search for a picture processor.
        try:
            return transformers.AutoTokenizer.from_pretrained(name, revision=revision, **options)
        except (OSError, ValueError):
            raise error from None


def has_torchvision() -> bool:
    """Whether torchvision is installed."""
    return importlib.util.find_spec("torchvision") is not None


def _missing(error: ImportError) -> str:
    text = str(error)
    if "torchvision" in text.lower():
        return NEEDS_TORCHVISION
    if "num2words" in text:
        return "num2words: pip install 'neuron-atlas[smolvlm]'"
    return f"another package: {text.strip().splitlines()[0]}"


def processor_class(config: Any) -> Any | None:
    """The HuggingFace processor class of a model's family; None for one that takes text only."""
    from transformers.models.auto import processing_auto

    try:
        return processing_auto.PROCESSOR_MAPPING[type(config)]
    except KeyError:
        return None


def _owns_video(kind: Any) -> bool:
    return "video_processor" in kind.get_attributes()


def without_video(kind: Any) -> Any:
    """The same processor class without its video processor, for machines that have no torchvision.

    It loads, calls and saves as the original does. Where its picture processor has two frames a patch (the Qwen-VL
    families), it reads the frames: see `Frames`.
    """

    class NoVideo(kind):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @property
        def video_processor(self) -> Any:
            if hasattr(self.image_processor, "temporal_patch_size"):
                return Frames(self.image_processor)
            raise AttributeError("video_processor")

    if kind.__name__ == "SmolVLMProcessor":
        _without_required(NoVideo, kind)
    NoVideo.__name__ = kind.__name__  # saved as the processor's class
    return NoVideo


def _without_required(cls: Any, kind: Any) -> None:
    """SmolVLM's processor requires a video processor by position, and asks it for frames in every chat."""

    # Named parameters, as from_pretrained reads them from the function's code.
    def init(  # type: ignore[no-untyped-def]
        self, image_processor, tokenizer, video_processor=None, image_seq_len=169, chat_template=None, **kwargs
    ) -> None:
        kind.__init__(self, image_processor, tokenizer, video_processor, image_seq_len, chat_template, **kwargs)

    cls.__init__ = init
    cls.apply_chat_template = next(c for c in kind.__mro__[1:] if "apply_chat_template" in vars(c)).apply_chat_template


class Frames:
    """Replaces a Qwen-VL video processor: every `temporal_patch_size` frames share a patch, as there, but sizes
    and limits are those of the picture processor.

    Called with clips, each a list of pictures of one size; the last picture is repeated to fill its patches.
    """

    def __init__(self, pictures: Any):
        self.pictures = pictures
        self.merge_size, self.temporal_patch_size = pictures.merge_size, pictures.temporal_patch_size

    def __call__(self, videos: list[list[Any]], **_: Any) -> Any:
        from transformers import BatchFeature
        from transformers.video_utils import VideoMetadata

        clips = [self._clip(frames) for frames in videos]
        return BatchFeature(
            {
                "pixel_values_videos": np.concatenate([patches for patches, _ in clips]),
                "video_grid_thw": np.array([grid for _, grid in clips], dtype=np.int64),
                "video_metadata": [
                    VideoMetadata(total_num_frames=len(f), fps=1.0, frames_indices=list(range(len(f)))) for f in videos
                ],
            }
        )

    def _clip(self, frames: list[Any]) -> tuple[np.ndarray, list[int]]:
        """(patches, channel * frame * height * width) and the grid: patches in time, height and width."""
        depth = self.temporal_patch_size
        padded = [*frames, *[frames[-1]] * (-len(frames) % depth)]
        features = self.pictures(padded, return_tensors="np")
        grids = {tuple(grid) for grid in features["image_grid_thw"].tolist()}
        if len(grids) != 1:
            raise ValueError("the frames of a video have different sizes")
        [(_, rows, columns)] = grids
        side = self.pictures.patch_size
        # A picture fills all frames of its patches with itself: keep one, and put its neighbours' beside it.
        single = features["pixel_values"].reshape(len(padded), rows * columns, -1, depth, side * side)[:, :, :, 0]
        patches = single.reshape(-1, depth, *single.shape[1:]).transpose(0, 2, 3, 1, 4)
        steps = len(padded) // depth
        return patches.reshape(steps * rows * columns, -1), [steps, rows, columns]
