"""Whether a prompt fits its model, checked while it is encoded: what a pass would fail on or misread."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from atlas.errors import AtlasError, Unsupported, UsageError
from atlas.live.load.load_errors import first_line, is_defect, through_ours
from atlas.live.media import AUDIO, IMAGE, KINDS

MARKS = (*(f"{kind}_token" for kind in KINDS), "boi_token", "image_placeholder")
"""Attributes of processors and tokenizers that hold a medium's placeholder."""


@contextmanager
def explain_encoding_errors() -> Iterator[None]:
    """Within the block, turn whatever a processor raises about a prompt into an error of one line.

    Raises:
        Unsupported: the processor raised an exception.
    """
    try:
        yield
    except (AtlasError, Warning):
        raise
    except Exception as error:
        if is_defect(error):
            raise
        raise Unsupported(
            f"this model's processor cannot read the prompt: {first_line(error)}; give the processor's files that were "
            "saved with the model"
        ) from error


_MISMATCH = re.compile(r"(features|tokens)\b.* do(es)? not match", re.IGNORECASE)


@contextmanager
def explain_pass_errors() -> Iterator[None]:
    """Within the block, which calls the model, turn whatever its own code raises into an error of one line.

    Raises:
        Unsupported: its settings do not match each other or the prompt, or memory ran out.
    """
    try:
        yield
    except (AtlasError, Warning):
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise Unsupported(
            f"a pass does not fit into memory ({first_line(error)}); use a smaller [[batch_size]]"
        ) from error
    except Exception as error:
        if through_ours(error):
            raise
        if _MISMATCH.search(str(error)):
            raise Unsupported(
                f"the processor makes another number of placeholders than the model fills ({first_line(error)}); "
                "give the processor's files that were saved with the model"
            ) from error
        raise Unsupported(
            f"the model's own code fails on the prompt ({type(error).__name__}: {first_line(error)}); give the "
            "config.json and generation_config.json that were saved with the weights"
        ) from error


class Fit:
    """What a model and its processor must agree on. media_ids: the placeholder of each kind of medium.
    without_embedding: ids beyond the vocabulary that are allowed nevertheless."""

    def __init__(
        self, processor: Any, tokenizer: Any, config: Any, media_ids: Mapping[str, int], without_embedding: Tensor
    ):
        text = config.get_text_config(decoder=True)
        self.tokenizer, self.media_ids = tokenizer, media_ids
        self.vocabulary = getattr(text, "vocab_size", None)
        self.positions = _positions(text)
        self._spare = {*media_ids.values(), *without_embedding.tolist()}
        names = {getattr(source, mark, None) for source in (processor, tokenizer) for mark in MARKS}
        names |= {tokenizer.convert_ids_to_tokens(token) for token in media_ids.values()}
        self.marks = sorted(mark for mark in names if isinstance(mark, str) and mark)
        self._patches = _patches(processor, config)

    def check_text(self, text: str) -> None:
        """Raise UsageError for a user's text that contains a placeholder, which would stand for a missing or unintended
        medium."""
        mark = next((mark for mark in self.marks if mark in text), None)
        if mark is not None:
            raise UsageError(
                f"the text {_short(text)} contains '{mark}', which this model reads as a picture or a recording; "
                "leave it out: media are given beside the text, and come before it"
            )

    def check_processor(self, kinds: Sequence[str]) -> None:
        """Raise Unsupported for pictures where the processor cuts them into other patches than the model."""
        if IMAGE in kinds and self._patches:
            raise Unsupported(self._patches)

    def room(self, length: int, max_new_tokens: int) -> int:
        """How many tokens an answer to a prompt of `length` tokens may have: up to the end of the context.

        Raises:
            UsageError: there is no room for one.
        """
        room = max_new_tokens if self.positions is None else min(max_new_tokens, self.positions - length)
        if room < 1:
            raise UsageError(
                f"a prompt of {length:,} tokens leaves no room for an answer in {self.positions:,}; shorten it"
            )
        return room

    def check(
        self, text: str, ids: Sequence[int], answer: Sequence[int], kinds: Sequence[str], extras: Mapping[str, Tensor]
    ) -> None:
        """Check an encoded prompt and its answer.

        Raises:
            Unsupported: a medium has no placeholder in the prompt, or has become NaN.
            UsageError: it is longer than the model's context, or has a token without an embedding.
        """
        for kind in sorted(
            set(kinds) - {AUDIO}
        ):  # a recording may be too short to be heard, which is reported elsewhere
            places, count = ids.count(self.media_ids[kind]), kinds.count(kind)
            if places < count:
                raise Unsupported(
                    f"the prompt has placeholders for {places} of {count} {kind}s: the chat template or the processor "
                    "leaves the others out; give the ones that were saved with the model"
                )
        length = len(ids) + len(answer)
        if self.positions is not None and length > self.positions:
            raise UsageError(
                f"the prompt {_short(text)} takes {length:,} tokens with its answer and media, and this model reads "
                f"{self.positions:,}; shorten it"
            )
        beyond = [i for i in (*ids, *answer) if self.vocabulary and i >= self.vocabulary and i not in self._spare]
        if beyond:
            raise UsageError(
                f"the token '{self.tokenizer.convert_ids_to_tokens(beyond[0])}' of {_short(text)} has no embedding: "
                "give the tokenizer that was saved with the weights"
            )
        for name, value in extras.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise Unsupported(
                    f"the processor turned the prompt's media into NaN or infinity ({name}); check its settings"
                )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _positions(text: Any) -> int | None:
    """How many tokens a language model reads: its trained length, or the length its rotary positions are scaled to."""
    trained = getattr(text, "max_position_embeddings", None)
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    if not isinstance(trained, int) or not isinstance(scaling, dict):
        return trained if isinstance(trained, int) else None
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    stretched = original * factor if isinstance(original, int) and isinstance(factor, int | float) else 0
    return max(trained, int(stretched))


def _patches(processor: Any, config: Any) -> str:
    """What is wrong with the patch size of a processor; "" where it is right."""
    model = getattr(getattr(config, "vision_config", None), "patch_size", None)
    if not hasattr(processor, "patch_size") or not isinstance(model, int):
        return ""
    if processor.patch_size is None:
        return f'the processor has no patch_size; write "patch_size": {model} into processor_config.json'
    if isinstance(processor.patch_size, int) and processor.patch_size != model:
        return (
            f"the processor counts patches of {processor.patch_size} pixels and the model's are of {model}; write "
            f'"patch_size": {model} into processor_config.json'
        )
    return ""
