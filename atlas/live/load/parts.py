"""Loading of HuggingFace models that are not the atlas's subject: those of encoders and metrics."""

from __future__ import annotations

from typing import Any

from atlas.errors import UsageError


def load_part(loader: Any, model: str, revision: str, *, needed: str, failed: str, **options: Any) -> Any:
    """`loader.from_pretrained` without output; a model must have all of its weights, except an unused pooler.

    needed: the message where no model is given. failed: the beginning of the message where it cannot be loaded.

    Raises:
        UsageError: no model is given, or it cannot be loaded.
    """
    from transformers.utils import logging

    from atlas.live.load.completeness import is_model, read_weights

    if not model:
        raise UsageError(needed)
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # else it prints a table of the unused weights
    try:
        if not is_model(loader):
            return loader.from_pretrained(model, revision=revision or None, **options)
        unused = ("pooler.",) if loader.__name__ == "AutoModel" else ()
        return read_weights(loader, model, part=True, unused=unused, revision=revision or None, **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"{failed} cannot load the model '{model}': {first_line(error)}") from error
    finally:
        logging.set_verbosity(before)


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def longest(tokenizer: Any, positions: int) -> int:
    """How many tokens a text may have: the tokenizer's limit, which many leave at 10^30, or the model's."""
    return int(min(tokenizer.model_max_length, positions))
