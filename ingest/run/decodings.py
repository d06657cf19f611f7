"""Every neuron of a model as tokens, once for each model: decoded after the examples, and stored with the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from atlas.live.logit_lens import Decoded, Lens, decode
from atlas.live.model import LiveModel
from atlas.neurons import LANGUAGE
from atlas.query.decoded import TOP
from atlas.store.arrow_types import arrow_schema
from atlas.store.schema import decodings
from ingest.run.map_step import Progress

STORED = 10
"""Tokens stored for each neuron, projection and side."""

COUNTED = 6
"""Of a neuron's tokens, those that are counted in the share of long-row tokens."""


@dataclass(frozen=True, slots=True)
class DecodedNeurons:
    """The tokens of all neurons, and what a run records of them.

    facts: long_row_tokens, for each projection the share of the neurons' first six tokens that are among the 1 % of
    tokens with the longest unembedding rows: 0.01 where long rows are not favoured.
    """

    blocks: list[Decoded]
    facts: Mapping[str, Any]


def decode_neurons(live: LiveModel, progress: Progress = lambda done, total: None, top: int = STORED) -> DecodedNeurons:
    """Decode all neurons. progress: called with how many layers are done."""
    blocks = []
    long_rows = Lens(live).long_rows
    long: dict[str, int] = {}
    counted: dict[str, int] = {}
    for block in decode(live, top=top, progress=progress):
        blocks.append(block)
        if block.side == TOP:
            first = block.tokens[:, :COUNTED]
            long[block.projection] = long.get(block.projection, 0) + int(torch.isin(first, long_rows).sum())
            counted[block.projection] = counted.get(block.projection, 0) + int((first >= 0).sum())
    shares = {name: round(long[name] / count, 6) for name, count in sorted(counted.items()) if count}
    return DecodedNeurons(blocks, {"long_row_tokens": shares})


def decodings_batches(live: LiveModel, decoded: DecodedNeurons) -> Iterator[pa.RecordBatch]:
    """The rows of `decodings`."""
    schema = arrow_schema(decodings)
    names = pa.array([live.encoder.token(token) for token in range(live.layout.vocabulary)], pa.string())
    for block in decoded.blocks:
        tokens = block.tokens.numpy()
        has = tokens >= 0
        ids = pa.array(tokens[has].astype(np.int32))
        offsets = pa.array(np.concatenate([[0], has.sum(1).cumsum()]).astype(np.int32))
        count = len(tokens)
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(np.zeros(count, dtype=np.int32)),
                pa.array([LANGUAGE] * count),
                pa.array(np.full(count, block.layer, dtype=np.int16)),
                pa.array(np.arange(block.first, block.first + count, dtype=np.int32)),
                pa.array([block.projection] * count),
                pa.array([block.side] * count),
                pa.ListArray.from_arrays(offsets, names.take(ids)),
                pa.ListArray.from_arrays(offsets, ids),
                pa.ListArray.from_arrays(offsets, pa.array(block.values.numpy()[has])),
            ],
            schema=schema,
        )
