"""Checkpoints of families that HuggingFace does not have, written as folders that it loads.

MiniGPT-4 (Zhu et al. 2023) is BLIP-2's eyes and a Llama language model with one trained projection between them; GILL
(Koh et al. 2023) is OPT and CLIP with trained projections, eight token embeddings and a mapper. Their authors publish
only what they trained, as torch files. `atlas.live.bake.torch_file` reads these, and never anything in them but
tensors (`weights_only`); what is written is safetensors and JSON.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.bake.torch_file import read_torch
from atlas.live.draw.diffusion import FOLDER
from atlas.live.load.completeness import is_model, read_weights
from atlas.live.load.load_errors import explain_load_errors

MINIGPT4_TEMPLATE = (  # its own dialogue; IMAGE is as many placeholders as there are queries
    "{% for m in messages %}{{ '###Human: ' if m['role'] == 'user' else '###Assistant: ' }}"
    "{{ m['content'] | replace('<image>', '<Img>IMAGE</Img> ') }}"
    "{% endfor %}{% if add_generation_prompt %}###Assistant:{% endif %}"
)
GILL_IMAGE = "<|image|>"
GILL_TEMPLATE = (  # pictures come before the first token of the text, in training as in inference
    "{% for m in messages %}"
    "{% set parts = [{'type': 'text', 'text': m['content']}] if m['content'] is string else m['content'] %}"
    "{% for part in parts if part['type'] == 'image' %}IMAGE{% endfor %}"
    "{{ (bos_token or '') if loop.first }}{{ ' ' if m['role'] == 'assistant' }}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endfor %}"
).replace("IMAGE", GILL_IMAGE)
IMG = tuple(f"[IMG{n}]" for n in range(8))
ROWS = "model.input_embeddings.weight"
MAPPER = "model.gen_text_hidden_fcs.0"


def _part(loader: Any, folder: Path, what: str) -> Any:
    """Load a part with transformers from a folder; a model must have every weight, but may be part of a larger one."""
    with explain_load_errors(folder, what):
        if is_model(loader):
            return read_weights(loader, folder, part=True)
        return loader.from_pretrained(folder)


def _check_free(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"the folder {out} is not empty; give another [[out]]")


@torch.no_grad()
def _copy_into(parameter: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
    if name not in tensors or tensors[name].shape != parameter.shape:
        stored = tuple(tensors[name].shape) if name in tensors else "none"
        raise UsageError(
            f"the checkpoint's {name} is {stored}, but these parts need {tuple(parameter.shape)}; give the parts that "
            "it was trained with"
        )
    parameter.copy_(tensors[name])


def _single_token(tokenizer: Any, text: str) -> list[int]:
    """The text's token in a list, where it is one token; else an empty list."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return list(ids) if len(ids) == 1 else []


def _separators(tokenizer: Any) -> list[int]:
    """The tokens with which "###" begins after a word, a space and a line's end.

    For Llama these are "\u2581###", and "##" where "###" is "##" and "#". A tokenizer that spells it with single "#"
    has none that ends only answers.
    """
    ids: list[int] = []
    for before in ("x", "x ", "x\n"):
        short, long = (tokenizer(text, add_special_tokens=False).input_ids for text in (before, f"{before}###"))
        same = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
        if tokenizer.decode([long[same]]).strip() in ("##", "###"):
            ids.append(long[same])
    return ids


def _ends(before: int | Sequence[int] | None, more: Sequence[int]) -> list[int]:
    """The ids that end an answer: those of `before`, then those of `more`."""
    known = [] if before is None else [before] if isinstance(before, int) else list(before)
    return list(dict.fromkeys([*known, *more]))


