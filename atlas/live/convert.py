"""Checkpoints of families that HuggingFace does not have, written as folders that it loads.

MiniGPT-4 (Zhu et al. 2023) is BLIP-2's eyes and a Llama language model with one trained projection between them; GILL
(Koh et al. 2023) is OPT and CLIP with trained projections, eight token embeddings and a mapper. Their authors publish
only what they trained, as torch files. This is the only place that reads such a file, and never anything in it but
tensors (`weights_only`); what is written is safetensors and JSON.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.painter import FOLDER

MINIGPT4_TEMPLATE = (  # its own dialogue; IMAGE is as many placeholders as there are queries
    "{% for m in messages %}{{ '###Human: ' if m['role'] == 'user' else '###Assistant: ' }}"
    "{{ m['content'] | replace('<image>', '<Img>IMAGE</Img> ') }}"
    "{% endfor %}{% if add_generation_prompt %}###Assistant:{% endif %}"
)
GILL_IMAGE = "<|image|>"
IMG = tuple(f"[IMG{n}]" for n in range(8))


def read_torch(file: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a torch file under a key, by name, without what distributed training puts before the names.

    Raises:
        UsageError: no such file, more in it than tensors, or not the key.
    """
    try:
        whole = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except Exception as error:  # whatever a damaged or a dangerous file makes the unpickler say
        raise UsageError(f"{file} is no checkpoint of tensors alone: {str(error).splitlines()[0]}") from error
    found = whole.get(key) if isinstance(whole, Mapping) else None
    if not isinstance(found, Mapping):
        raise UsageError(f"{file} has nothing under '{key}'; it is not the official checkpoint")
    return {name.replace("module.", ""): value for name, value in found.items() if isinstance(value, Tensor)}


def _part(loader: Any, folder: Path, what: str) -> Any:
    try:
        return loader.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot load {what} from '{folder}': {str(error).splitlines()[0]}") from error


def _check_free(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"the folder {out} is not empty; give another --out")


@torch.no_grad()
def _take(parameter: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
    if name not in tensors or tensors[name].shape != parameter.shape:
        there = tuple(tensors[name].shape) if name in tensors else "none"
        raise UsageError(f"the checkpoint's {name} is {there}, where these parts need {tuple(parameter.shape)}")
    parameter.copy_(tensors[name])


def minigpt4(checkpoint: Path, blip2: Path, language: Path, out: Path) -> None:
    """Write MiniGPT-4 as a BLIP-2 with a Llama language model.

    checkpoint: the official file, of which `llama_proj` is read. blip2: a BLIP-2 folder with the eyes that it was
    trained with (for the official files, blip2-flan-t5-xxl), of which vision tower, Q-Former and queries are taken.
    language: the Llama (Vicuna) folder.

    Raises:
        UsageError: a part cannot be read, or the projection is of other widths.
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
        _take(getattr(model.language_projection, name), tensors, f"llama_proj.{name}")
    model.generation_config = words.generation_config
    pictures = _part(transformers.AutoImageProcessor, blip2, "the picture processor")
    tokenizer.chat_template = MINIGPT4_TEMPLATE.replace("IMAGE", "<image>" * queries)
    model.save_pretrained(out)
    # Without a number of queries the processor puts none in front: the dialogue says where they are.
    transformers.Blip2Processor(pictures, tokenizer, None).save_pretrained(out)


def gill(checkpoint: Path, language: Path, vision: Path, diffusion: Path, out: Path) -> None:
    """Write GILL as a folder of this project's `atlas.live.gill` and a diffusion pipeline.

    checkpoint: the official folder, with pretrained_ckpt.pth.tar and model_args.json. language: OPT. vision: CLIP.
    diffusion: the Stable Diffusion pipeline's folder. The retrieval head and the decision model are left out.

    Raises:
        UsageError: a part cannot be read, or what was trained is of other widths.
    """
    import transformers

    from atlas.live.gill import GillConfig, GillForConditionalGeneration, GillProcessor

    _check_free(out)
    if not (diffusion / "model_index.json").is_file():
        raise UsageError(f"{diffusion} is no folder of a diffusion pipeline (it has no model_index.json)")
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
    model.language_model.load_state_dict(words.state_dict())
    model.vision_tower.load_state_dict(eyes.state_dict())
    with torch.no_grad():
        ids = torch.tensor(config.img_token_ids)
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            table[ids] = tensors["model.input_embeddings.weight"].to(table)
    for name in ("weight", "bias"):
        _take(getattr(model.visual_projection, name), tensors, f"model.visual_embeddings.{name}")
    for name, parameter in model.mapper.named_parameters():
        _take(parameter, tensors, f"{MAPPER}.{name}")
    model.generation_config = words.generation_config
    pictures = _part(transformers.AutoImageProcessor, vision, "the picture processor")
    processor = GillProcessor(pictures, tokenizer, visual_tokens=config.visual_tokens, image_token=GILL_IMAGE)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    shutil.copytree(diffusion, out / FOLDER)


MAPPER = "model.gen_text_hidden_fcs.0"


def _arguments(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["text_fc_mode"] != "gill_mapper" or int(found["num_tokens"]) != len(IMG):
            raise UsageError(f"{file} is of another kind of GILL than the one with a mapper of {len(IMG)} tokens")
        int(found["n_visual_tokens"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not the model_args.json of a GILL checkpoint: {error!r}") from error
    return found


def _mapper(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The mapper's sizes, as its tensors have them; the number of heads is the official one."""
    try:
        queries, width = tensors[f"{MAPPER}.query_embs"].shape[1:]
        prompt_width = tensors[f"{MAPPER}.model.weight"].shape[0]
        ffn = tensors[f"{MAPPER}.tfm.encoder.layers.0.linear1.weight"].shape[0]
    except KeyError as error:
        raise UsageError(f"the checkpoint has no {error}; it is not GILL's with a mapper") from error
    deep = {
        side: len({name.split(".")[6] for name in tensors if name.startswith(f"{MAPPER}.tfm.{side}.layers.")})
        for side in ("encoder", "decoder")
    }
    return {
        "mapper_width": int(width),
        "mapper_queries": int(queries),
        "prompt_width": int(prompt_width),
        "mapper_ffn_dim": int(ffn),
        "mapper_encoder_layers": deep["encoder"],
        "mapper_decoder_layers": deep["decoder"],
        "mapper_heads": 4,
    }
