"""The strongest examples, against plain loops over everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from atlas.live.encode import ROLES
from atlas.live.hooks import tracing
from ingest.attribution import position_sums
from ingest.attribution.exemplars import Exemplars, _ranks
from ingest.attribution.item import Item
from ingest.attribution.position_sums import greatest, least
from ingest.attribution.trace import traced
from ingest.data.targets import Target

TEXTS = ["a dog", "two dogs and a cat", "red", "what is this ? a hot dog .", "describe", "barks meows"]


def items(live: Any) -> list[Item]:
    prompts = [live.encoder.prompt(text, answer="a dog") for text in TEXTS]
    return [Item(n, p, (Target("dog", 0, 1.0),)) for n, p in enumerate(prompts)]


def kept(live: Any, cuts: list[list[Item]]) -> Exemplars:
    exemplars = Exemplars(3)
    for some in cuts:
        with traced(live, some, "text", layers=None, tap="product", grad=False) as trace:
            exemplars.update(trace)
    return exemplars


def test_exemplars_are_the_largest_values_over_all_examples(opt: Any) -> None:
    every = items(opt)
    found = kept(opt, [every])
    peaks = []
    for item in every:
        batch = opt.batch([item.prompt])
        with torch.no_grad(), tracing(opt.layout) as capture:
            opt.forward(batch)
        peaks.append(torch.stack([capture.values[layer][0].amax(0) for layer in range(2)]))
        ids = batch.inputs["input_ids"][0]
        for layer, neuron in ((0, 3), (1, 40)):
            chosen = found.where["text"][:, layer, :, neuron]
            for k in range(3):
                if int(chosen[0, k]) == item.number:
                    values = capture.values[layer][0, :, neuron]
                    assert float(values[chosen[1, k]]) == pytest.approx(float(values.max()), abs=1e-6)
                    assert int(ids[chosen[1, k]]) == int(chosen[2, k])
                    assert ROLES[int(chosen[3, k])] in ("text", "special")
    expected = torch.stack(peaks).sort(0, descending=True).values[:3].transpose(0, 1)
    assert torch.allclose(found.values["text"], expected, atol=1e-6)


def test_exemplars_do_not_depend_on_batches_and_merge(opt: Any) -> None:
    every = items(opt)
    whole, cut = kept(opt, [every]), kept(opt, [every[4:], every[:1], every[1:4]])
    merged = Exemplars(3)
    for part in (every[3:], every[:3]):
        merged.merge(kept(opt, [part]).state())
    for other in (cut, merged):
        assert torch.allclose(other.values["text"], whole.values["text"], atol=1e-6)
        live_ones = whole.values["text"] > 1e-6  # equal zeros may come from any example
        same = other.where["text"] == whole.where["text"]
        assert bool(same[:, live_ones].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cells", [2**27, 150])
def test_least_and_greatest_leave_the_padding_out(dtype: Any, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position_sums, "CELLS", cells)
    generator = torch.Generator().manual_seed(0)
    for lengths in ([5, 9, 7], [9, 9, 9], [1, 2, 9]):
        layers = [torch.randn(3, 9, 11, generator=generator).to(dtype) for _ in range(4)]
        peak, at = greatest(layers, lengths)
        low = least(layers, lengths)
        for y, values in enumerate(layers):
            rows = [values[r, :length] for r, length in enumerate(lengths)]
            assert torch.equal(low[y], torch.cat(rows).amin(0))
            for r, row in enumerate(rows):
                assert torch.equal(peak[y, r], row.amax(0))
                assert torch.equal(row.gather(0, at[y, r][None])[0], peak[y, r])


def test_a_value_that_is_no_number_is_kept_wherever_it_is() -> None:
    values = torch.zeros(2, 6, 3)
    values[0, 1, 0] = values[0, 4, 1] = -torch.tensor(torch.nan)
    for lengths in ([6, 6], [6, 2]):
        peak, at = greatest([values], lengths)
        assert peak[0, 0].isnan().tolist() == [True, True, False] and at[0, 0, :2].tolist() == [1, 4]
    ranks = _ranks(
        torch.stack([torch.tensor(torch.nan), -torch.tensor(torch.nan), torch.tensor(3e38)]), torch.arange(3)
    )
    assert ranks[0] > ranks[1] > ranks[2]


def test_ranks_order_by_value_and_then_by_example() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 40, 50, generator=generator).round(decimals=1)
    values[0, :4, 0] = torch.tensor([-0.0, 0.0, torch.inf, -torch.inf])
    numbers = torch.rand(3, 40, 50, generator=generator).argsort(1).to(torch.int32)
    found = numbers.gather(1, _ranks(values, numbers).argsort(1, descending=True))
    for layer, neuron in ((0, 0), (1, 7), (2, 49)):
        pairs = zip(values[layer, :, neuron].tolist(), numbers[layer, :, neuron].tolist(), strict=True)
        assert found[layer, :, neuron].tolist() == [n for _, n in sorted(pairs, key=lambda p: (-p[0], p[1]))]
