"""Tiny random models of real architectures, built from config: nothing is downloaded."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

# The same examples in every run: what fails here can be run again, and a change is never blamed for luck.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job ignores it, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = "USER ASSISTANT : what is this ? a dog cat red barks meows describe the picture two dogs and one hot dog ."


def tokenizer(extra: dict[str, str] | None = None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=extra or {},
        clean_up_tokenization_spaces=False,
    )


TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_llava(hidden_act: str = "silu", seed: int = 0) -> tuple[Any, Any]:
    """A random LLaVA (2 layers, d_model 32, 64 neurons a layer, 4 image tokens) and its processor."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(seed)
    text = tokenizer({"image_token": "<image>"})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        ),
        text_config=LlamaConfig(
            vocab_size=len(text),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            hidden_act=hidden_act,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        image_token_index=text.image_token_id,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = LlavaProcessor(
        pictures,
        text,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return model, processor


def build_opt(seed: int = 0) -> tuple[Any, Any]:
    """A random OPT: plain ReLU FFN with biases, whose fc2 sees (batch * position, neurons)."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    text = tokenizer()
    config = OPTConfig(
        vocab_size=len(text),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        init_std=0.2,
    )
    model = OPTForCausalLM(config).eval()
    for name, parameter in model.named_parameters():  # biases start at zero, which would hide their mistakes
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model, text


@pytest.fixture(scope="session")
def random_llava() -> Any:
    return build_llava


@pytest.fixture(scope="session")
def llava() -> Any:
    from atlas.live.model import LiveModel

    return LiveModel(*build_llava(), name="random-llava")


@pytest.fixture(scope="session")
def opt() -> Any:
    from atlas.live.model import LiveModel

    return LiveModel(*build_opt(), name="random-opt")


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random-llava"
    model, processor = build_llava()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (10, 12, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and sounds beside the checkout, where there are any."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside this checkout")
    return folder


JOB = {
    "methods": {"activation": {}, "contribution": {}, "gradient_x_activation": {}, "ablation": {}, "random": {}},
    "concepts": ("cat", "dog"),
    "per_concept": 12,
}
"""A job of two seconds on the random LLaVA: 130 examples or so, in three portions."""


@pytest.fixture(scope="session")
def small_job(llava_folder: Path) -> Any:
    from ingest.job import make_job

    return make_job({"model": str(llava_folder), **JOB})


@pytest.fixture(scope="session")
def stored_atlas(tmp_path_factory: pytest.TempPathFactory, small_job: Any) -> Path:
    """An atlas with one run; tests that change it take `own_atlas`."""
    from atlas.store import create
    from ingest.job import Execution
    from ingest.run.ingest import ingest

    path = tmp_path_factory.mktemp("atlases") / "stored.atlas"
    create.init(path)
    ingest(path, small_job, Execution())
    return path


@pytest.fixture
def own_atlas(stored_atlas: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(stored_atlas, tmp_path / "own.atlas"))


@pytest.fixture
def empty_atlas(tmp_path: Path) -> Path:
    from atlas.store import create

    create.init(tmp_path / "empty.atlas")
    return tmp_path / "empty.atlas"
