"""The randomised threshold of stage 1: where nothing is to be found, and where something is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from calibration import stage_one_p_values

from ingest.attribution.randomisation_test import exceeding, sums_of_contrasts


@pytest.mark.parametrize("pictures", [3, 6, 12, 54])
@pytest.mark.parametrize("noise", ["normal", "heavy", "together"])
def test_random_regions_do_not_exceed_random_regions(noise: str, pictures: int) -> None:
    """A z-score above 3 calls 16 % of heavy-tailed neurons at six pictures."""
    found = [stage_one_p_values(noise, pictures, seed) for seed in range(40)]
    rate = float(np.mean([(p <= 0.05).mean() for p in found]))
    assert rate <= 0.08 + 2 * math.sqrt(0.08 * 0.92 / (40 * 20))


def test_planted_neurons_are_found_and_few_others() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, 24, 256, generator=generator)
    values[0, 1, :, :20] += 4
    drawn = torch.randint(3, (16, 24), generator=generator)
    means = {name: part.mean(1) for name, part in sums_of_contrasts(values, drawn).items()}
    found = exceeding(means, 24, 0.05)
    assert found[1, :20].all() and int(found.sum()) <= 24


def test_neurons_that_never_move_are_no_hypotheses() -> None:
    """Three that move among a thousand that do not: these neither pass nor count as tries."""
    generator = torch.Generator().manual_seed(1)
    values = torch.zeros(3, 1, 30, 1000)
    values[:, 0, :, :40] = torch.randn(3, 30, 40, generator=generator)
    values[0, 0, :, :3] += 5
    drawn = torch.randint(3, (16, 30), generator=generator)
    means = {name: part.mean(1) for name, part in sums_of_contrasts(values, drawn).items()}
    found = exceeding(means, 30, 0.05)
    assert found[0, :3].all() and not found[0, 40:].any()
    assert not exceeding({name: torch.zeros_like(part) for name, part in means.items()}, 30, 0.05).any()
