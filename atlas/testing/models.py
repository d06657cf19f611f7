"""Tiny random models of real architectures, built from their configurations: nothing is downloaded."""

from __future__ import annotations

from typing import Any

WORDS = "USER ASSISTANT : what is this ? a dog cat red barks meows describe the picture two dogs and one hot dog ."


def tokenizer(extra: dict[str, str] | None = None) -> Any:
    """A small byte-level BPE tokenizer. extra: names of more special tokens, such as image_token -> the token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=extra or {},
        clean_up_tokenization_spaces=False,
    )


TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_llava(hidden_act: str = "silu", seed: int = 0, side: int = 8) -> tuple[Any, Any]:
    """A random LLaVA (2 layers, d_model 32, 64 neurons a layer, 4 image tokens) and its processor.

    side: of its pictures, in pixels; (side / 4)² tokens."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(seed)
    text = tokenizer({"image_token": "<image>"})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=4,
        ),
        text_config=LlamaConfig(
            vocab_size=len(text),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            hidden_act=hidden_act,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        image_token_index=text.image_token_id,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    pictures = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        pictures,
        text,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return model, processor


def build_opt(seed: int = 0) -> tuple[Any, Any]:
    """A random OPT: plain ReLU FFN with biases, whose fc2 sees (batch * position, neurons)."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    text = tokenizer()
    config = OPTConfig(
        vocab_size=len(text),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        init_std=0.2,
    )
    model = OPTForCausalLM(config).eval()
    for name, parameter in model.named_parameters():  # biases start at zero, which would hide their mistakes
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model, text
