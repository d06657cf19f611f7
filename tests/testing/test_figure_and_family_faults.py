"""The contract tests of figures and of model families notice each fault, and name it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import families as tiny
import pytest

from atlas.live.families import chameleon, paligemma
from atlas.testing import ContractError, check_family, check_figure


@pytest.mark.filterwarnings("ignore")
def test_families_of_ours_and_one_that_is_not_found() -> None:
    check_family(paligemma, tiny.paligemma)
    with pytest.raises(ContractError, match="gpt2: a model of this type has another family"):
        check_family(chameleon, tiny.gpt2, kind="text")
    with pytest.raises(ContractError, match="has no FAMILY"):
        check_family(tiny, tiny.gpt2, kind="text")


def bars(answer: Sequence[float], *, ax: Any = None, colour: str = "C0") -> Any:
    """A bar for each number."""
    import matplotlib.pyplot as plt

    ax = plt.subplots()[1] if ax is None else ax
    ax.bar(range(len(answer)), answer, color=colour)
    ax.set(xlabel="place", ylabel="number")
    return ax


def test_figures() -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    def unlabelled(answer: Any, *, ax: Any = None) -> Any:
        """Without words."""
        ax = bars(answer, ax=ax)
        ax.set(xlabel="", ylabel="")
        return ax

    def elsewhere(answer: Any, *, ax: Any = None) -> Any:
        """On Axes of its own, always."""
        return bars(answer)

    def setting(answer: Any, *, ax: Any = None) -> Any:
        """With other settings."""
        matplotlib.rcParams["lines.linewidth"] = 7
        return bars(answer, ax=ax)

    def showing(answer: Any, *, ax: Any = None) -> Any:
        """At once."""
        import matplotlib.pyplot as plt

        plt.show()

    def leaving(answer: Any, *, ax: Any = None) -> Any:
        """With a figure too many."""
        bars(answer)
        return bars(answer, ax=ax)

    def growing(answer: list[float], *, ax: Any = None) -> Any:
        """Another picture each time."""
        answer.append(len(answer))
        return bars(answer, ax=ax)

    matplotlib.use("agg")
    with matplotlib.rc_context():
        check_figure(bars, [1.0, 2.0])
        for draw, fault in (
            (unlabelled, "x axis has ticks and no label"),
            (elsewhere, "does not return the Axes"),
            (setting, "settings changed: lines.linewidth"),
            (showing, "calls plt.show"),
            (leaving, "leaves a figure open"),
            (growing, "another picture the second time"),
            (lambda answer, ax=None: ax, "no docstring"),
        ):
            with pytest.raises(ContractError, match=f"broken: .*{fault}"):
                check_figure(draw, [1.0, 2.0], name="broken")
