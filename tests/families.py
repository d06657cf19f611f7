"""Tiny random models of every real architecture that the project names, with their own processors: built from config,
nothing is downloaded. Each builder gives (model, processor)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXTS = "USER ASSISTANT : what is this ? a dog cat red barks meows describe the picture two dogs and one hot dog ."
SPECIALS = {
    "image_token": "<image>",
    "video_token": "<video>",
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    "image_wrapper_token": "<|image token|>",
    "eof_token": "<|extra_201|>",
    "eol_token": "<|extra_200|>",
}
VOCABULARY = 400
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FFN = {"intermediate_size": 64, "num_key_value_heads": 2}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WIDE = {"initializer_range": 0.2, "vocab_size": VOCABULARY, "max_position_embeddings": 512}
TEXT = {**SIZES, **FFN, **IDS, **WIDE}
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}

TEMPLATE = (
    "{{% for m in messages %}}{{{{ m['role'].upper() }}}}: {{% if m['content'] is string %}}{{{{ m['content'] }}}}"
    "{{% else %}}{{% for c in m['content'] %}}"
    "{{% if c['type'] == 'image' %}}{image}{{% elif c['type'] == 'video' %}}{video}"
    "{{% elif c['type'] == 'audio' %}}{audio}{{% else %}}{{{{ c['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}} "
    "{{% endfor %}}{{% if add_generation_prompt %}}ASSISTANT:{{% endif %}}"
)


def template(image: str = "<image>", video: str = "<video>", audio: str = "<|AUDIO|>") -> str:
    return TEMPLATE.format(image=image, video=video, audio=audio)


def words(*, known: bool = True) -> Any:
    """A byte-level tokenizer; `known`: it has an attribute `image_token` and the like, as newer ones have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<pad>", "<s>", "</s>", *SPECIALS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TEXTS] * 4, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=SPECIALS if known else {},
        clean_up_tokenization_spaces=False,
    )


def token(text: Any, name: str) -> int:
    return int(text.convert_tokens_to_ids(SPECIALS[name]))


def ready(model: Any) -> Any:
    """In evaluation mode, with the ids that generation stops at, biases that are not zero, and towers and projectors
    large enough for what is seen or heard to matter."""
    import torch

    model = model.eval()
    spoken = set(model.get_decoder().parameters()) | {model.get_output_embeddings().weight}
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim > 1 and ("vqmodel" in key or parameter not in spoken):
            torch.nn.init.normal_(parameter, std=0.2)
    for config in (
        model.generation_config,
        *(m.generation_config for m in model.children() if hasattr(m, "generation_config")),
    ):
        config.eos_token_id, config.pad_token_id, config.bos_token_id = 2, 0, 1
    return model


def squares(side: int = 8) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def llava() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**TOWER),
        text_config=t.LlamaConfig(**TEXT),
        image_token_index=token(text, "image_token"),
        vision_feature_layer=-1,
    )
    processor = t.LlavaProcessor(
        t.CLIPImageProcessorPil(**squares()),
        text,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template(),
    )
    return ready(t.LlavaForConditionalGeneration(config)), processor


def fastvlm() -> tuple[Any, Any]:
    """7 x 7 tokens a picture, by a narrow EfficientNet of transformers (its own tower needs timm)."""
    import torch
    import transformers as t

    text = words()
    narrow = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}
    tower = t.EfficientNetConfig(image_size=224, hidden_act="relu6", **narrow)
    tower.hidden_size = 128
    config = t.FastVlmConfig(
        vision_config=tower,
        text_config=t.LlamaConfig(**TEXT),
        image_token_index=token(text, "image_token"),
        image_seq_length=49,
    )
    pictures = t.CLIPImageProcessorPil(size={"height": 224, "width": 224}, do_center_crop=False)
    processor = t.LlavaProcessor(
        pictures,
        text,
        patch_size=32,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=template(),
    )
    model = ready(t.FastVlmForConditionalGeneration(config))
    for norm in model.modules():  # as after training; at first its scales are 0.02, and little gets through
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(norm.weight)
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return model, processor


def llava_next() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**TOWER),
        text_config=t.LlamaConfig(**TEXT),
        image_token_index=token(text, "image_token"),
        image_grid_pinpoints=[[8, 16], [16, 8], [16, 16]],
        vision_feature_layer=-1,
    )
    pictures = t.LlavaNextImageProcessorPil(**squares(), image_grid_pinpoints=[[8, 16], [16, 8], [16, 16]])
    processor = t.LlavaNextProcessor(
        pictures,
        text,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template(),
    )
    return ready(t.LlavaNextForConditionalGeneration(config)), processor


