"""Where the neurons of a HuggingFace model are, found from its modules and never from its name.

The language model's decoder layers are those of the innermost `get_decoder()`; in each, the down
projection is the Linear from the FFN width to the residual width. Its input is what this project calls
neurons, and column n of its weight is neuron n's write vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import Unsupported
from atlas.neurons import GATE


@dataclass(frozen=True, slots=True)
class Layout:
    """The modules of one language model that attribution and edits need.

    down: one down projection a layer. gates: the activation function of each layer, whose output is the
    gate tap; None where the FFN has no gate (there the two taps are the same). ffns: the module around each
    down projection that maps (batch, position, d_model) to the same; None where the layer has no such module (OPT).
    learned_positions: whether position embeddings are added before the first layer.
    attentions: each layer's self-attention; None where it has none of that name.
    """

    layers: tuple[nn.Module, ...]
    down: tuple[nn.Module, ...]
    gates: tuple[nn.Module | None, ...]
    ffns: tuple[nn.Module | None, ...]
    attentions: tuple[nn.Module | None, ...]
    norm: nn.Module
    head: nn.Module
    width: int
    d_model: int
    vocabulary: int
    learned_positions: bool

    def write_vectors(self, layer: int) -> Tensor:
        """(d_model, neurons): column n is what neuron n adds to the residual stream, per unit of value.

        Raises:
            Unsupported: the layer is quantised, so that its weights are not what it multiplies with.
        """
        weight = self.down[layer].weight
        if not (isinstance(weight, Tensor) and weight.is_floating_point() and weight.shape[1:] == (self.width,)):
            raise Unsupported(
                f"layer {layer} is quantised ({type(self.down[layer]).__name__}), so its neurons' write vectors "
                "cannot be read; load the model without quantisation (hooks need no weights: `atlas edit apply`)"
            )
        return weight

    def keys(self, layer: int) -> Tensor:
        """(neurons, d_model): row n is what neuron n reads with, of the gate's projection where there is a gate.

        Raises:
            Unsupported: the layer has no such projection.
        """
        found = [
            (name, module.weight)
            for name, module in self.layers[layer].named_modules()
            if isinstance(module, nn.Linear) and module.weight.shape == (self.width, self.d_model)
        ]
        gates = [weight for name, weight in found if "gate" in name] or [weight for _, weight in found]
        if len(gates) != 1:
            raise Unsupported(f"layer {layer} has {len(gates)} input projections of its FFN; one is needed")
        return gates[0]

    def unembedding(self) -> Tensor:
        """(vocabulary, d_model): row w scores token w."""
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        return weight

    def tapped(self, layer: int, tap: str) -> tuple[nn.Module, bool]:
        """The module to hook for a tap, and whether the values are its output (else its input)."""
        gate = self.gates[layer]
        return (gate, True) if tap == GATE and gate is not None else (self.down[layer], False)


def innermost_decoder(model: nn.Module) -> nn.Module:
    """The text decoder inside any wrapper: `get_decoder()` until it returns itself or nothing.

    Raises:
        Unsupported: the model has no decoder.
    """
    decoder: Any = model
    while hasattr(decoder, "get_decoder"):
        inner = decoder.get_decoder()
        if inner is None or inner is decoder:
            break
        decoder = inner
    if not hasattr(decoder, "layers"):
        raise Unsupported(f"{type(model).__name__} has no decoder layers; `atlas` needs a decoder-only language model")
    return decoder  # type: ignore[no-any-return]


def _down_projection(layer: nn.Module, d_model: int, width: int) -> tuple[str, nn.Module]:
    # By their widths and not as nn.Linear, which quantised layers often are not. Of one inside another (an adapter
    # around a Linear) the outer one is what the model calls.
    fitting = [(n, m) for n, m in layer.named_modules() if _widths(m) == (width, d_model)]
    found = [(n, m) for n, m in fitting if not any(n.startswith(f"{outer}.") for outer, _ in fitting)]
    named = [pair for pair in found if pair[0].rsplit(".", 1)[-1] in ("down_proj", "fc2")]
    candidates = named or found
    if len(candidates) != 1:
        raise Unsupported(
            f"{type(layer).__name__} has {len(candidates)} projections from {width} to {d_model}, not one"
        )
    return candidates[0]


def _widths(module: nn.Module) -> tuple[Any, Any]:
    return getattr(module, "in_features", None), getattr(module, "out_features", None)


def _gate(layer: nn.Module, down_name: str) -> nn.Module | None:
    """The activation module beside a gated FFN's down projection."""
    mlp = layer.get_submodule(down_name.rpartition(".")[0])
    gated = any(hasattr(mlp, name) for name in ("gate_proj", "w1"))
    activation = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)
    return activation if gated and isinstance(activation, nn.Module) else None


