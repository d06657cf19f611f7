"""Every family's checks with its model on a GPU, and models spread over a GPU and the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import families
import family_checks
import pytest
import torch

from atlas import capabilities
from atlas.live.attention import weights
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.layout import locate
from atlas.live.load.processors import has_torchvision
from atlas.live.matmul import product
from atlas.live.model import LiveModel

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")
CHECKS = [name for name in family_checks.CHECKS if name != "load"]  # which is about files


@cache
def subject(name: str) -> family_checks.Subject:
    return family_checks.Subject(name, device="cuda")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_family_does_on_a_gpu_what_the_matrix_says(name: str, check: str) -> None:
    if check == "video" and has_torchvision():
        pytest.skip("the matrix is that of a machine without torchvision")
    assert family_checks.outcome(subject(name), check) == capabilities.found()[name][check]


def spread(name: str, main: int | str) -> family_checks.Subject:
    """The family's model with its last layer on the other device: a GPU's other half is kept on the CPU and fetched
    when it is called, the CPU's runs on the GPU."""
    accelerate = pytest.importorskip("accelerate")
    model, processor = families.build(name)
    last = next(n for n, m in model.named_modules() if m is locate(model).layers[-1])
    places: dict[str, int | str] = {last: "cpu" if main == 0 else 0}
    for where, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and not f"{where}.".startswith(f"{last}."):
            places[where] = main
    placed = accelerate.dispatch_model(model, places, main_device=main, force_hooks=True)
    return family_checks.Subject(name, live=LiveModel(placed, processor, name=name))


def told(of: family_checks.Subject) -> dict[str, Any]:
    """What it computes, says and draws attention to, plain and edited."""
    live = of.live
    batch = live.batch(of.prompts())
    with torch.no_grad(), tracing(live.layout, attention=True) as capture:
        live.forward(batch)
        seen = [weights(live.layout, capture, layer, batch.roles != 0) for layer in range(2)]
    found: dict[str, Any] = {"values": [capture.values[layer] for layer in range(2)], "attention": seen}
    found["logits"] = of.logits(of.prompts())
    with changing(live, family_checks.EDITED):
        found["edited"] = of.logits(of.prompts())
        found["said"] = live.generate(of.prompts(answers=False), max_new_tokens=5)
    return found


@pytest.mark.parametrize("name", ["LLaVA", "Qwen2-VL", "Qwen2-Audio", "Gemma3", "OPT"])
@pytest.mark.parametrize("main", [0, "cpu"])
def test_a_model_spread_over_devices_is_traced_and_edited(name: str, main: int | str) -> None:
    plain, found = told(family_checks.Subject(name)), told(spread(name, main))
    assert found.pop("said") == plain.pop("said")
    for what, expected in plain.items():
        for one, other in zip(found[what], expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, msg=what, **family_checks.CLOSE)


@pytest.mark.parametrize("name", ["LLaVA", "OPT"])
def test_a_model_on_two_devices_is_differentiated(name: str) -> None:
    family_checks.CHECKS["gradient"](spread(name, "cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_are_as_exact_as_in_single_precision(dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    a = torch.randn(*batch, 7, 512, device="cuda", generator=generator)
    b = torch.randn(*batch, 512, 65, device="cuda", generator=generator).to(dtype)
    for left in (a, a.to(dtype)):
        torch.testing.assert_close(product(left, b).double(), left.double() @ b.double(), atol=2e-4, rtol=1e-5)
