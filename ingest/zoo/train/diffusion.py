"""A small latent diffusion model with a text encoder of its own: an autoencoder first, then the denoiser."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ingest.zoo.train.drawing import SIDE, WORDS, Sketches, caption_ids, unit
from ingest.zoo.train.language import parameter_groups, rate_at, set_rate

WIDTH = 64  # numbers of a caption token's encoding
KL = 1e-5


@dataclass(frozen=True, slots=True)
class DiffusionOptions:
    """pictures: how many different ones are trained on. sharpening: steps of the decoder alone, on latents (of unit
    variance) with this blur. uncaptioned: part of the denoiser's examples whose caption
    is empty, for classifier-free guidance. unsaid: part of the captions that leave the colour out, and the background.
    average: decay of the moving average of weights that is kept."""

    pictures: int = 14400
    coder_steps: int = 1400
    coder_batch: int = 40
    coder_rate: float = 1.5e-3
    sharpening: int = 2400
    blur: float = 0.1
    steps: int = 1800
    batch: int = 96
    rate: float = 1.2e-3
    decay: float = 0.01
    uncaptioned: float = 0.1
    unsaid: float = 0.25
    average: float = 0.996


def build_pipeline(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """Untrained. Latents are (4, 8, 8)."""
    torch.manual_seed(seed)
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # diffusers warns of any other
    )
    return StableDiffusionPipeline(
        vae=_coder(),
        unet=_denoiser(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _coder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )


def _denoiser() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )


def _text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        projection_dim=WIDTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


def train_coder(
    coder: Any, sketches: Sketches, options: DiffusionOptions, seed: int, log: Callable[[str], None]
) -> None:
    """The autoencoder on its own: L1 + L2 + KL. Its scaling factor makes latents of unit variance."""
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(parameter_groups(coder.parameters(), options.decay), betas=(0.9, 0.98), fused=True)
    coder.train()
    for step in range(options.coder_steps):
        set_rate(optimiser, options.coder_rate * rate_at(step, options.coder_steps))
        pixels = unit(sketches.pixels[torch.randint(len(sketches), (options.coder_batch,)).numpy()])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = coder.encode(pixels).latent_dist
            drawn = coder.decode(posterior.sample()).sample
        error = drawn.float() - pixels
        divergence = (
            0.5
            * (posterior.mean.float().pow(2) + posterior.var.float() - 1 - posterior.logvar.float())
            .sum((1, 2, 3))
            .mean()
        )
        torch.autograd.backward(error.abs().mean() + error.pow(2).mean() + KL * divergence)
        nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == options.coder_steps - 1:
            log(f"autoencoder step {step}: off by {error.abs().mean().item():.4f}, kl {divergence.item():.0f}")
    coder.eval()
    means, spread = encode(coder, sketches)
    coder.register_to_config(scaling_factor=1 / float((means + spread * torch.randn_like(means)).std()))


def sharpen_decoder(
    coder: Any, sketches: Sketches, options: DiffusionOptions, seed: int, log: Callable[[str], None]
) -> None:
    """The decoder alone, on the latents as they now are and blurred by more noise than the encoder's own, as what the
    denoiser finds will be off by some."""
    torch.manual_seed(seed)
    means, spread = encode(coder, sketches)
    blurs = (spread.square() + (options.blur / coder.config.scaling_factor) ** 2).sqrt()
    learned = [*coder.post_quant_conv.parameters(), *coder.decoder.parameters()]
    optimiser = torch.optim.AdamW(parameter_groups(learned, options.decay), betas=(0.9, 0.98), fused=True)
    coder.train()
    for step in range(options.sharpening):
        set_rate(optimiser, options.coder_rate * rate_at(step, options.sharpening))
        chosen = torch.randint(len(sketches), (options.coder_batch,)).numpy()
        latents = means[chosen] + blurs[chosen] * torch.randn(len(chosen), *means.shape[1:])
        with torch.autocast("cpu", torch.bfloat16):
            drawn = coder.decode(latents).sample
        error = drawn.float() - unit(sketches.pixels[chosen])
        torch.autograd.backward(error.abs().mean() + error.pow(2).mean())
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == options.sharpening - 1:
            log(f"decoder step {step}: off by {error.abs().mean().item():.4f}")
    coder.eval()


@torch.no_grad()
def encode(coder: Any, sketches: Sketches, batch: int = 256) -> tuple[Tensor, Tensor]:
    """(pictures, 4, 8, 8) means and spreads of the latents, before scaling."""
    posteriors = [
        coder.encode(unit(sketches.pixels[start : start + batch])).latent_dist
        for start in range(0, len(sketches), batch)
    ]
    return torch.cat([part.mean for part in posteriors]), torch.cat([part.std for part in posteriors])


def train_denoiser(
    pipeline: Any,
    sketches: Sketches,
    options: DiffusionOptions,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Denoiser and text encoder together, on latents that are encoded once; the mean of late weights is kept."""
    torch.manual_seed(seed)
    rng = random.Random(f"denoiser {seed}")
    means, spread = encode(pipeline.vae, sketches)
    scale = pipeline.vae.config.scaling_factor
    learned = nn.ModuleList([pipeline.unet, pipeline.text_encoder])
    averaged = [weight.detach().clone() for weight in learned.parameters()]
    optimiser = torch.optim.AdamW(parameter_groups(learned.parameters(), options.decay), betas=(0.9, 0.98), fused=True)
    learned.train()
    for step in range(options.steps):
        set_rate(optimiser, options.rate * rate_at(step, options.steps))
        chosen = rng.choices(range(len(sketches)), k=options.batch)
        captions = [
            ""
            if rng.random() < options.uncaptioned
            else sketches.drawings[number].shortened(rng, options.unsaid).caption
            for number in chosen
        ]
        latents = scale * (means[chosen] + spread[chosen] * torch.randn(len(chosen), *means.shape[1:]))
        loss = _velocity_loss(pipeline, latents, caption_ids(pipeline.tokenizer, captions))
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(options.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [weight.detach() for weight in learned.parameters()], 1 - decay)
        if step % 100 == 0 or step == options.steps - 1:
            log(f"denoiser step {step}: {loss.item():.4f}")
    with torch.no_grad():
        for weight, mean in zip(learned.parameters(), averaged, strict=True):
            weight.copy_(mean)
    learned.eval()


def _velocity_loss(pipeline: Any, latents: Tensor, ids: Tensor) -> Tensor:
    noise = torch.randn_like(latents)
    times = torch.randint(pipeline.scheduler.config.num_train_timesteps, (len(latents),))
    with torch.autocast("cpu", torch.bfloat16):
        encoded = pipeline.text_encoder(ids).last_hidden_state
        predicted = pipeline.unet(pipeline.scheduler.add_noise(latents, noise, times), times, encoded).sample
    loss: Tensor = (predicted.float() - pipeline.scheduler.get_velocity(latents, noise, times)).pow(2).mean()
    return loss


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Written in half precision, to be small; it is loaded and run in full."""
    pipeline.to(torch.float16).save_pretrained(folder)
    pipeline.to(torch.float32)
