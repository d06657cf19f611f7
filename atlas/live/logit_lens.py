"""A neuron as words: its write vector through the unembedding (logit lens), plainly and standardised, in blocks.

The plain projection of neuron n on token w is u_w . v_n, the product of the token's unembedding row and the neuron's
write vector (Pan et al. 2023, section 1.4 of their code): the logit that the neuron adds at value 1, up to the final
norm. On a large vocabulary its largest values belong to the tokens with the longest rows, whatever the neuron. So

    z[n, w] = (u_w . v_n / |v_n| - mean_w) / sd_w

standardises every token's projection over all neurons of the language model. With m = mean and C = covariance of the
write vectors of length 1, mean_w = u_w . m and sd_w = sqrt(u_w' C u_w).

In both the gain of a norm after the FFN is included, and the final norm is left out: its scale depends on the position,
and with its gain z found the words that neurons raise no better (docs/methods.md). A bias of the head is left out of
the plain projection, and cancels in z.

The full table of neurons by vocabulary is never built: 352,256 neurons by 32,000 tokens would be 45 GB, a block of 512
neurons is 64 MB.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from atlas.live.matmul import product
from atlas.live.model import LiveModel
from atlas.live.norms import write_gain
from atlas.query.decoded import BOTTOM, PLAIN, TOP, Z

BLOCK = 512
"""Neurons at a time."""

LEAST_SPREAD = 1e-5
"""Tokens whose sd is less than this share of their row's length have no z: their projections are equal but for
rounding."""

SAMPLE = 2**24
"""Numbers of an unembedding on which the time of decoding is measured."""

LONG_SHARE = 0.01
"""The share of the words whose rows count as long."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The strongest tokens of some consecutive neurons of one layer.

    projection: z or plain. side: top (raised most) or bottom (lowered most). tokens: (neurons, k) int32, best first;
    -1 where there is none, which is so for a write vector of zeros. values: (neurons, k) float32: of z in standard
    deviations over neurons, of plain in logits.
    """

    layer: int
    first: int
    projection: str
    side: str
    tokens: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Of every token's projection over all neurons whose write vector is not zeros, each of length 1.

    mean, sd: (vocabulary,) float32. hidden: ids of tokens that are no words, or whose sd is no more than rounding.
    """

    mean: Tensor
    sd: Tensor
    hidden: Tensor

    def standardise(self, projected: Tensor, length: Tensor) -> Tensor:
        """(neurons, vocabulary): z times the neuron's length, which orders a neuron's tokens as z does.

        projected: u . v, which is overwritten. length: (neurons,) of v."""
        return projected.addr_(length, self.mean, alpha=-1).mul_(1 / self.sd)


class Lens:
    """A model's unembedding and its neurons' write vectors.

    rows: (vocabulary, d_model). hidden: ids of tokens that are no words.
    """

    def __init__(self, live: LiveModel):
        self.layout = live.layout
        self.rows = live.layout.unembedding().detach()
        if not self.rows.is_cuda:
            self.rows = self.rows.float()  # once, where `product` would do it for every block
        self.hidden = torch.tensor(_not_words(live), dtype=torch.long, device=self.rows.device)

    def write(self, layer: int) -> Tensor:
        """(neurons, d_model): a layer's write vectors times the gain of the norm after its FFN, on the rows' device."""
        write = self.layout.write_vectors(layer)
        if (gain := write_gain(self.layout, layer)) is not None:
            write = write.float() * gain.to(write.device)[:, None]
        vectors: Tensor = write.detach().to(self.rows.device).T
        return vectors

    @cached_property
    def long_rows(self) -> Tensor:
        """The ids of the 1 % of words with the longest rows, at least one."""
        lengths: Tensor = torch.linalg.vector_norm(self.rows.float(), dim=1)
        words = len(lengths) - len(self.hidden)
        lengths[self.hidden] = -1
        return lengths.topk(min(max(1, round(LONG_SHARE * words)), words)).indices.cpu()

    @cached_property
    def moments(self) -> Moments:
        """See `Moments`; in double precision where sums are long."""
        d_model, device = self.rows.shape[1], self.rows.device
        total, count = torch.zeros(d_model, dtype=torch.float64), 0
        for unit in self._units():
            total, count = total + exact(unit).sum(0).cpu(), count + len(unit)
        center = total / max(count, 1)
        covariance = torch.zeros(d_model, d_model, dtype=torch.float64)
        for unit in self._units():
            centred = unit - center.to(unit)
            covariance += (centred.T @ centred).cpu().double()
        covariance /= max(count, 1)
        mean, sd = [torch.empty(0)], [torch.empty(0)]
        for rows in torch.split(self.rows, 4096):
            double = exact(rows)
            mean.append((double @ center.to(double)).float().cpu())
            sd.append((double @ covariance.to(double) * double).sum(1).clamp(min=0).sqrt().float().cpu())
        mean_of_all, sd_of_all = torch.cat(mean).to(device), torch.cat(sd).to(device)
        lengths = torch.linalg.vector_norm(self.rows.float(), dim=1)
        lacking = (sd_of_all <= LEAST_SPREAD * lengths).nonzero()[:, 0]
        return Moments(mean_of_all, sd_of_all, torch.unique(torch.cat([self.hidden, lacking])))

    def _units(self) -> Iterator[Tensor]:
        """Each layer's write vectors of length 1, without those that are zeros."""
        for layer in range(len(self.layout.layers)):
            write = self.write(layer).float()
            length = torch.linalg.vector_norm(write, dim=1, keepdim=True)
            yield (write / length)[length[:, 0] > 0]


