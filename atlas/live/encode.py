"""Words and media to token ids and back, with the model's own processor, and the role of every position."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import AtlasWarning, Unsupported, UsageError
from atlas.live import families
from atlas.live.chat_template import Chat
from atlas.live.load.processors import NEEDS_TORCHVISION
from atlas.live.media import KINDS, Clip, Medium, Sound, kinds_of
from atlas.live.pixels import rgb
from atlas.live.prompt_fit import Fit, explain_encoding_errors
from atlas.token_roles import ROLES

PAD, TEXT_ROLE, SPECIAL, IMAGE_ROLE = 0, 1, 2, 3


class TokenRoles:
    """Which role each token id of a model has.

    special: the tokenizer's special ids; None without a tokenizer, where text and special tokens look alike.
    media_ids: the placeholder of each kind of medium.
    """

    def __init__(self, config: Any, special: Sequence[int] | None):
        self.pictures = torch.tensor(families.of(config).picture_ids(config), dtype=torch.long)
        self.special = None if special is None else torch.tensor(sorted(special))
        self.media_ids = {
            role: token
            for role in KINDS
            for token in [getattr(config, f"{role}_token_id", None) or getattr(config, f"{role}_token_index", None)]
            if token is not None
        }

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(batch, position) int8, an index into ROLES, from token ids and the mask of what is not padding."""
        special = self.special.to(ids.device) if self.special is not None else torch.tensor([], device=ids.device)
        roles = torch.where(torch.isin(ids, special), SPECIAL, TEXT_ROLE).to(torch.int8)
        for role, token in self.media_ids.items():
            roles[ids == token] = ROLES.index(role)
        if len(self.pictures):
            roles[torch.isin(ids, self.pictures.to(ids.device))] = IMAGE_ROLE
        roles[mask == 0] = PAD
        return roles


@dataclass(frozen=True, slots=True)
class Prompt:
    """One tokenised prompt, and after it the answer if there is one.

    extras: the processor's other outputs (pixel_values, ...), with a first dimension for this prompt.
    sizes: (height, width) of each of its pictures, as given.
    """

    ids: tuple[int, ...]
    answer: tuple[int, ...] = ()
    extras: dict[str, Tensor] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ()

    def answered(self, ids: Sequence[int]) -> Prompt:
        """The same prompt with these token ids as its answer."""
        return Prompt(self.ids, tuple(ids), self.extras, self.sizes)


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


TOKENWISE = ("token_type_ids", "mm_token_type_ids")
"""Outputs of processors that have one value per token."""


class CutRecording(AtlasWarning):
    """A recording is longer than its model can hear at once."""


_warned_lengths: set[int] = set()


def _warn_of_cut(samples: int, longest: int | None, rate: int) -> None:
    """Warn, once for each window, where a feature extractor (Whisper's) silently keeps the beginning alone."""
    if longest is None or samples <= longest or longest in _warned_lengths:
        return
    _warned_lengths.add(longest)
    seconds = longest / rate
    warnings.warn(
        f"this model hears {seconds:g} s of a recording: of longer ones (here {samples / rate:.1f} s) everything after "
        f"the first {seconds:g} s is left out; cut them into pieces so that all is heard",
        CutRecording,
        stacklevel=2,
    )