def llava_onevision() -> tuple[Any, Any]:
    import transformers as t

    from atlas.live.load.processors import without_video

    text = words()
    grid = [[8, 8], [8, 16], [16, 8], [16, 16]]
    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**TOWER),
        text_config=t.Qwen2Config(**TEXT),
        image_token_index=token(text, "image_token"),
        video_token_index=token(text, "video_token"),
        image_grid_pinpoints=grid,
        vision_aspect_ratio="anyres_max_9",
        vision_feature_layer=-1,
    )
    pictures = t.LlavaOnevisionImageProcessorPil(size={"height": 8, "width": 8}, image_grid_pinpoints=grid)
    processor = without_video(t.LlavaOnevisionProcessor)(
        pictures, text, num_image_tokens=4, vision_feature_select_strategy="full", chat_template=template()
    )
    return ready(t.LlavaOnevisionForConditionalGeneration(config)), processor


def _qwen(name: str, vision: dict[str, Any], text_more: dict[str, Any], patch: int = 4) -> tuple[Any, Any]:
    import transformers as t

    from atlas.live.load.processors import without_video

    text = words()
    names = ("vision_start", "vision_end", "image", "video")
    ids = {f"{part}_token_id": token(text, f"{part}_token") for part in names}
    config = getattr(t, f"{name}Config")(text_config={**TEXT, **text_more}, vision_config=vision, **IDS, **ids)
    pictures = t.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 64, "longest_edge": 1024}, patch_size=patch, merge_size=2, temporal_patch_size=2
    )
    wrapped = "<|vision_start|>{}<|vision_end|>"
    video = "<video>" if name.startswith("Qwen3") else wrapped.format("<video>")
    processor = without_video(getattr(t, f"{name}Processor"))(
        pictures, text, chat_template=template(wrapped.format("<image>"), video)
    )
    return ready(getattr(t, f"{name}ForConditionalGeneration")(config)), processor


MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}


def qwen2_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    return _qwen("Qwen2VL", {**vision, "spatial_merge_size": 2, "temporal_patch_size": 2}, MROPE)


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    more = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16}
    return _qwen("Qwen2_5_VL", {**vision, **more, "fullatt_block_indexes": [1]}, MROPE)


def qwen3_vl(layers: int = 2) -> tuple[Any, Any]:
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    more = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16}
    rope = {"rope_parameters": {**MROPE["rope_parameters"], "mrope_interleaved": True}, "head_dim": 16}
    rope["num_hidden_layers"] = layers
    return _qwen("Qwen3VL", {**vision, **more, "deepstack_visual_indexes": [0, 1]}, rope)


def qwen2_audio() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    config = t.Qwen2AudioConfig(
        audio_config=t.Qwen2AudioEncoderConfig(
            num_mel_bins=16,
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            max_source_positions=50,
        ),
        text_config=t.Qwen2Config(**TEXT),
        audio_token_index=token(text, "audio_token"),
    )
    extractor = t.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    sound = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    processor = t.Qwen2AudioProcessor(extractor, text, chat_template=template(audio=sound))
    return ready(t.Qwen2AudioForConditionalGeneration(config)), processor


