"""Small GGUF files, written as llama.cpp's converter writes a Llama, of random models with a real tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import TEXT, words


def build_llama(*, special: Sequence[str] = (), **changes: Any) -> tuple[Any, Any]:
    """(LlamaForCausalLM, tokenizer) whose vocabularies have the same size; special: more special tokens."""
    import transformers

    tokenizer = words(known=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)} if special else {})
    config = transformers.LlamaConfig(**{**TEXT, "vocab_size": len(tokenizer), **changes})
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval(), tokenizer


def write_gguf(
    file: Path,
    model: Any,
    tokenizer: Any,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    leave_out: tuple[str, ...] = (),
    more_tensors: Mapping[str, Any] | None = None,
    more_texts: Mapping[str, str] | None = None,
    split: str = "gpt-2",
    parts: int = 0,
    renamed: Mapping[str, str] | None = None,
) -> Path:
    """Write a model. kind: how its matrices are stored; vectors are always in F32. parts: a part of so many.
    renamed: tokens under other names."""
    import gguf

    writer = gguf.GGUFWriter(file, architecture)
    config = model.config
    writer.add_type("model")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    if parts:
        writer.add_uint16("split.count", parts)
    for name, text in (more_texts or {}).items():
        writer.add_string(name, text)
    _add_tokenizer(writer, tokenizer, split, renamed or {})
    tensors = {**_tensors(model), **(more_tensors or {})}
    for name, values in tensors.items():
        if name not in leave_out:
            _add_tensor(writer, name, np.ascontiguousarray(values, dtype=np.float32), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tensor(writer: Any, name: str, values: np.ndarray, kind: str) -> None:
    import gguf

    stored = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
    if stored in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        writer.add_tensor(name, values.astype(np.float16 if stored.name == "F16" else np.float32))
    else:
        writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)


def _add_tokenizer(writer: Any, tokenizer: Any, split: str, renamed: Mapping[str, str]) -> None:
    import json

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    # A special token with a space has no spelling in bytes.
    shown = [renamed.get(token, token).replace(" ", "_") for token in tokens]
    special = {token["content"] for token in state["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(shown)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)


def _tensors(model: Any) -> dict[str, np.ndarray]:
    """The weights by their GGUF names. llama.cpp rotates neighbouring numbers where transformers rotates halves, so
    the rows of queries and keys are in another order."""
    config, state = model.config, {name: value.float().numpy() for name, value in model.state_dict().items()}
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    if not config.tie_word_embeddings:
        found["output.weight"] = state["lm_head.weight"]
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for name, short in names.items():
            values = state[f"model.layers.{layer}.{name}.weight"]
            if short in heads:
                rows, columns = values.shape
                halves = values.reshape(heads[short], 2, rows // heads[short] // 2, columns)
                values = halves.swapaxes(1, 2).reshape(rows, columns)
            found[f"blk.{layer}.{short}.weight"] = values
    return found
