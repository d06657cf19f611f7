"""A random LLaVA of a few million parameters: 4 layers, d_model 256, 1,024 neurons a layer, 64 image tokens."""

from __future__ import annotations

from typing import Any

import torch

from atlas.live.encode import Prompt
from atlas.live.model import LiveModel

TEXT_TOKENS = 32


def middling_llava(width: int = 1024, image: int = 64) -> LiveModel:
    """width: neurons a layer. image: the picture's side in pixels; (image / 8)² tokens."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=image,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=2000,
            hidden_size=256,
            intermediate_size=width,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
        ),
        image_token_index=3,
        vision_feature_layer=-1,
    )
    return LiveModel(LlavaForConditionalGeneration(config), _Processor(), name="middling-llava")


class _Tokenizer:
    pad_token_id, eos_token_id, bos_token = 0, 2, None
    all_special_ids = (0, 1, 2)

    def __len__(self) -> int:
        return 2000

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<{token}>"


class _Processor:
    """Only what a batch of ready-made ids needs."""

    tokenizer: Any = _Tokenizer()


def prompts(count: int, image: int = 64) -> list[Prompt]:
    """Prompts of (image / 8)² image and 32 text tokens, the last four of them the answer."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        text = torch.randint(10, 2000, (TEXT_TOKENS,), generator=generator).tolist()
        pixels = torch.randn(1, 3, image, image, generator=generator)
        made.append(Prompt((*[3] * (image // 8) ** 2, *text[:-4]), tuple(text[-4:]), {"pixel_values": pixels}))
    return made
