"""Any sentence encoder of HuggingFace's: a folder, or an id that is in the cache or reachable."""

from __future__ import annotations

from atlas.errors import UsageError
from ingest.encoders._common import SentenceEncoder, load


def build(
    model: str = "",
    *,
    revision: str = "",
    pooling: str = "mean",
    prefix: str = "",
    batch_size: int = 64,
    device: str = "cpu",
) -> SentenceEncoder:
    """pooling: mean or cls, as the encoder was trained. prefix: put before every text ("query: ")."""
    encoder, tokenizer = load("hf", "AutoModel", model, revision), load("hf", "AutoTokenizer", model, revision)
    if encoder.config.is_encoder_decoder or not hasattr(encoder.config, "hidden_size"):
        raise UsageError(f"the encoder hf needs a text model like BERT; '{model}' is a {encoder.config.model_type}")
    return SentenceEncoder(encoder, tokenizer, pooling=pooling, prefix=prefix, batch_size=batch_size, device=device)
