"""Models in which only one neuron does what a concept's neuron should do, so that it must come first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from atlas.live.grid.heatmap import Mask, percentile_mask, picture_maps
from atlas.live.grid.token_grids import grids
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from atlas.testing.models import build_llava


@dataclass(frozen=True, slots=True)
class Planted:
    """A model with a planted neuron.

    neuron: its (layer, index). token: the id of the word that it raises. pictures: one in which it is active and one in
    which it is not, where pictures matter.
    """

    live: LiveModel
    neuron: tuple[int, int]
    token: int
    pictures: tuple[Image.Image, ...] = ()


def speaking_neuron() -> Planted:
    """Only neuron 1/17 raises "dog": it is always on, and its write vector is the token's direction."""
    model, processor = build_llava(seed=4)
    live = LiveModel(model, processor, name="planted")
    token = live.encoder.prompt("a", answer="dog").answer[0]
    layer, neuron = 1, 17
    block: Any = live.layout.layers[layer]
    mlp, norm = block.mlp, block.post_attention_layernorm
    with torch.no_grad():
        # One residual dimension is a constant that nothing writes to; the neuron reads only that.
        model.get_input_embeddings().weight[:, 0] = 2.0
        _keep_first_dimension(live)
        mlp.gate_proj.weight[neuron], mlp.up_proj.weight[neuron] = 0, 0
        mlp.gate_proj.weight[neuron, 0] = mlp.up_proj.weight[neuron, 0] = 2.0 / norm.weight[0]
        row = live.layout.unembedding()[token]
        mlp.down_proj.weight[:, neuron] = row / row.norm()
    return Planted(live, (layer, neuron), token)


def seeing_neuron(side: int = 8) -> Planted:
    """Only neuron 0/17, at the image's positions and in one of two pictures, raises "dog" at the predicting position,
    through the next layer's attention. side: see `build_llava`."""
    model, processor = build_llava(seed=4, side=side)
    live = LiveModel(model, processor, name="seen")
    token = live.encoder.prompt("a", answer="dog").answer[0]
    noise = np.random.default_rng(0).integers(0, 256, (2, 10, 12, 3), dtype=np.uint8)
    picture, without = (Image.fromarray(pixels) for pixels in noise)
    projector = model.model.multi_modal_projector
    hidden = [_mean_output(live, projector.act, shown) for shown in (picture, without)]
    first, second = _blocks(live)
    attention = second.self_attn
    with torch.no_grad():
        step = hidden[0] - hidden[1]
        projector.linear_2.weight[0] = 3 * step / (step @ step)  # 3 in the one picture, 0 in the other
        projector.linear_2.bias[0] = -(projector.linear_2.weight[0] @ hidden[1])
        model.get_input_embeddings().weight[:, 0] = 0.0
        _keep_first_dimension(live)
        first.mlp.gate_proj.weight[17], first.mlp.up_proj.weight[17] = 0, 0
        first.mlp.gate_proj.weight[17, 0] = first.mlp.up_proj.weight[17, 0] = 2.0
        moved = attention.o_proj.weight @ attention.v_proj.weight * second.input_layernorm.weight
        write = moved.T @ live.layout.unembedding()[token]
        write[0] = 0
        first.mlp.down_proj.weight[:, 17] = 3 * write / write.norm()
    return Planted(live, (0, 17), token, (picture, without))


def region_of(planted: Planted) -> Mask:
    """(64, 64) bool: the part of its first picture where the planted neuron's map is above the 95th percentile."""
    live, (layer, neuron) = planted.live, planted.neuron
    prompt = live.encoder.prompt("what is this ?", [planted.pictures[0]], "a dog")
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(live.batch([prompt]))
    values = capture.values[layer][0, :, neuron].numpy()
    return percentile_mask(picture_maps(grids(live.encoder, prompt, live.model.config), values, (64, 64)))


def _keep_first_dimension(live: LiveModel) -> None:
    """Nothing writes to the first dimension of the residual stream."""
    for block in _blocks(live):
        block.self_attn.o_proj.weight[0] = 0
        block.mlp.down_proj.weight[0] = 0


def _blocks(live: LiveModel) -> list[Any]:
    return list(live.layout.layers)


def _mean_output(live: LiveModel, module: Any, picture: Image.Image) -> torch.Tensor:
    """(features,) a module's output for a picture, averaged over its positions."""
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, out: outputs.append(out.detach().mean((0, 1))))
    try:
        live.forward(live.batch([live.encoder.prompt("a", [picture], "dog")]))
    finally:
        handle.remove()
    return outputs[0]
