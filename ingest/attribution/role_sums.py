"""Statistics of neuron values by token role, computed once for each role and combined for unions.

The roles of a prompt's positions are disjoint, so a union's sum, count and maximum follow from its members'.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas import token_roles
from atlas.live.encode import PAD
from atlas.token_roles import ROLES
from ingest.attribution.position_sums import chunks, sent
from ingest.attribution.trace import Trace

TEXT, SPECIAL, PROMPT = "text", "special", "prompt"
DISJOINT = tuple(role for role in ROLES if role != ROLES[PAD])
UNIONS: Mapping[str, tuple[str, ...]] = {**token_roles.UNIONS, PROMPT: DISJOINT}
ROWS = (*DISJOINT, *UNIONS)
"""The sources that a map of a modality method may have."""


def prompt_masks(trace: Trace) -> dict[str, Tensor]:
    """Role -> (B, T) bool, its positions, for each role in the batch's prompts; answers are left out."""
    if ("prompt_masks",) not in trace.shared:
        positions = torch.arange(trace.batch.roles.shape[1], device=trace.batch.roles.device)
        prompt = positions[None] < sent(trace.batch.starts, positions.device)[:, None]
        role_masks = {role: (trace.batch.roles == ROLES.index(role)) & prompt for role in DISJOINT}
        trace.shared["prompt_masks",] = {role: mask for role, mask in role_masks.items() if bool(mask.any())}
    masks: dict[str, Tensor] = trace.shared["prompt_masks",]
    return masks


def _unions(present: Container[str]) -> dict[str, list[str]]:
    """The unions that have a member among the roles present -> those members."""
    present_members = {union: [m for m in members if m in present] for union, members in UNIONS.items()}
    return {union: members for union, members in present_members.items() if members}


def with_unions(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks, and those of the unions that have a member among them."""
    unions = {union: torch.stack([masks[m] for m in members]).any(0) for union, members in _unions(masks).items()}
    return {**masks, **unions}


@dataclass(frozen=True, slots=True)
class RoleSums:
    """Sums over one role's positions in each row of a batch. count: (B,) positions. total, positive, mass: (L, B, N)
    sum of the values, number above zero, sum of absolute values."""

    count: Tensor
    total: Tensor
    positive: Tensor
    mass: Tensor


def sums(layers: Sequence[Tensor], masks: Mapping[str, Tensor]) -> dict[str, RoleSums]:
    """The sums for every disjoint role and every union. layers: (B, T, N) values each. masks: (B, T), of the disjoint
    roles."""
    roles = torch.stack(list(masks.values()), 1).float()  # (B, R, T)
    totals = roles.new_zeros(3, len(layers), *roles.shape[:2], layers[0].shape[-1])
    scratch: Tensor | None = None  # fresh memory for every chunk would cost more than the sums
    for index, values in enumerate(layers):
        for rows, span in chunks(values):
            mask, chunk, out = roles[rows, :, span], values[rows, span].float(), totals[:, index, rows]
            scratch = torch.empty_like(chunk) if scratch is None else scratch  # the first is the largest
            buffer = scratch[: chunk.shape[0], : chunk.shape[1]]
            out[0].baddbmm_(mask, chunk)
            out[1].baddbmm_(mask, torch.gt(chunk, 0, out=buffer))
            out[2].baddbmm_(mask, torch.abs(chunk, out=buffer))
    counts = roles.sum(-1)
    by_role = {role: RoleSums(counts[:, i], *totals[..., i, :]) for i, role in enumerate(masks)}
    for union, members in _unions(masks).items():
        member_sums = [by_role[m] for m in members]
        parts = zip(*((s.count, s.total, s.positive, s.mass) for s in member_sums), strict=True)
        by_role[union] = RoleSums(*(torch.stack(part).sum(0) for part in parts))
    return by_role


def peaks(layers: Sequence[Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(L, B, N): the largest value at the positions of every role and union; -inf where a row has no such position.

    Spans of positions within which no row changes its role are reduced first: they are few, and no value is read twice.
    """
    roles = torch.stack(list(masks.values()), 1)
    starts = (roles[..., 1:] != roles[..., :-1]).any(0).any(0).nonzero()[:, 0] + 1
    edges = starts.tolist()
    spans = torch.stack([torch.stack([s.amax(1) for s in values.tensor_split(edges, 1)], 1) for values in layers])
    bounds = torch.where(roles[:, :, torch.cat([starts.new_zeros(1), starts])], torch.inf, -torch.inf)
    # spans (L, B, S, N), bounds (B, R, S)
    by_role = {role: torch.minimum(spans.float(), bounds[:, i, :, None]).amax(2) for i, role in enumerate(masks)}
    for union, members in _unions(masks).items():
        by_role[union] = torch.stack([by_role[m] for m in members]).amax(0)
    return by_role


def sums_of(trace: Trace) -> dict[str, RoleSums]:
    """`sums` of all layers' values over the batch's prompts, computed once for all methods of a job."""
    if ("sums",) not in trace.shared:
        layers = [trace.capture.values[layer].detach() for layer in trace.layers]
        trace.shared["sums",] = sums(layers, prompt_masks(trace))
    by_role: dict[str, RoleSums] = trace.shared["sums",]
    return by_role
