"""Statistics of neuron values by token role, computed once a role and combined for unions.

The roles of a prompt's positions are disjoint, so a union's sum, count and maximum follow from its members'.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas.live.encode import PAD, ROLES
from ingest.trace import Trace, row_chunks

TEXT, SPECIAL, PROMPT, SPECIAL_TEXT = "text", "special", "prompt", "special_text"
DISJOINT = tuple(role for role in ROLES if role != ROLES[PAD])
UNIONS: Mapping[str, tuple[str, ...]] = {SPECIAL_TEXT: (TEXT, SPECIAL), PROMPT: DISJOINT}
ROWS = (*DISJOINT, *UNIONS)
"""What a map of a modality method may have as its source."""


def prompt_masks(trace: Trace) -> dict[str, Tensor]:
    """Each role that the batch's prompts have -> (B, T) bool, its positions; the answer's positions have none."""
    if ("prompt_masks",) not in trace.shared:
        positions = torch.arange(trace.batch.roles.shape[1], device=trace.batch.roles.device)
        prompt = positions[None] < torch.tensor(trace.batch.starts, device=positions.device)[:, None]
        found = {role: (trace.batch.roles == ROLES.index(role)) & prompt for role in DISJOINT}
        trace.shared["prompt_masks",] = {role: mask for role, mask in found.items() if bool(mask.any())}
    masks: dict[str, Tensor] = trace.shared["prompt_masks",]
    return masks


def _unions(present: Container[str]) -> dict[str, list[str]]:
    """The unions that have a member among the roles present -> those members."""
    mine = {union: [m for m in members if m in present] for union, members in UNIONS.items()}
    return {union: members for union, members in mine.items() if members}


def with_unions(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks, and those of the unions of which they have a member."""
    unions = {union: torch.stack([masks[m] for m in members]).any(0) for union, members in _unions(masks).items()}
    return {**masks, **unions}


@dataclass(frozen=True, slots=True)
class Sums:
    """Over one role's positions in each row of a batch. count: (B,). total, positive, mass: (B, N) sum of the values,
    number above zero, sum of their sizes."""

    count: Tensor
    total: Tensor
    positive: Tensor
    mass: Tensor


def _stacked(masks: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(masks.values()), 1)


def sums(values: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Sums]:
    """For every disjoint role and every union: values (B, T, N), masks of the disjoint roles, (B, T) each."""
    roles, parts = _stacked(masks).float(), []  # (B, R, T)
    for rows in row_chunks(values):
        mine, chunk = roles[rows], values[rows].float()
        # Products with 0 and 1 run several times as fast as masks do.
        total, mass = mine @ chunk, mine @ chunk.abs()
        parts.append((total, mine @ chunk.clamp(min=0).sign_(), mass))
    found = {
        role: Sums(roles[:, i].sum(-1), *(torch.cat([p[k][:, i] for p in parts]) for k in range(3)))
        for i, role in enumerate(masks)
    }
    for union, members in _unions(masks).items():
        of = [found[m] for m in members]
        found[union] = Sums(
            torch.stack([s.count for s in of]).sum(0),
            torch.stack([s.total for s in of]).sum(0),
            torch.stack([s.positive for s in of]).sum(0),
            torch.stack([s.mass for s in of]).sum(0),
        )
    return found


def peaks(values: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(B, N) the largest value at the positions of every role and union; -inf where a row has no such position.

    Spans of positions, in each of which no row changes its role, are reduced first: they are few, and no value is
    read twice.
    """
    roles = _stacked(masks)
    starts = (roles[..., 1:] != roles[..., :-1]).any(0).any(0).nonzero()[:, 0] + 1
    spans = torch.stack([span.amax(1) for span in values.tensor_split(starts.cpu(), 1)], 1).float()  # (B, S, N)
    bounds = torch.where(roles[:, :, torch.cat([starts.new_zeros(1), starts])], torch.inf, -torch.inf)
    found = {role: torch.minimum(spans, bounds[:, i, :, None]).amax(1) for i, role in enumerate(masks)}
    for union, members in _unions(masks).items():
        found[union] = torch.stack([found[m] for m in members]).amax(0)
    return found


def sums_of(trace: Trace, layer: int) -> dict[str, Sums]:
    """`sums` of a layer's values over the batch's prompts, computed once for all methods of a job."""
    key = ("sums", layer)
    if key not in trace.shared:
        trace.shared[key] = sums(trace.capture.values[layer].detach(), prompt_masks(trace))
    found: dict[str, Sums] = trace.shared[key]
    return found