def _blip(name: str, language: Any) -> Any:
    import torch
    import transformers as t

    tower = {
        key: TOWER[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    config = getattr(t, f"{name}Config")(
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        qformer_config={**tower, "encoder_hidden_size": 16, "vocab_size": VOCABULARY},
        text_config=language.to_dict(),
        num_query_tokens=4,
        image_token_index=3,
    )
    model = ready(getattr(t, f"{name}ForConditionalGeneration")(config))
    torch.nn.init.normal_(model.query_tokens)
    return model


def instructblip() -> tuple[Any, Any]:
    import transformers as t

    model = _blip("InstructBlip", t.LlamaConfig(**TEXT))
    pictures = t.BlipImageProcessorPil(size={"height": 8, "width": 8})
    return model, t.InstructBlipProcessor(pictures, words(known=False), words(known=False), num_query_tokens=4)


def blip2_llama() -> tuple[Any, Any]:
    import transformers as t

    model = _blip("Blip2", t.LlamaConfig(**TEXT))
    return model, t.Blip2Processor(t.BlipImageProcessorPil(size={"height": 8, "width": 8}), words(known=False), 4)


OPT_SIZES: dict[str, Any] = {
    **SIZES,
    **IDS,
    "ffn_dim": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "word_embed_proj_dim": 32,
    "init_std": 0.2,
}


def blip2_opt() -> tuple[Any, Any]:
    import transformers as t

    model = _blip("Blip2", t.OPTConfig(**OPT_SIZES))
    return model, t.Blip2Processor(t.BlipImageProcessorPil(size={"height": 8, "width": 8}), words(known=False), 4)


def _idefics(name: str, processor_class: Any, pictures: Any, text: Any) -> tuple[Any, Any]:
    import transformers as t

    config = getattr(t, f"{name}Config")(
        vision_config={**TOWER, "initializer_range": 0.2},
        text_config=t.LlamaConfig(**TEXT),
        image_token_id=token(text, "image_token"),
        scale_factor=2,
        pad_token_id=0,
    )
    processor = processor_class(pictures, text, image_seq_len=1, chat_template=template())
    return ready(getattr(t, f"{name}ForConditionalGeneration")(config)), processor


def idefics3() -> tuple[Any, Any]:
    import transformers as t

    pictures = t.Idefics3ImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 8})
    return _idefics("Idefics3", t.Idefics3Processor, pictures, words())


def smolvlm() -> tuple[Any, Any]:
    import transformers as t

    from atlas.live.load.processors import without_video

    pictures = t.SmolVLMImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 8})
    return _idefics("SmolVLM", without_video(t.SmolVLMProcessor), pictures, words())


def paligemma() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    config = t.PaliGemmaConfig(
        vision_config={**TOWER, "projection_dim": 32, "model_type": "siglip_vision_model"},
        text_config=t.GemmaConfig(**TEXT, head_dim=16),
        image_token_index=token(text, "image_token"),
        projection_dim=32,
    )
    pictures = t.SiglipImageProcessorPil(size={"height": 8, "width": 8})
    pictures.image_seq_length = 4
    return ready(t.PaliGemmaForConditionalGeneration(config)), t.PaliGemmaProcessor(pictures, text)


def gemma3() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    config = t.Gemma3Config(
        vision_config={**TOWER, "model_type": "siglip_vision_model"},
        text_config=t.Gemma3TextConfig(**TEXT, head_dim=16, sliding_window=64),
        image_token_index=token(text, "image_token"),
        boi_token_index=token(text, "boi_token"),
        eoi_token_index=token(text, "eoi_token"),
        mm_tokens_per_image=4,
    )
    pictures = t.Gemma3ImageProcessorPil(size={"height": 8, "width": 8})
    processor = t.Gemma3Processor(pictures, text, image_seq_length=4, chat_template=template("<boi>"))
    return ready(t.Gemma3ForConditionalGeneration(config)), processor


def internvl() -> tuple[Any, Any]:
    import transformers as t

    from atlas.live.load.processors import without_video

    text = words()
    config = t.InternVLConfig(
        vision_config={**TOWER, "image_size": [8, 8], "patch_size": [4, 4], "initializer_range": 0.2},
        text_config=t.Qwen2Config(**TEXT),
        image_token_id=token(text, "context_image_token"),
        downsample_ratio=0.5,
    )
    pictures = t.GotOcr2ImageProcessorPil(
        size={"height": 8, "width": 8}, min_patches=1, max_patches=4, crop_to_patches=True
    )
    processor = without_video(t.InternVLProcessor)(
        pictures, text, image_seq_length=1, chat_template=template("<IMG_CONTEXT>")
    )
    return ready(t.InternVLForConditionalGeneration(config)), processor


VQ: dict[str, Any] = {"embed_dim": 8, "num_embeddings": 16, "in_channels": 3, "out_channels": 3, "num_res_blocks": 1}


def chameleon() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    names = {f"IMGIMG{''.join('ABCDEFGHIJ'[int(d)] for d in str(i))}Z": 360 + i for i in range(16)}
    config = t.ChameleonConfig(
        **TEXT,
        vq_config={**VQ, "latent_channels": 8, "resolution": 16, "base_channels": 32, "channel_multiplier": [1, 1]},
        vocabulary_map={"<image>": token(text, "image_token"), **names},
        image_token_id=token(text, "image_token"),
    )
    pictures = t.ChameleonImageProcessorPil(**squares(16))
    processor = t.ChameleonProcessor(pictures, text, image_seq_length=64, image_token="<image>")
    processor.chat_template = template()
    return ready(t.ChameleonForConditionalGeneration(config)), processor


