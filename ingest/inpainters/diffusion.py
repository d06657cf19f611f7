"""Any diffusers inpainting pipeline, by HuggingFace id or folder, seeded; what is outside the region stays as it is."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import Unsupported, UsageError
from atlas.live.pixels import rgb

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Dataset


class Diffusion:
    """See the module. model, revision, prompt, steps, guidance, size, device: as in `build`."""

    cached = True

    def __init__(self, model: str, revision: str, prompt: str, steps: int, guidance: float, size: int, device: str):
        if not model:
            raise UsageError("the diffusion inpainter needs a pipeline: [[inpainting=model=ID_OR_FOLDER]]")
        if steps < 1 or size < 0 or size % 8:
            raise UsageError("diffusion: steps must be at least 1, size 0 or a multiple of 8")
        self.model, self.revision, self.prompt, self.device = model, revision, prompt, device
        self.steps, self.guidance, self.size = steps, guidance, size

    @cached_property
    def pipeline(self) -> Any:
        """The diffusers pipeline, loaded when first used."""
        try:
            import diffusers
        except ImportError as error:
            raise Unsupported(
                "the diffusion inpainter needs diffusers: pip install 'neuron-atlas[diffusion]'"
            ) from error
        try:
            loaded: Any = diffusers.AutoPipelineForInpainting.from_pretrained(
                self.model, revision=self.revision or None
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"cannot load '{self.model}' as an inpainting pipeline: {reason}") from error
        loaded.set_progress_bar_config(disable=True)
        return loaded.to(self.device)

    def fill(self, picture: Image, region: np.ndarray, *, dataset: Dataset, media: str, seed: int) -> Image:
        import torch
        from PIL import Image

        mask = Image.fromarray(region.astype(np.uint8) * 255)
        width, height = (self.size or max(8, round(side / 8) * 8) for side in picture.size)
        side = (width, height)
        filled = self.pipeline(
            prompt=self.prompt,
            image=picture.resize(side),
            mask_image=mask.resize(side, Image.Resampling.NEAREST),
            width=width,
            height=height,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        filled_pixels = np.asarray(rgb(filled).resize(picture.size))
        return Image.fromarray(np.where(region[..., None], filled_pixels, np.asarray(picture)))


def build(
    *,
    model: str = "",
    revision: str = "",
    prompt: str = "background",
    steps: int = 30,
    guidance: float = 7.5,
    size: int = 0,
    device: str = "cpu",
) -> Diffusion:
    """model: a diffusers inpainting pipeline, HuggingFace id or folder. prompt: what to fill the region with. size: the
    working size in pixels, 0 for the picture's own."""
    return Diffusion(model, revision, prompt, steps, guidance, size, device)
