"""Where the neurons of a HuggingFace model are, found from its modules and never from its name.

The language model's decoder layers are those of the innermost `get_decoder()`; in each, the down
projection is the Linear from the FFN width to the residual width. Its input is what this project calls
neurons, and column n of its weight is neuron n's write vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from atlas.errors import Unsupported
from atlas.live.quantised import dense
from atlas.neurons import GATE, INPUT


@dataclass(frozen=True, slots=True)
class Layout:
    """The modules of one language model that attribution and edits need.

    down: one down projection a layer. gates: the activation function of each layer, whose output is the
    gate tap; None where the FFN has no gate (there the two taps are the same). ffns: the module around each
    down projection that maps (batch, position, d_model) to the same; None where the layer has no such module (OPT).
    learned_positions: whether position embeddings are added before the first layer.
    attentions: each layer's self-attention; None where it has none of that name. after: the norm applied to each
    layer's FFN output before it is added (Gemma 3); None where it is added directly.
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
    after: tuple[nn.Module | None, ...]

    def write_vectors(self, layer: int) -> Tensor:
        """(d_model, neurons): column n is what neuron n adds to the residual stream, per unit of value.

        Raises:
            Unsupported: the layer is quantised by something other than bitsandbytes, so that its weights are not what
                it multiplies with; or they are kept on disk, or fetched when it is called.
        """
        return self._numbers(layer, self.down[layer], self.d_model, self.width)

    def keys(self, layer: int) -> Tensor:
        """(neurons, d_model): row n is what neuron n reads with, of the gate's projection where there is a gate.

        Raises:
            Unsupported: the layer has no such projection, or as in `write_vectors`.
        """
        projections = [
            (name, module)
            for name, module in self.layers[layer].named_modules()
            if isinstance(module, nn.Linear | Conv1D) and _widths(module) == (self.d_model, self.width)
        ]
        gates = [module for name, module in projections if "gate" in name] or [module for _, module in projections]
        if len(gates) != 1:
            raise Unsupported(f"layer {layer} has {len(gates)} input projections of its FFN; one is needed")
        return self._numbers(layer, gates[0], self.width, self.d_model)

    def _numbers(self, layer: int, projection: nn.Module, *shape: int) -> Tensor:
        weight = _in_memory(_read(projection), f"the FFN of layer {layer}")
        if not (isinstance(weight, Tensor) and weight.is_floating_point() and weight.shape == shape):
            raise Unsupported(
                f"layer {layer} is quantised ({type(projection).__name__}), so the weights of its neurons cannot be "
                "read; load the model without it, or use bitsandbytes (hooks need no weights: `atlas edit apply`)"
            )
        return weight

    def activation(self, layer: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        """A plain FFN's first projection, and the function of its output that gives the neurons' values.

        Raises:
            Unsupported: the FFN has a gate, or no such function is found.
        """
        if self.gates[layer] is not None:
            raise Unsupported(f"the FFN of layer {layer} has a gate: its neurons have two inputs, not one")
        around = self.ffns[layer] or self.layers[layer]
        act = _first(around, "act", "act_fn", "activation_fn")
        firsts = [m for m in around.modules() if _widths(m) == (self.d_model, self.width)]
        if act is None or len(firsts) != 1:
            raise Unsupported(f"layer {layer} does not have exactly one projection followed by an activation function")
        return firsts[0], act

    def unembedding(self) -> Tensor:
        """(vocabulary, d_model): row w scores token w.

        Raises:
            Unsupported: it is kept on disk, or fetched when it is called.
        """
        weight: Tensor = _in_memory(_read(self.head), "the unembedding")
        return weight

    def tapped(self, layer: int, tap: str) -> tuple[nn.Module, bool]:
        """The module to hook for a tap, and whether the values are its output (else its input)."""
        if tap == INPUT:
            return self.activation(layer)[0], True
        gate = self.gates[layer]
        return (gate, True) if tap == GATE and gate is not None else (self.down[layer], False)


def _in_memory(weight: Any, what: str) -> Any:
    """The weight itself; refuses one that accelerate fetches, which has no values to compute with."""
    if isinstance(weight, Tensor) and weight.is_meta:
        raise Unsupported(f"{what} is not in memory (device_map?); load the model without [[device_map]]")
    return weight


def _read(projection: nn.Module) -> Any:
    """(output, input) weights to compute with: a view, or quantised weights converted."""
    weight = dense(projection)
    return columns_of(projection) if weight is None else weight


def columns_of(projection: Any) -> Any:
    """(output, input) weights of a projection, a view: GPT-2 stores them transposed."""
    return projection.weight.T if isinstance(projection, Conv1D) else getattr(projection, "weight", None)


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
    if layers_of(decoder) is None:
        raise Unsupported(f"{type(model).__name__} has no decoder layers; `atlas` needs a decoder-only language model")
    return decoder  # type: ignore[no-any-return]


def layers_of(decoder: nn.Module) -> Any | None:
    """The decoder's layers; None where it has none of a known name."""
    return _first(decoder, "layers", "h")


def _first(module: nn.Module, *names: str) -> Any | None:
    """The first of these attributes that the module has."""
    return next((value for name in names if (value := getattr(module, name, None)) is not None), None)


def _down_projection(layer: nn.Module, d_model: int, width: int) -> tuple[str, nn.Module]:
    # By their widths and not as nn.Linear, which quantised layers often are not. Of one inside another (an adapter
    # around a Linear) the outer one is what the model calls.
    by_width = [(n, m) for n, m in layer.named_modules() if _widths(m) == (width, d_model)]
    outermost = [(n, m) for n, m in by_width if not any(n.startswith(f"{outer}.") for outer, _ in by_width)]
    named = [pair for pair in outermost if pair[0].rsplit(".", 1)[-1] in ("down_proj", "fc2", "c_proj")]
    candidates = named or outermost
    if len(candidates) != 1:
        raise Unsupported(
            f"{type(layer).__name__} has {len(candidates)} projections from {width} to {d_model}, not one"
        )
    return candidates[0]


def _widths(module: nn.Module) -> tuple[Any, Any]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf
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
    d_model = config.hidden_size
    width = _ffn_width(config)
    if width is None:
        raise Unsupported(f"the config of {type(model).__name__} does not give an FFN width")
    decoder = innermost_decoder(model)
    layers: tuple[nn.Module, ...] = tuple(layers_of(decoder) or ())
    projections = [_down_projection(layer, d_model, width) for layer in layers]
    norm = _first(decoder, "norm", "final_layer_norm", "final_layernorm", "ln_f")
    head = model.get_output_embeddings()  # type: ignore[operator]
    if norm is None or head is None:
        raise Unsupported(f"{type(model).__name__} has no {'final norm' if norm is None else 'unembedding'}")
    return Layout(
        after=tuple(_first(layer, "post_feedforward_layernorm", "post_mlp_layernorm") for layer in layers),
        layers=layers,
        down=tuple(module for _, module in projections),
        gates=tuple(_gate(layer, name) for layer, (name, _) in zip(layers, projections, strict=True)),
        ffns=tuple(_ffn(layer, name) for layer, (name, _) in zip(layers, projections, strict=True)),
        attentions=tuple(_first(layer, "self_attn", "attn") for layer in layers),
        norm=norm,
        head=head,
        width=width,
        d_model=d_model,
        vocabulary=head.weight.shape[0] if isinstance(head.weight, Tensor) else head.out_features,
        learned_positions=hasattr(decoder, "embed_positions") or hasattr(decoder, "wpe"),
    )


def _ffn_width(config: Any) -> int | None:
    for name in ("intermediate_size", "ffn_dim", "n_inner"):
        if width := getattr(config, name, None):
            return int(width)
    return 4 * int(config.hidden_size) if hasattr(config, "n_inner") else None  # GPT-2's default
