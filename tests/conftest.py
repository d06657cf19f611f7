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

from atlas.testing.models import TEMPLATE, build_llava, build_opt, tokenizer

__all__ = ["TEMPLATE", "build_llava", "build_opt", "tokenizer"]

# The same examples in every run: what fails here can be run again, and a change is never blamed for luck.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job ignores it, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