def minigpt4(checkpoint: Path, blip2: Path, language: Path, out: Path) -> None:
    """Write MiniGPT-4 as a BLIP-2 with a Llama language model.

    checkpoint: the official file, from which `llama_proj` is read. blip2: the folder of the BLIP-2 that it was trained
    with (for the official files, blip2-flan-t5-xxl), from which vision tower, Q-Former and queries are taken.
    language: the Llama (Vicuna) folder.

    Its answers end at "###", as in the official demo, which looks for two spellings of it: the token "\u2581###", and
    "##" followed by "#". Generation ends at single tokens: in the second spelling the first, "##", ends an answer.

    Raises:
        UsageError: a part cannot be read, or the projection has other widths.
    """
    import transformers

    _check_free(out)
    tensors = read_torch(checkpoint, "model")
    eyes = _part(transformers.Blip2ForConditionalGeneration, blip2, "the eyes")
    words = _part(transformers.AutoModelForCausalLM, language, "the language model")
    tokenizer = _part(transformers.AutoTokenizer, language, "the tokenizer")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    words.resize_token_embeddings(max(len(tokenizer), words.config.vocab_size))
    ends = _ends(words.generation_config.eos_token_id, _separators(tokenizer))
    words.config.eos_token_id = ends  # with a picture, BLIP-2 reads the language model's own
    queries = eyes.config.num_query_tokens
    config = transformers.Blip2Config(
        vision_config=eyes.config.vision_config.to_dict(),
        qformer_config=eyes.config.qformer_config.to_dict(),
        text_config=words.config.to_dict(),
        num_query_tokens=queries,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = transformers.Blip2ForConditionalGeneration(config)
    model.vision_model.load_state_dict(eyes.vision_model.state_dict())
    model.qformer.load_state_dict(eyes.qformer.state_dict())
    model.query_tokens.data.copy_(eyes.query_tokens)
    model.language_model.load_state_dict(words.state_dict())
    for name in ("weight", "bias"):
        _copy_into(getattr(model.language_projection, name), tensors, f"llama_proj.{name}")
    model.generation_config = words.generation_config
    model.generation_config.eos_token_id = ends
    pictures = _part(transformers.AutoImageProcessor, blip2, "the picture processor")
    tokenizer.chat_template = MINIGPT4_TEMPLATE.replace("IMAGE", "<image>" * queries)
    model.save_pretrained(out)
    # Without a number of queries the processor adds none: the dialogue has them already.
    transformers.Blip2Processor(pictures, tokenizer, None).save_pretrained(out)


def gill(checkpoint: Path, language: Path, vision: Path, diffusion: Path, out: Path) -> None:
    """Write GILL as a folder of this project's `atlas.live.draw.gill_model` and a diffusion pipeline.

    checkpoint: the official folder, with pretrained_ckpt.pth.tar and model_args.json. language: OPT. vision: CLIP.
    diffusion: the Stable Diffusion pipeline's folder. The retrieval head and the decision model are left out.

    A prompt is its pictures, then the tokenizer's first token, then the text. Answers end at the end of a line, where
    the official code cuts them (it keeps one with which an answer begins, here the answer is then empty).

    Raises:
        UsageError: a part cannot be read, or the trained tensors have other widths.
    """
    import transformers

    from atlas.live.draw.gill_model import GillConfig, GillForConditionalGeneration, GillProcessor

    _check_free(out)
    if not (diffusion / "model_index.json").is_file():
        raise UsageError(f"{diffusion} is not a folder of a diffusion pipeline (it has no model_index.json)")
    arguments = _arguments(checkpoint / "model_args.json")
    tensors = read_torch(checkpoint / "pretrained_ckpt.pth.tar", "state_dict")
    words = _part(transformers.AutoModelForCausalLM, language, "the language model")
    eyes = _part(transformers.CLIPVisionModel, vision, "the eyes")
    tokenizer = _part(transformers.AutoTokenizer, language, "the tokenizer")
    tokenizer.add_special_tokens({"additional_special_tokens": [GILL_IMAGE]})
    tokenizer.add_tokens(list(IMG))
    words.resize_token_embeddings(len(tokenizer))
    sizes: dict[str, Any] = {
        "visual_tokens": int(arguments["n_visual_tokens"]),
        "image_token_id": tokenizer.convert_tokens_to_ids(GILL_IMAGE),
        "img_token_ids": tokenizer.convert_tokens_to_ids(list(IMG)),
        **_mapper(tensors),
    }
    config = GillConfig(text_config=words.config, vision_config=eyes.config, **sizes)
    model: Any = GillForConditionalGeneration(config)
    _fill_gill(model, words, eyes, tensors)
    model.generation_config = words.generation_config
    line_end = _single_token(tokenizer, "\n")
    model.generation_config.eos_token_id = _ends(words.generation_config.eos_token_id, line_end)
    pictures = _part(transformers.AutoImageProcessor, vision, "the picture processor")
    options: dict[str, Any] = {
        "visual_tokens": config.visual_tokens,
        "image_token": GILL_IMAGE,
        "chat_template": GILL_TEMPLATE,
    }
    processor = GillProcessor(pictures, tokenizer, **options)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    shutil.copytree(diffusion, out / FOLDER)


@torch.no_grad()
def _fill_gill(model: Any, words: Any, eyes: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy the parts' weights and the trained tensors into a GILL model."""
    model.language_model.load_state_dict(words.state_dict())
    model.vision_tower.load_state_dict(eyes.state_dict())
    vocabulary = len(words.get_input_embeddings().weight)
    rows = _img_rows(tensors, vocabulary, model.config.get_text_config().word_embed_proj_dim)
    ids = torch.tensor(model.config.img_token_ids)
    for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        table[ids] = rows.to(table)
    for name in ("weight", "bias"):
        _copy_into(getattr(model.visual_projection, name), tensors, f"model.visual_embeddings.{name}")
    for name, parameter in model.mapper.named_parameters():
        _copy_into(parameter, tensors, f"{MAPPER}.{name}")


def _arguments(file: Path) -> dict[str, Any]:
    try:
        arguments: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        # The first published ones count the tokens for drawing and for retrieval separately.
        names = [name for name in ("num_tokens", "num_gen_tokens", "num_ret_tokens") if name in arguments]
        counts = {int(arguments[name]) for name in names}
        if (
            arguments["text_fc_mode"] != "gill_mapper"
            or counts != {len(IMG)}
            or not arguments.get("share_ret_gen", True)
        ):
            raise UsageError(
                f"{file} is of another kind of GILL; give one with a mapper of {len(IMG)} tokens that are used both "
                "to draw and to retrieve"
            )
        layers = list(arguments.get("text_emb_layers", [-1]))
        if layers != [-1]:
            raise UsageError(
                f"{file} says that the mapper reads the layers {layers} (text_emb_layers), and only the last can be "
                "read here; give a checkpoint with [-1]"
            )
        int(arguments["n_visual_tokens"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is not the model_args.json of a GILL checkpoint: {error!r}") from error
    return arguments


def _img_rows(tensors: Mapping[str, Tensor], vocabulary: int, width: int) -> Tensor:
    """(8, width) embeddings of [IMG0..7]: the only rows of the published file, or the last ones of a vocabulary."""
    table = tensors.get(ROWS)
    if table is None or tuple(table.shape) not in ((len(IMG), width), (vocabulary, width)):
        stored = "none" if table is None else tuple(table.shape)
        raise UsageError(
            f"the checkpoint's {ROWS} is {stored}, but these parts need {(len(IMG), width)}, or {(vocabulary, width)} "
            "for a whole vocabulary; give the OPT that it was trained with as [[language]]"
        )
    return table[-len(IMG) :]


def _mapper(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The mapper's sizes, read from its tensors; the number of heads is the official one."""
    try:
        queries, width = tensors[f"{MAPPER}.query_embs"].shape[1:]
        prompt_width = tensors[f"{MAPPER}.model.weight"].shape[0]
        ffn = tensors[f"{MAPPER}.tfm.encoder.layers.0.linear1.weight"].shape[0]
    except KeyError as error:
        raise UsageError(f"the checkpoint has no {error}; it is not GILL's with a mapper") from error
    layer_counts = {
        side: len({name.split(".")[6] for name in tensors if name.startswith(f"{MAPPER}.tfm.{side}.layers.")})
        for side in ("encoder", "decoder")
    }
    return {
        "mapper_width": int(width),
        "mapper_queries": int(queries),
        "prompt_width": int(prompt_width),
        "mapper_ffn_dim": int(ffn),
        "mapper_encoder_layers": layer_counts["encoder"],
        "mapper_decoder_layers": layer_counts["decoder"],
        "mapper_heads": 4,
    }
