"""Every model family on its tiny random model: trace, gradient, attention, edit, bake, generate, media; and the matrix
of capabilities says what these tests find."""

from __future__ import annotations

from functools import cache

import families
import family_checks
import pytest

from atlas import capabilities
from atlas.live.load.processors import has_torchvision


@cache
def subject(name: str) -> family_checks.Subject:
    return family_checks.Subject(name)


@pytest.mark.parametrize("check", family_checks.CHECKS)
@pytest.mark.parametrize("name", families.FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_a_family_does_what_the_matrix_says(name: str, check: str) -> None:
    if check == "video" and has_torchvision():
        pytest.skip("the matrix is that of a machine without torchvision")
    assert family_checks.outcome(subject(name), check) == capabilities.found()[name][check]


def test_the_matrix_has_every_family_and_every_check() -> None:
    found = capabilities.found()
    assert list(found) == list(families.FAMILIES)
    assert all(list(row) == list(family_checks.CHECKS) for row in found.values())


def test_the_page_has_the_matrix() -> None:
    page = (family_checks.ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page.partition(family_checks.BEGIN)[2].partition(family_checks.END)[0].strip() == family_checks.markdown()