def janus() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    # 24 x 24 image tokens, as its processor says whatever the model.
    tower = {**TOWER, "image_size": 96, "mlp_ratio": 2, "projection_dim": 32, "depth": 2, "hidden_dropout_rate": 0.0}
    tower["num_image_tokens"] = 576
    config = t.JanusConfig(
        text_config=t.LlamaConfig(**{**TEXT, "max_position_embeddings": 2048}),
        vision_config=tower,
        vq_config={
            **VQ,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "projection_dim": 32,
            "image_token_embed_dim": 32,
            "num_patches": 4,
        },
        image_token_id=token(text, "image_token"),
    )
    pictures = t.JanusImageProcessorPil(size={"height": 96, "width": 96}, min_size=4)
    processor = t.JanusProcessor(pictures, text, chat_template=template())
    return ready(t.JanusForConditionalGeneration(config)), processor


def emu3() -> tuple[Any, Any]:
    import transformers as t

    text = words()
    names = {f"<|visual token {i:06d}|>": 350 + i for i in range(16)}
    names |= {"<image>": token(text, "image_token"), SPECIALS["eol_token"]: token(text, "eol_token")}
    config = t.Emu3Config(
        text_config=t.Emu3TextConfig(**TEXT),
        vq_config={
            **VQ,
            "codebook_size": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "hidden_size": 32,
            "attn_resolutions": [1],
            "temporal_downsample_factor": 1,
        },
        vocabulary_map=names,
    )
    pictures = t.Emu3ImageProcessor(min_pixels=256, max_pixels=1024, spatial_factor=8)
    return ready(t.Emu3ForConditionalGeneration(config)), t.Emu3Processor(pictures, text, chat_template=template())


def gill() -> tuple[Any, Any]:
    import small_gill

    return small_gill.build()


def opt() -> tuple[Any, Any]:
    import transformers as t

    return ready(t.OPTForCausalLM(t.OPTConfig(**OPT_SIZES))), words()


def llama() -> tuple[Any, Any]:
    import transformers as t

    return ready(t.LlamaForCausalLM(t.LlamaConfig(**TEXT))), words()


def llama_gguf() -> tuple[Any, Any]:
    """The same from a GGUF file of 8-bit numbers."""
    import tempfile
    import warnings

    from gguf_files import build_llama, write_gguf

    from atlas.live.load.checkpoints import Loading, load

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are dequantised
        model, tokenizer, _ = load(write_gguf(Path(folder) / "llama.gguf", *build_llama(), kind="Q8_0"), Loading())
    return ready(model), tokenizer


def gpt2() -> tuple[Any, Any]:
    import transformers as t

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64, "n_positions": 512, "initializer_range": 0.2}
    return ready(t.GPT2LMHeadModel(t.GPT2Config(**sizes, vocab_size=VOCABULARY, **IDS))), words()


FAMILIES: dict[str, tuple[str, Callable[[], tuple[Any, Any]]]] = {
    "LLaVA": ("image", llava),
    "FastVLM": ("image", fastvlm),
    "LLaVA-NeXT": ("image", llava_next),
    "LLaVA-OneVision": ("image", llava_onevision),
    "Qwen2-VL": ("image", qwen2_vl),
    "Qwen2.5-VL": ("image", qwen2_5_vl),
    "Qwen3-VL": ("image", qwen3_vl),
    "Qwen2-Audio": ("audio", qwen2_audio),
    "InstructBLIP": ("image", instructblip),
    "BLIP-2 (Llama)": ("image", blip2_llama),
    "BLIP-2 (OPT)": ("image", blip2_opt),
    "Idefics3": ("image", idefics3),
    "SmolVLM": ("image", smolvlm),
    "PaliGemma": ("image", paligemma),
    "Gemma3": ("image", gemma3),
    "InternVL": ("image", internvl),
    "Chameleon": ("image", chameleon),
    "Janus": ("image", janus),
    "Emu3": ("image", emu3),
    "GILL": ("image", gill),
    "OPT": ("text", opt),
    "Llama": ("text", llama),
    "Llama (GGUF)": ("text", llama_gguf),
    "GPT-2": ("text", gpt2),
}


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    import torch

    torch.manual_seed(seed)
    return FAMILIES[name][1]()