@torch.no_grad()
def decode(
    live: LiveModel,
    *,
    projections: tuple[str, ...] = (Z, PLAIN),
    top: int = 10,
    block: int = BLOCK,
    progress: Progress = lambda done, total: None,
) -> Iterator[Decoded]:
    """Top and bottom tokens of every neuron of the language model, `block` neurons at a time, from one product.

    projections: z, plain or both. progress: called with how many layers are done. A model of which no token has a z (of
    one neuron, say) has no tokens by z.
    """
    lens = Lens(live)
    moments = lens.moments if Z in projections else None
    layers = len(live.layout.layers)
    for layer in range(layers):
        write = lens.write(layer)
        for first in range(0, len(write), block):
            vectors = write[first : first + block]
            length = torch.linalg.vector_norm(vectors.float(), dim=1)
            written = length[:, None] > 0
            for kind, tokens, values in _read(vectors, length, lens.rows, lens.hidden, moments, projections, top):
                shown = torch.where(written, tokens, -1).int().cpu()
                yield Decoded(layer, first, *kind, shown, torch.where(written, values, 0.0).cpu())
        progress(layer + 1, layers)


def _read(
    vectors: Tensor,
    length: Tensor,
    rows: Tensor,
    hidden: Tensor,
    moments: Moments | None,
    projections: Sequence[str],
    top: int,
) -> Iterator[tuple[tuple[str, str], Tensor, Tensor]]:
    """(projection, side), and the tokens and values of some neurons by it, (neurons, k), from one product.

    vectors, length: (neurons, d_model) and (neurons,). rows: (vocabulary, d_model)."""
    projected = product(vectors, rows.T)
    if PLAIN in projections:
        for side, tokens, values in _strongest(projected, hidden, top):
            yield (PLAIN, side), tokens, values
    if moments is not None:
        # The hidden columns are infinite now, and are filled again.
        for side, tokens, values in _strongest(moments.standardise(projected, length), moments.hidden, top):
            yield (Z, side), tokens, values / length[:, None]


def _strongest(values: Tensor, hidden: Tensor, top: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each side, the columns with the largest or smallest values of each row, and these, (rows, top) each, or as
    many as there are columns that are not hidden."""
    count = min(top, values.shape[1] - len(hidden))
    for side, largest in ((TOP, True), (BOTTOM, False)):
        values[:, hidden] = -torch.inf if largest else torch.inf
        best, at = values.topk(count, dim=1, largest=largest)
        yield side, at, best


def choices(live: LiveModel, top: int) -> dict[tuple[int, str], Tensor]:
    """(layer, "top" or "bottom") -> (N, top) token ids, best first, -1 where there is none, by the plain projection,
    as methods and properties of papers define a neuron's tokens."""
    parts: dict[tuple[int, str], list[Tensor]] = {}
    for block in decode(live, projections=(PLAIN,), top=top):
        parts.setdefault((block.layer, block.side), []).append(block.tokens)
    return {key: torch.cat(blocks) for key, blocks in parts.items()}


def exact(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where their device has no such type."""
    return (values.cpu() if values.device.type == "mps" else values).double()


@torch.no_grad()
def predicted_seconds(neurons: int, d_model: int, vocabulary: int, device: torch.device, dtype: torch.dtype) -> float:
    """The time of `decode`, from that of a block of random vectors and a part of the vocabulary, measured now."""
    part = max(1, min(vocabulary, SAMPLE // d_model))
    rows = torch.randn(part, d_model, device=device).to(dtype if device.type == "cuda" else torch.float32)
    vectors, none = torch.randn(BLOCK, d_model, device=device).to(rows), torch.zeros(0, dtype=torch.long, device=device)
    length = torch.linalg.vector_norm(vectors.float(), dim=1)
    moments = Moments(torch.zeros(part, device=device), torch.ones(part, device=device), none)

    def block() -> None:
        for _, tokens, values in _read(vectors, length, rows, none, moments, (Z, PLAIN), 10):
            tokens.cpu(), values.cpu()

    def spread() -> None:
        (vectors.float().T @ vectors.float()).cpu().double()

    blocks = neurons / BLOCK
    return blocks * (_seconds_of(block) * vocabulary / part + 2 * _seconds_of(spread))


def predicted_bytes(neurons: int, d_model: int, vocabulary: int, device: torch.device, dtype: torch.dtype) -> int:
    """The memory that `decode` takes besides the model's, with all that it gives: a block's projections, the sums of
    products behind the moments, and on a CPU the unembedding in float32."""
    copied = 4 * vocabulary * d_model if device.type != "cuda" and dtype != torch.float32 else 0
    moments = 8 * d_model * (3 * d_model + 2 * min(4096, vocabulary))
    given = neurons * 2 * len((Z, PLAIN)) * 10 * (4 + 4)
    return copied + max(2 * BLOCK * 4 * vocabulary, moments) + (given if device.type != "cuda" else 0)


def _seconds_of(work: Callable[[], None]) -> float:
    """The time of work that has been done once before, by the median of three."""
    work()
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[1]


def _not_words(live: LiveModel) -> list[int]:
    """Token ids that are not words: special tokens, media placeholders, rows beyond the tokenizer's end."""
    known = len(live.encoder.tokenizer)
    named = {*live.encoder.tokenizer.all_special_ids, *live.encoder.role_of.media_ids.values()}
    return sorted(i for i in {*named, *range(known, live.layout.vocabulary)} if i < live.layout.vocabulary)
