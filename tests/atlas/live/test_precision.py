"""Products of half-precision tensors: what is left to a GPU is told by tests/gpu."""

from __future__ import annotations

import pytest
import torch

from atlas.live.matmul import _terms, calling, product


def test_three_terms_of_bfloat16_are_a_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator) * 10.0 ** torch.randint(-30, 37, (1000,), generator=generator)
    terms = _terms(values, torch.bfloat16)
    assert terms is not None and len(terms) == 3
    assert torch.equal(torch.stack(terms).double().sum(0), values.double())
    large = torch.tensor([torch.inf, -torch.inf])
    terms = _terms(large, torch.bfloat16)
    assert terms is not None and torch.equal(torch.stack(terms).float().sum(0), large)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_needs_no_splitting_is_left_whole(dtype: torch.dtype) -> None:
    values = torch.randn(5).to(dtype)
    found = _terms(values, dtype)
    assert found is None if dtype == torch.float32 else found is not None and found[0] is values
    assert _terms(torch.randn(5), torch.float16) is None, "its range is too small"


@pytest.mark.parametrize("batch", [(), (4,)])
def test_on_the_cpu_both_are_converted(batch: tuple[int, ...]) -> None:
    a, b = torch.randn(*batch, 3, 16), torch.randn(*batch, 16, 5).bfloat16()
    found = product(a, b)
    assert found.dtype == torch.float32 and torch.equal(found, a @ b.float())


def test_a_module_in_half_precision_computes_in_single_where_it_is_given_single() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.LayerNorm(16)).to(torch.bfloat16)
    single = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.LayerNorm(16))
    single.load_state_dict({name: weight.float() for name, weight in module.state_dict().items()})
    hidden = torch.randn(3, 16)
    found = calling(module, hidden)
    assert found.dtype == torch.float32 and torch.equal(found, single(hidden))
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert torch.equal(calling(module, hidden.bfloat16()), module(hidden.bfloat16()))
    assert torch.equal(calling(single, hidden), single(hidden))
