"""Random encoders of real architectures in folders: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def words() -> Any:
    """A tokenizer of whole letters, as BERT's: [CLS] and [SEP] around, [PAD] behind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz,;"]
    raw = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="[SEP]", **names)


def bert(folder: Path, seed: int = 0) -> Path:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(vocab_size=32, max_position_embeddings=24, initializer_range=0.3, **SIZES)
    return saved(folder, BertModel(config), words())


def clip(folder: Path, seed: int = 0) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(seed)
    text = {**SIZES, "vocab_size": 32, "max_position_embeddings": 24, "eos_token_id": 3, "pad_token_id": 0}
    text |= {"bos_token_id": 2, "initializer_range": 0.3}
    vision = {**SIZES, "image_size": 8, "patch_size": 4, "initializer_range": 0.3}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return saved(folder, model, words(), pictures)


def clap(folder: Path, seed: int = 0, *, fused: bool = False) -> Path:
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(seed)
    text = {**SIZES, "vocab_size": 32, "max_position_embeddings": 26, "pad_token_id": 0, "initializer_range": 0.3}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]}
    audio |= {"num_hidden_layers": 2, "window_size": 2, "spec_size": 16, "num_mel_bins": 8, "patch_size": 2}
    audio |= {"patch_stride": [2, 2], "enable_fusion": fused, "num_classes": 4, "initializer_range": 0.3}
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12))
    extractor = ClapFeatureExtractor(
        feature_size=8,
        sampling_rate=8000,
        hop_length=320,
        fft_window_size=512,
        max_length_s=1,
        frequency_max=4000,
        truncation="fusion" if fused else "rand_trunc",
    )
    return saved(folder, model, words(), extractor)


def saved(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder
