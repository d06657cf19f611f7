"""Whether a prompt fits its model, found while it is encoded: what a pass would fail on, or take for another thing."""

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
"""Attributes of processors and tokenizers that are what stands for a medium in a text."""


@contextmanager
def encoding() -> Iterator[None]:
    """Within the block, whatever a processor raises about a prompt is one line.

    Raises:
        Unsupported: it raised something.
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
def passing() -> Iterator[None]:
    """Within the block, which calls the model, whatever its own code raises is one line.

    Raises:
        Unsupported: it raised something, for its settings do not fit each other or the prompt, or memory ran out.
    """
    try:
        yield
    except (AtlasError, Warning):
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise Unsupported(
            f"a pass does not fit into memory ({first_line(error)}); use a smaller --batch-size"
        ) from error
    except Exception as error:
        if through_ours(error):
            raise
        if _MISMATCH.search(str(error)):
            raise Unsupported(
                f"the processor leaves another number of places for media than the model fills ({first_line(error)}); "
                "give the processor's files that were saved with the model"
            ) from error
        raise Unsupported(
            f"the model's own code fails on the prompt ({type(error).__name__}: {first_line(error)}); give the "
            "config.json and generation_config.json that were saved with the weights"
        ) from error


class Fit:
    """What a model and its processor agree on. media_ids: the placeholder of each kind of medium. spare: ids beyond the
    vocabulary that mean something all the same."""

    def __init__(self, processor: Any, tokenizer: Any, config: Any, media_ids: Mapping[str, int], spare: Tensor):
        text = config.get_text_config(decoder=True)
        self.tokenizer, self.media_ids = tokenizer, media_ids
        self.vocabulary = getattr(text, "vocab_size", None)
        self.positions = _positions(text)
        self._spare = {*media_ids.values(), *spare.tolist()}
        found = {getattr(one, mark, None) for one in (processor, tokenizer) for mark in MARKS}
        found |= {tokenizer.convert_ids_to_tokens(token) for token in media_ids.values()}
        self.marks = sorted(mark for mark in found if isinstance(mark, str) and mark)
        self._patches = _patches(processor, config)

    def check_text(self, text: str) -> None:
        """Raise UsageError for a user's text with a placeholder in it, which would stand for a medium that is not there
        or not meant."""
        mark = next((mark for mark in self.marks if mark in text), None)
        if mark is not None:
            raise UsageError(
                f"the text {_short(text)} has '{mark}' in it, which stands for a picture or a recording to this model; "
                "leave it out: media are given beside the text, and come before it"
            )

    def check_processor(self, kinds: Sequence[str]) -> None:
        """Raise Unsupported where pictures are wanted and the processor cuts them into other patches than the model."""
        if IMAGE in kinds and self._patches:
            raise Unsupported(self._patches)

    def room(self, length: int, wanted: int) -> int:
        """How many tokens an answer may have behind so many: as many as wanted, or up to the end of the context.

        Raises:
            UsageError: none.
        """
        room = wanted if self.positions is None else min(wanted, self.positions - length)
        if room < 1:
            raise UsageError(
                f"a prompt of {length:,} tokens leaves an answer no room in {self.positions:,}; shorten it"
            )
        return room

    def check(
        self, text: str, ids: Sequence[int], answer: Sequence[int], kinds: Sequence[str], extras: Mapping[str, Tensor]
    ) -> None:
        """Check an encoded prompt and its answer.

        Raises:
            Unsupported: a medium has no place in the prompt, or has become NaN.
            UsageError: it is longer than the model's context, or has a token without an embedding.
        """
        for kind in sorted(set(kinds) - {AUDIO}):  # a recording may be too short to be heard, which is told elsewhere
            places, count = ids.count(self.media_ids[kind]), kinds.count(kind)
            if places < count:
                raise Unsupported(
                    f"the prompt has places for {places} of {count} {kind}s: the chat template or the processor leaves "
                    "the others out; give those that were saved with the model"
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
                    f"the processor made NaN or infinity of the prompt's media ({name}); look at its settings"
                )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _positions(text: Any) -> int | None:
    """How many tokens a language model reads: what it was made for, or what its rotary positions were stretched to."""
    found = getattr(text, "max_position_embeddings", None)
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    if not isinstance(found, int) or not isinstance(scaling, dict):
        return found if isinstance(found, int) else None
    first, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    stretched = first * factor if isinstance(first, int) and isinstance(factor, int | float) else 0
    return max(found, int(stretched))


def _patches(processor: Any, config: Any) -> str:
    """What is wrong with the size of the patches that a processor counts; "" where nothing is."""
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