def _ffn(layer: nn.Module, down_name: str) -> nn.Module | None:
    """The module around the down projection, unless that is the layer itself."""
    around = down_name.rpartition(".")[0]
    return layer.get_submodule(around) if around else None


def locate(model: nn.Module) -> Layout:
    """Find layers, down projections, activation functions, final norm and unembedding.

    Raises:
        Unsupported: a part is missing or ambiguous; the message names it.
    """
    config = model.config.get_text_config(decoder=True)  # type: ignore[operator,union-attr]
    width = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
    d_model = config.hidden_size
    if width is None:
        raise Unsupported(f"the config of {type(model).__name__} names no FFN width")
    decoder = innermost_decoder(model)
    layers = tuple(decoder.layers)  # type: ignore[arg-type]
    found = [_down_projection(layer, d_model, width) for layer in layers]
    norms = (getattr(decoder, name, None) for name in ("norm", "final_layer_norm", "final_layernorm"))
    norm = next((n for n in norms if n is not None), None)
    head = model.get_output_embeddings()  # type: ignore[operator]
    if norm is None or head is None:
        raise Unsupported(f"{type(model).__name__} has no {'final norm' if norm is None else 'unembedding'}")
    return Layout(
        layers=layers,
        down=tuple(module for _, module in found),
        gates=tuple(_gate(layer, name) for layer, (name, _) in zip(layers, found, strict=True)),
        ffns=tuple(_ffn(layer, name) for layer, (name, _) in zip(layers, found, strict=True)),
        attentions=tuple(getattr(layer, "self_attn", None) for layer in layers),
        norm=norm,
        head=head,
        width=width,
        d_model=d_model,
        vocabulary=head.weight.shape[0] if isinstance(head.weight, Tensor) else head.out_features,
        learned_positions=hasattr(decoder, "embed_positions"),
    )


def norm_gain(norm: nn.Module, d_model: int) -> Tensor:
    """(d_model,) gain of a final norm, whatever its parametrisation (w, or 1 + w as in Gemma)."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.detach().float()
    weight = next(norm.parameters())
    with torch.no_grad():
        ones = torch.ones(1, d_model, dtype=torch.float32, device=weight.device).to(weight.dtype)
        # Not norm(ones): a hook on the norm must see the model's passes only.
        return norm.forward(ones)[0].float()  # type: ignore[no-any-return]


class FrozenNorm:
    """A final norm as a linear map, with the scale that it really had where it was applied.

    before, after: its input and output, (K, d_model). scale: (K,). Exact for what it was applied to, linear in what
    that is a sum of.
    """

    def __init__(self, layout: Layout, before: Tensor, after: Tensor):
        norm = layout.norm
        self.centred = isinstance(norm, nn.LayerNorm)
        self.gain = norm_gain(norm, layout.d_model).to(before.device)
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        self.bias = torch.zeros(1, device=before.device) if bias is None else bias.detach().float()
        x, y = self.unscaled(before.float()), after.float() - self.bias
        self.scale = (x * y).sum(-1) / (x * x).sum(-1)  # y = scale * x

    def unscaled(self, x: Tensor) -> Tensor:
        """(..., d_model) residual streams, centred where the norm does it, times its gain."""
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)

    def __call__(self, x: Tensor) -> Tensor:
        """(K, d_model) residual streams as the norm would give them, each at its own scale."""
        return self.unscaled(x) * self.scale[:, None] + self.bias

    def pulled_back(self, rows: Tensor) -> Tensor:
        """(K, d_model): directions before the norm whose products equal those of `rows` behind it."""
        rows = rows * self.gain
        return (rows - rows.mean(-1, keepdim=True) if self.centred else rows) * self.scale[:, None]


def direct_directions(
    layout: Layout, tokens: Tensor, before: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """(tokens, d_model) directions g such that a neuron's direct effect on the token's logit is value * (g . write).

    Without `before`/`after` the direction is the plain unembedding row (Pan et al. 2023). With the final
    norm's input and output at the predicting positions, (tokens, d_model) each, the norm's scale is frozen at
    its real value and its gain and centring are folded into the direction, which makes the sum over all
    components equal the logit exactly (up to the norm's and the head's biases).
    """
    rows = layout.unembedding()[tokens].float()
    return rows if before is None or after is None else FrozenNorm(layout, before, after).pulled_back(rows)
