"""The drawing half of a model like GILL: a Stable Diffusion pipeline, prompted with embeddings instead of words."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atlas.errors import AtlasWarning, Unsupported, UsageError
from atlas.live.hooks import watching
from atlas.live.load.checkpoints import quiet
from atlas.live.load.fingerprint import fingerprint, stable_settings

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "diffusion"  # where a model's folder keeps the pipeline


class Painter:
    """Draws pictures with a diffusion pipeline.

    pipeline: a diffusers StableDiffusionPipeline (unet, vae, scheduler, text_encoder, tokenizer).
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Painter:
        """The pipeline in `<folder>/diffusion` of a model's folder, in float32 however it is stored.

        Raises:
            Unsupported: diffusers is not installed.
            UsageError: the folder has no pipeline.
        """
        try:
            with quiet():
                import diffusers
        except ImportError as error:
            raise Unsupported("drawing needs: pip install 'neuron-atlas[diffusion]'") from error
        source = Path(folder) / FOLDER
        diffusers.utils.logging.disable_progress_bar()
        try:
            with quiet():
                pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(
                    str(source.resolve(strict=True)), use_safetensors=True, local_files_only=True
                )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"cannot load '{source}' as a diffusion pipeline: {reason}") from error
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False)
        pipeline.text_encoder.float()  # the others are in float32 by themselves
        return cls(pipeline.to(device))

    @property
    def device(self) -> torch.device:
        """Where the diffusion model runs."""
        device: torch.device = self.pipeline.unet.device
        return device

    @cached_property
    def identity(self) -> str:
        """64 hex digits of the pipeline's weights, its parts' settings and its tokenizer."""
        parts = self.pipeline.components
        weights = [fingerprint(parts[name]) for name in ("unet", "vae", "text_encoder")]
        settings = [dict(getattr(parts[name], "config", {})) for name in ("unet", "vae", "scheduler")]
        backend = getattr(parts["tokenizer"], "backend_tokenizer", None)
        words = backend.to_str() if backend is not None else sorted(parts["tokenizer"].get_vocab().items())
        settings_of_all = stable_settings([weights, settings, parts["text_encoder"].config.to_dict(), words])
        return hashlib.sha256(json.dumps(settings_of_all, sort_keys=True, default=str).encode()).hexdigest()

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """(captions, tokens, width): the text encoder's output, what GILL's mapper is trained towards."""
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        encoded: Tensor = self.pipeline.text_encoder(ids.to(self.device))[0]
        return encoded

    @torch.no_grad()
    def paint(
        self, prompt_embeds: Tensor, *, seeds: Sequence[int], steps: int = 20, guidance: float = 2.5
    ) -> list[Image]:
        """One RGB picture for each row of prompt_embeds, (batch, queries, width).

        seeds: one for each; a picture's noise is drawn from its seed alone, so it is the same in any batch.
        guidance: weight of classifier-free guidance (Ho & Salimans 2022) against the empty caption; 1 is none.

        Raises:
            UsageError: another number of seeds than of rows, or no step.
        """
        return self.paint_watched(prompt_embeds, seeds=seeds, steps=steps, guidance=guidance)[0]

    @torch.no_grad()
    def paint_watched(
        self, prompt_embeds: Tensor, *, seeds: Sequence[int], steps: int, guidance: float
    ) -> tuple[list[Image], list[tuple[Tensor, Tensor]]]:
        """The pictures of `paint`, and for every step its time and the noisy latents, (batch, channel, height, width),
        that the diffusion model was given."""
        if len(seeds) != len(prompt_embeds):
            raise UsageError(f"{len(prompt_embeds)} pictures need one seed each, not {len(seeds)} seeds")
        if steps < 1:
            raise UsageError(f"a picture takes at least one step, not {steps}")
        if not len(seeds):
            return [], []
        empty = self.encode([""]).expand(len(prompt_embeds), -1, -1)
        steps_seen: list[tuple[Tensor, Tensor]] = []
        with watching(
            self.pipeline.unet, lambda args, kwargs: steps_seen.append(_step_inputs(args, kwargs, len(seeds)))
        ):
            output = self.pipeline(
                prompt_embeds=prompt_embeds.detach().to(self.device),
                negative_prompt_embeds=empty,
                num_inference_steps=steps,
                guidance_scale=guidance,
                latents=self._noise(seeds),
            )
        if blackened := sum(output.nsfw_content_detected or ()):
            warnings.warn(
                f"the safety checker of the diffusion pipeline blackened {blackened} of {len(seeds)} pictures",
                AtlasWarning,
                stacklevel=2,
            )
        drawn: list[Image] = output.images
        return drawn, steps_seen

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """Drawn on the CPU, so that a seed's picture does not depend on the device."""
        unet = self.pipeline.unet.config
        shape = (unet.in_channels, unet.sample_size, unet.sample_size)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(
            self.device
        )

    def predict_noise(self, latents: Tensor, time: Tensor, prompt_embeds: Tensor) -> Tensor:
        """The noise that the diffusion model predicts in latents at a time under a prompt; of the latents' shape."""
        noise: Tensor = self.pipeline.unet(latents, time, encoder_hidden_states=prompt_embeds).sample
        return noise


def _step_inputs(args: tuple[Any, ...], kwargs: dict[str, Any], count: int) -> tuple[Tensor, Tensor]:
    """The time and the last `count` latents: with guidance, those with the prompt come after those without."""
    latents, time = (*args, *(kwargs[k] for k in ("sample", "timestep") if k in kwargs))[:2]
    return torch.as_tensor(time), latents[-count:]
