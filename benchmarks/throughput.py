"""Attribution at the shape of real models: examples a second of whole jobs over bare passes, memory, and decoding.

On a GPU: the shapes of LLaVA-1.5-7B and Qwen2-VL-7B with random weights in bfloat16. Without one the same code runs on
both shapes scaled down to what two cores do in a minute, and says so; ratios are what carries over.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Any

import torch
from _models import _Processor
from _timing import interleaved, report

from atlas.live.decode import decode
from atlas.live.encode import Prompt
from atlas.live.model import LiveModel
from ingest.concepts import Target
from ingest.methods import activation, contribution, gradient, gradient_x_activation, random
from ingest.trace import Item, traced

GPU = torch.cuda.is_available()
TEXT = 64


@dataclass(frozen=True)
class Shape:
    """layers, d_model, width (neurons a layer), heads, keys (heads of keys), vocabulary, image (tokens)."""

    name: str
    layers: int
    d_model: int
    width: int
    heads: int
    keys: int
    vocabulary: int
    image: int
    batch: int


SHAPES = (
    Shape("LLaVA-1.5-7B", 32, 4096, 11008, 32, 32, 32064, 576, 4),
    Shape("Qwen2-VL-7B", 28, 3584, 18944, 28, 4, 152064, 576, 4),
)
SCALED = (
    Shape("LLaVA-1.5-7B / 16", 4, 512, 1376, 8, 8, 4008, 144, 4),
    Shape("Qwen2-VL-7B / 16", 4, 448, 2368, 7, 1, 19008, 144, 4),
)


def build(shape: Shape) -> LiveModel:
    """The language model of the shape behind a small eye: what is traced is the language model."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

    torch.manual_seed(0)
    side = int(shape.image**0.5)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=4 * side,
            patch_size=4,
        ),
        text_config=Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.d_model,
            intermediate_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.keys,
        ),
        image_token_index=3,
        vision_feature_layer=-1,
    )
    with torch.device("cuda" if GPU else "cpu"):
        torch.set_default_dtype(torch.bfloat16 if GPU else torch.float32)
        model = LlavaForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    return LiveModel(model, _Processor(), name=shape.name)


def items_of(shape: Shape) -> list[Item]:
    generator = torch.Generator().manual_seed(1)
    side, items = int(shape.image**0.5), []
    for n in range(shape.batch):
        text = torch.randint(10, 2000, (TEXT,), generator=generator).tolist()
        pixels = torch.randn(1, 3, 4 * side, 4 * side, generator=generator)
        extras = {"pixel_values": pixels.to(torch.bfloat16 if GPU else torch.float32)}
        prompt = Prompt((*[3] * shape.image, *text[:-4]), tuple(text[-4:]), extras)
        items.append(Item(n, prompt, (Target(f"concept {n % 2}", 0, 1.0),)))
    return items


def measure(shape: Shape) -> None:
    live, items = build(shape), items_of(shape)
    batch = live.batch([item.prompt for item in items])
    forward_only = [contribution.build(), activation.build(), random.build()]
    by_gradient = [gradient.build(), gradient_x_activation.build()]

    def job(methods: list[Any], grad: bool) -> None:
        with traced(live, items, "image", layers=None, tap="product", grad=grad) as trace:
            for method in methods:
                method.update(trace)
        wait()

    def bare() -> None:
        with torch.no_grad():
            live.forward(batch)
        wait()

    def backward() -> None:
        vectors = live.model.get_input_embeddings()(batch.inputs["input_ids"]).detach().requires_grad_(True)
        out = live.model.model.language_model(inputs_embeds=vectors, attention_mask=batch.inputs["attention_mask"])
        torch.autograd.grad(live.logits(out.last_hidden_state[:, -5]).log_softmax(-1)[:, 7].sum(), vectors)
        wait()

    sides = {
        "bare": bare,
        "forward-only job": lambda: job(forward_only, False),
        "forward and backward": backward,
        "gradient job": lambda: job(by_gradient, True),
    }
    seconds = interleaved(sides, 5)
    for mine, base in (("forward-only job", "bare"), ("gradient job", "forward and backward")):
        detail = f"{shape.batch / seconds[mine]:.3g} examples/s against {shape.batch / seconds[base]:.3g}"
        report(f"{shape.name}: {mine} / {base}, examples a second", seconds[base] / seconds[mine], ">= 0.85", detail)
    started = time.perf_counter()
    for _ in decode(live, norm=False, top=20):
        pass
    wait()
    neurons = shape.layers * shape.width
    report(f"{shape.name}: top 20 tokens of all neurons, seconds", time.perf_counter() - started, "", f"{neurons:,}")
    report(f"{shape.name}: peak memory, GiB", peak() / 2**30, "", f"batch {shape.batch}")


def wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def peak() -> float:
    if GPU:
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    if GPU:
        print(f"on {torch.cuda.get_device_name()}, bfloat16")
    else:
        print("no GPU here: the shapes are scaled down, float32 on the CPU")
    for shape in SHAPES if GPU else SCALED:
        measure(shape)
        if GPU:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
