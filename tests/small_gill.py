"""A random GILL and the diffusion pipeline beside it, built from config: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import TEMPLATE, tokenizer

from atlas.live.draw.diffusion import FOLDER
from atlas.live.draw.gill_model import GillConfig, GillForConditionalGeneration, GillProcessor

IMG = [f"[IMG{number}]" for number in range(8)]
WIDTH, QUERIES = 24, 5  # of the diffusion prompt


def words() -> Any:
    from tokenizers import AddedToken

    made = tokenizer({"image_token": "<image>"})
    made.add_tokens([AddedToken(token, lstrip=True, normalized=False) for token in IMG])
    made.padding_side = "left"
    return made


def build(tied: bool = False, seed: int = 0, heads: int = 2) -> tuple[Any, Any]:
    """A random GILL (2 layers of 64 neurons, d_model 32) and its processor."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, GenerationConfig, OPTConfig

    torch.manual_seed(seed)
    text = words()
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = GillConfig(
        text_config=OPTConfig(
            vocab_size=len(text),
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            init_std=0.3,
            tie_word_embeddings=tied,
            **ids,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        ),
        image_token_id=text.convert_tokens_to_ids("<image>"),
        mapper_width=16,
        mapper_encoder_layers=1,
        mapper_decoder_layers=2,
        mapper_heads=heads,
        mapper_ffn_dim=32,
        mapper_queries=QUERIES,
        prompt_width=WIDTH,
        initializer_range=0.3,
    )
    model = GillForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.generation_config = GenerationConfig(**ids, max_new_tokens=12, do_sample=False)
    side = {"height": 8, "width": 8}
    picture = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=side)
    return model, GillProcessor(picture, text, visual_tokens=4, chat_template=TEMPLATE)


def save_pipeline(folder: Path) -> Path:
    """Write a tiny random pipeline into a model's folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    text = tokenizer()
    text.model_max_length = QUERIES
    whole = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=[32, 32],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=4,
            sample_size=16,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(text),
                hidden_size=WIDTH,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=QUERIES,
            )
        ),
        tokenizer=text,
        unet=UNet2DConditionModel(
            block_out_channels=(32, 32),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    whole.to(torch.float16).save_pretrained(folder / FOLDER)
    return folder
