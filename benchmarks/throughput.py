"""Attribution at the shape of real models: examples a second of whole jobs over bare passes, memory, and decoding.

A job is every method's update and the exemplars, over batches made ready; "from the pictures on" also opens, resizes
and tokenises them. On a GPU: the shapes of LLaVA-1.5-7B and Qwen2-VL-7B with random weights in bfloat16. Without one
the same code runs on both shapes scaled down to what two cores do in a minute, and says so; ratios are what carries
over.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import torch
from _timing import interleaved, report

from atlas.live.logit_lens import decode
from atlas.live.model import LiveModel
from ingest import zoo
from ingest.attribution.trace import traced
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run.encode_examples import ExampleEncoder, batches
from ingest.run.map_step import State, map_portion

GPU = torch.cuda.is_available()
BATCHES, PATCH = (16, 14) if GPU else (4, 14)


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
    """The language model of the shape behind a small eye, with tiny-llava's words and CLIP's way with pictures: what
    is traced is the language model."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

    torch.manual_seed(0)
    side = int(shape.image**0.5)
    processor = LiveModel.load(zoo.resolve("tiny-llava")).encoder.processor
    processor.patch_size, pictures = PATCH, processor.image_processor
    pictures.size, pictures.crop_size = {"shortest_edge": PATCH * side}, {"height": PATCH * side, "width": PATCH * side}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=PATCH * side,
            patch_size=PATCH,
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
    return LiveModel(model, processor, name=shape.name)


def job_of(*methods: str) -> Job:
    return make_job({"model": "benchmark", "methods": {name: {} for name in methods}, "sources": ["image"]})


FORWARD_ONLY = job_of("contribution", "activation", "random")
BY_GRADIENT = job_of("gradient", "gradient_x_activation")


def measure(shape: Shape) -> None:
    live, world = build(shape), open_dataset(FORWARD_ONLY)
    examples = world.examples(
        source="image", split="find", concepts=sorted(world.concepts), tasks=["caption"], per_concept=4, seed=0
    )
    numbered = list(enumerate(examples))[: BATCHES * shape.batch]
    items = ExampleEncoder(live, world, FORWARD_ONLY).items(numbered, shape.batch)
    parts = list(batches(items, shape.batch))
    execution = Execution(batch_size=shape.batch)

    def job(wanted: Job, grad: bool) -> None:
        state = State(wanted)
        for part in parts:
            with traced(live, part, "image", layers=None, tap="product", grad=grad) as trace:
                state.update(trace)
        state.tensors()

    def bare() -> None:
        for part in parts:
            with torch.no_grad():
                live.forward(live.batch([item.prompt for item in part]))
        wait()

    def backward() -> None:
        for part in parts:
            batch = live.batch([item.prompt for item in part])
            inputs = batch.inputs
            vectors = live.model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_(True)
            out = live.model.model.language_model(inputs_embeds=vectors, attention_mask=inputs["attention_mask"])
            torch.autograd.grad(live.logits(out.last_hidden_state[:, -5]).log_softmax(-1)[:, 7].sum(), vectors)
        wait()

    def whole() -> None:
        map_portion(
            live, ExampleEncoder(live, world, FORWARD_ONLY), FORWARD_ONLY, execution, numbered, lambda _done: None
        )

    sides = {
        "bare": bare,
        "forward-only job": lambda: job(FORWARD_ONLY, False),
        "from the pictures on": whole,
        "forward and backward": backward,
        "gradient job": lambda: job(BY_GRADIENT, True),
    }
    seconds = interleaved(sides, 3)
    pairs = [("forward-only job", "bare"), ("from the pictures on", "bare"), ("gradient job", "forward and backward")]
    for mine, base in pairs:
        detail = f"{len(items) / seconds[mine]:.3g} examples/s against {len(items) / seconds[base]:.3g}"
        report(f"{shape.name}: {mine} / {base}, examples a second", seconds[base] / seconds[mine], ">= 0.85", detail)
    memory = peak()
    started = time.perf_counter()
    for _ in decode(live, top=20):
        pass
    wait()
    neurons = shape.layers * shape.width
    report(f"{shape.name}: top 20 tokens of all neurons, seconds", time.perf_counter() - started, "", f"{neurons:,}")
    report(f"{shape.name}: peak memory of the jobs, GiB", memory / 2**30, "", f"batch {shape.batch}")


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