class Encoder:
    """A processor (or a tokenizer, for a text model) and the token ids that stand for media."""

    def __init__(self, processor: Any, config: Any):
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.family = families.of(config)
        self.role_of = TokenRoles(config, self.tokenizer.all_special_ids)
        self.media = frozenset(self.role_of.media_ids)
        self._chat = Chat(processor, self.tokenizer)
        self.fit = Fit(processor, self.tokenizer, config, self.role_of.media_ids, self.role_of.pictures)
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else (self.tokenizer.eos_token_id or 0)

    def render(self, prompt: str, kinds: Sequence[str] = (), answer: str | None = None) -> str:
        """See `atlas.live.chat_template.Chat.render`."""
        return self._chat.render(prompt, kinds, answer)

    def require(self, kinds: Iterable[str]) -> None:
        """Raise Unsupported where the model does not take media of these kinds."""
        for kind in kinds:
            if kind not in self.media:
                takes = ", ".join(("text", *sorted(self.media)))
                raise Unsupported(f"this model takes {takes}, not {kind}; choose other examples or another model")

    def prompt(self, prompt: str, media: Sequence[Medium] = (), answer: str | None = None) -> Prompt:
        """Tokenise a prompt with its media, and the reference answer as the model would write it.

        Raises:
            Unsupported: the model does not take such media, its processor cannot read them, or a package for them is
                missing.
            UsageError: the text has a placeholder in it or is longer than the model's context, or a medium is not one.
        """
        if not prompt.strip() and not media:
            raise UsageError("the prompt is empty and has no media; give it words, a picture or a recording")
        kinds = kinds_of(media)
        self.require(kinds)
        self.fit.check_processor(kinds)
        for text in (prompt, answer or ""):
            self.fit.check_text(text)
        with explain_encoding_errors():
            encoded = self._encoded(prompt, media, answer, kinds)
        self.fit.check(prompt, encoded.ids, encoded.answer, kinds, encoded.extras)
        return encoded

    def _encoded(self, prompt: str, media: Sequence[Medium], answer: str | None, kinds: Sequence[str]) -> Prompt:
        text = self.render(prompt, kinds)
        special = not self._begun(text, kinds)
        reader = self.processor if media else self.tokenizer
        features = reader(text=[text], **self._read(media), return_tensors="pt", add_special_tokens=special)
        ids = features.pop("input_ids")[0].tolist()
        extras = {k: v for k, v in features.items() if k not in ("attention_mask", "labels") and isinstance(v, Tensor)}
        sizes = tuple((m.height, m.width) for m in media if not isinstance(m, (Sound, Clip)))
        if answer is None:
            return Prompt(tuple(ids), (), extras, sizes)
        replaced, tail = self._continuation(text, self.render(prompt, kinds, answer))
        return Prompt(tuple(ids[: len(ids) - replaced]), tuple(tail), extras, sizes)

    def _begun(self, text: str, kinds: Sequence[str]) -> bool:
        """Whether a chat text already has its first token: at its beginning, or after its media (GILL)."""
        bos = self.tokenizer.bos_token
        marks = {str(mark) for kind in kinds if (mark := getattr(self.processor, f"{kind}_token", None))}
        while mark := next((candidate for candidate in marks if text.startswith(candidate)), ""):
            text = text.removeprefix(mark)
        return bool(bos) and text.startswith(bos)

    def _read(self, media: Sequence[Medium]) -> dict[str, Any]:
        """The processor's arguments for media."""
        arguments: dict[str, Any] = {}
        for medium in media:
            if isinstance(medium, Sound):
                rate = self.processor.feature_extractor.sampling_rate
                if not medium.finite:
                    raise UsageError("the recording has samples that are NaN or infinite")
                samples = medium.at(rate)
                _warn_of_cut(len(samples), getattr(self.processor.feature_extractor, "n_samples", None), rate)
                arguments.setdefault("audio", []).append(samples)
                arguments["sampling_rate"] = rate
            elif isinstance(medium, Clip):
                if not hasattr(self.processor, "video_processor"):
                    raise Unsupported(f"videos for this model need {NEEDS_TORCHVISION}")
                arguments.setdefault("videos", []).append([rgb(frame) for frame in medium.frames])
            else:
                arguments.setdefault("images", []).append(rgb(medium))
        return arguments

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
        inputs = {"input_ids": ids, "attention_mask": mask, **self._extras(prompts, starts, ids)}
        roles = self.role_of(ids, mask)
        return Batch({k: v.to(device) for k, v in inputs.items()}, roles.to(device), tuple(starts))

    def _extras(self, prompts: Sequence[Prompt], starts: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
        merged = {}
        for key in sorted({*self.family.token_types, *(k for p in prompts for k in p.extras)}):
            parts = {i: p.extras[key] for i, p in enumerate(prompts) if key in p.extras}
            if key not in TOKENWISE:
                merged[key] = stack(list(parts.values()))
                continue
            # The family decides the type of an answer's tokens, also after a prompt of text only, which has 0.
            types = torch.zeros_like(ids)
            for i, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
                if i in parts:
                    types[i, start - len(prompt.ids) : start] = parts[i][0, : len(prompt.ids)]
                types[i, start : start + len(prompt.answer)] = self.family.answer_type
            merged[key] = types
        return merged

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def ends(self, ids: Sequence[int]) -> list[int]:
        """For each token, where its text ends in `decode(ids)`; a token of half a character ends before it."""
        return [len(self.decode(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]

    def token(self, token: int) -> str:
        """One token as text: leading space kept, bytes that are not text shown as the tokenizer's own piece."""
        text = str(self.tokenizer.decode([token]))
        return text if "\ufffd" not in text else str(self.tokenizer.convert_ids_to_tokens(token))


def stack(parts: Sequence[Tensor]) -> Tensor:
    """Tensors joined along the first dimension; those smaller in another one (crops of a picture) are zero-padded,
    which every family reads as padding."""
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    return torch.cat(
        [
            part
            if list(part.shape[1:]) == largest
            else nn.functional.pad(
                part, [n for have, want in zip(part.shape[:0:-1], largest[::-1], strict=True) for n in (0, want - have)]
            )
            for part in parts
        ]
    )
