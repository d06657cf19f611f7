"""Weights and tokenizer of a model on the HuggingFace Hub."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import AtlasError
from ingest.zoo.fetched._known import Repository

FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE*",
)
"""No code and no pickled weights."""

PATIENCE = 10.0
"""Seconds to wait for the Hub's first answer."""


def fetch(repository: Repository, folder: Path) -> str:
    """Download the newest commit into a folder, and give its 40 hex digits.

    Raises:
        AtlasError: the Hub cannot be reached, or does not give it.
    """
    import httpx2
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise AtlasError("HF_HUB_OFFLINE is set, so the Hub is not asked")
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        api = huggingface_hub.HfApi(library_name="neuron-atlas")
        commit = api.repo_info(repository.name, timeout=PATIENCE).sha
        if commit is None:
            raise AtlasError(f"the Hub does not say which commit of {repository.name} is the newest")
        api.snapshot_download(repository.name, revision=commit, local_dir=folder, allow_patterns=list(FILES))
    # hf_xet reports a broken transfer as a RuntimeError.
    except (errors.HfHubHTTPError, httpx2.HTTPError, errors.LocalEntryNotFoundError, OSError, RuntimeError) as error:
        raise AtlasError(f"the Hub does not give {repository.name} ({type(error).__name__})") from error
    finally:
        if shown:
            enable_progress_bars()
    return str(commit)
