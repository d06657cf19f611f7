"""Words and pictures to token ids and back, with the model's own processor, and the role of every position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atlas.where import ROLES

if TYPE_CHECKING:
    from PIL.Image import Image

PAD, TEXT_ROLE, SPECIAL, IMAGE_ROLE = 0, 1, 2, 3


class TokenRoles:
    """Which role each token id of a model has.

    special: the tokenizer's special ids; None where there is no tokenizer, so that text cannot be told from them.
    """

    def __init__(self, config: Any, special: Sequence[int] | None):
        self.special = None if special is None else torch.tensor(sorted(special))
        self.media_ids = {
            role: token
            for role in ("image", "video", "audio")
            for token in [getattr(config, f"{role}_token_id", None) or getattr(config, f"{role}_token_index", None)]
            if token is not None
        }

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(batch, position) int8, an index into ROLES, from token ids and the mask of what is no padding."""
        special = self.special.to(ids.device) if self.special is not None else torch.tensor([], device=ids.device)
        roles = torch.where(torch.isin(ids, special), SPECIAL, TEXT_ROLE).to(torch.int8)
        for role, token in self.media_ids.items():
            roles[ids == token] = ROLES.index(role)
        roles[mask == 0] = PAD
        return roles


@dataclass(frozen=True, slots=True)
class Prompt:
    """One tokenised prompt, and after it the answer if there is one.

    extras: what else the processor made for it (pixel_values, ...), with a first dimension for this prompt.
    """

    ids: tuple[int, ...]
    answer: tuple[int, ...] = ()
    extras: dict[str, Tensor] = field(default_factory=dict)

    def answered(self, ids: Sequence[int]) -> Prompt:
        return Prompt(self.ids, tuple(ids), self.extras)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded prompts, ready for the model.

    inputs: the model's keyword arguments. roles: (batch, position) int8, an index into ROLES.
    starts: for each row, the position of its first answer token.
    """

    inputs: dict[str, Tensor]
    roles: Tensor
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.starts)


class Encoder:
    """A processor (or a tokenizer, for a text model) and the token ids that stand for media."""

    def __init__(self, processor: Any, config: Any):
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.role_of = TokenRoles(config, self.tokenizer.all_special_ids)
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else (self.tokenizer.eos_token_id or 0)

    def render(self, prompt: str, images: int, answer: str | None = None) -> str:
        """The model's chat text: the user's turn and, with an answer, everything up to the answer's end."""
        if not getattr(self.processor, "chat_template", None):
            text = getattr(self.processor, "image_token", "") * images + prompt
            return text if answer is None else f"{text} {answer}"
        turns: list[dict[str, Any]] = [{"role": "user", "content": self._content(prompt, images)}]
        # A tokenizer, other than a processor, makes token ids of it by default.
        text = str(self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        if answer is None:
            return text
        turns.append({"role": "assistant", "content": self._content(answer)})
        full = str(self.processor.apply_chat_template(turns, tokenize=False))
        # The first occurrence: what the template puts behind the answer ("</s>") may have its letters too.
        at = full.find(answer, len(text))
        if full.startswith(text) and at >= 0:
            return full[: at + len(answer)]
        return f"{text} {answer}" if not text.endswith((" ", "\n")) else f"{text}{answer}"

    def _content(self, text: str, images: int = 0) -> str | list[dict[str, str]]:
        """A turn's content in the form its template reads: parts for a processor, plain text for a tokenizer."""
        if self.processor is self.tokenizer and not images:
            return text
        return [{"type": "image"}] * images + [{"type": "text", "text": text}]

    def prompt(self, prompt: str, images: Sequence[Image] = (), answer: str | None = None) -> Prompt:
        """Tokenise a prompt with its pictures, and the reference answer as the model would write it."""
        text = self.render(prompt, len(images))
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        if images:
            made = self.processor(text=[text], images=list(images), return_tensors="pt", add_special_tokens=special)
        else:
            made = self.tokenizer([text], return_tensors="pt", add_special_tokens=special)
        ids = made.pop("input_ids")[0].tolist()
        extras = {k: v for k, v in made.items() if k != "attention_mask" and isinstance(v, Tensor)}
        if answer is None:
            return Prompt(tuple(ids), (), extras)
        kept, tail = self._continuation(text, self.render(prompt, len(images), answer))
        return Prompt(tuple(ids[: len(ids) - kept]), tuple(tail), extras)

    def _continuation(self, text: str, full: str) -> tuple[int, list[int]]:
        """How many of the prompt's last tokens the answer replaces, and the tokens from there on.

        A tokenizer may merge the prompt's end with the answer's beginning; the media placeholders are not
        expanded here, so only the texts' common beginning matters.
        """
        before = self.tokenizer(text, add_special_tokens=False).input_ids
        after = self.tokenizer(full, add_special_tokens=False).input_ids
        common = 0
        while common < min(len(before), len(after)) and before[common] == after[common]:
            common += 1
        return len(before) - common, after[common:]

    def batch(self, prompts: Sequence[Prompt], device: torch.device, *, left: bool = False) -> Batch:
        """Pad prompts and answers into one batch; `left` for generation, right for a teacher-forced pass."""
        rows = [p.ids + p.answer for p in prompts]
        length = max(len(r) for r in rows)
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        starts = []
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            shift = length - len(row) if left else 0
            ids[i, shift : shift + len(row)] = torch.tensor(row)
            mask[i, shift : shift + len(row)] = 1
            starts.append(shift + len(prompt.ids))
        inputs = {"input_ids": ids, "attention_mask": mask, **self._extras(prompts, ids, mask)}
        roles = self.role_of(ids, mask)
        return Batch({k: v.to(device) for k, v in inputs.items()}, roles.to(device), tuple(starts))

    def _extras(self, prompts: Sequence[Prompt], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        merged = {}
        for key in sorted({k for p in prompts for k in p.extras}):
            parts = [(i, p.extras[key]) for i, p in enumerate(prompts) if key in p.extras]
            if all(part.shape == (1, len(prompts[i].ids)) for i, part in parts):  # one value a token
                whole = torch.zeros_like(ids, dtype=parts[0][1].dtype)
                for i, part in parts:
                    first = int(mask[i].argmax())
                    whole[i, first : first + part.shape[1]] = part[0]
                merged[key] = whole
            else:
                merged[key] = torch.cat([part for _, part in parts])
        return merged

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def ends(self, ids: Sequence[int]) -> list[int]:
        """For each token, where its text ends in `decode(ids)`; a token of half a character ends before it."""
        return [len(self.decode(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]

    def token(self, token: int) -> str:
        """One token as text: leading space kept, bytes that are no text shown as the tokenizer's own piece."""
        text = str(self.tokenizer.decode([token]))
        return text if "\ufffd" not in text else str(self.tokenizer.convert_ids_to_tokens(token))
