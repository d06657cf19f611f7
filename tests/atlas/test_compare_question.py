"""Two maps side by side, against sets and ranks made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas.api.atlas import Atlas
from atlas.errors import UsageError


@pytest.fixture(scope="module")
def opened(stored_atlas: Path) -> Atlas:
    return Atlas.open(stored_atlas)


CAT = {"concept": "cat", "method": "activation"}


def scores(opened: Atlas, **names: Any) -> dict[tuple[int, int], tuple[float, int]]:
    """Every neuron's score and rank in a map."""
    rows = opened.query(top=10_000, **names).to_pylist()
    return {(row["layer"], row["neuron"]): (row["score"], row["rank"]) for row in rows}


@pytest.mark.parametrize(
    ("first", "to", "second"),
    [
        ({"source": "image"}, "source=text", {"source": "text"}),
        ({"source": "image"}, "concept=cat", {"source": "image", "concept": "cat"}),
        (
            {"source": "text"},
            "method=activation,concept=cat",
            {"source": "text", "concept": "cat", "method": "activation"},
        ),
    ],
)
def test_the_union_of_two_tops_with_both_scores(opened: Atlas, first: Any, to: str, second: Any) -> None:
    from scipy.stats import hypergeom, spearmanr

    names = {"concept": "dog", "method": "contribution", "reduce": "contrast"}
    answer = opened.compare(**names, **first, to=to, top=8)
    one, other = scores(opened, **(names | first)), scores(opened, **(names | second))
    tops = [{key for key, (_, rank) in of.items() if rank <= 8} for of in (one, other)]
    rows = answer.to_pylist()
    assert {(row["layer"], row["neuron"]) for row in rows} == tops[0] | tops[1]
    for row in rows:
        key = (row["layer"], row["neuron"])
        assert (row["score_first"], row["rank_first"]) == one.get(key, (None, None))
        assert (row["score_second"], row["rank_second"]) == other.get(key, (None, None))
        inside = [key in top for top in tops]
        assert row["in"] == ("both" if all(inside) else "first" if inside[0] else "second")
    shared = len(tops[0] & tops[1])
    assert answer.facts["shared"] == shared and answer.facts["chosen"] == 8
    both = sorted(one.keys() & other.keys())
    assert answer.facts["expected"] == pytest.approx(64 / len(both)) and answer.facts["neurons"] == len(both)
    assert answer.facts["p"] == pytest.approx(hypergeom(len(both), 8, 8).sf(shared - 1))
    expected = spearmanr([one[key][0] for key in both], [other[key][0] for key in both]).statistic
    assert answer.facts["correlation"] == pytest.approx(expected, abs=1e-9)


def test_two_sides_have_the_nulls_that_shared_gives(opened: Atlas) -> None:
    compared = opened.compare("dog", method="contribution", source="image", to="source=text", top=8)
    shared = opened.shared("dog", method="contribution", sources=("image", "text"), top=8)
    for name in ("shared", "expected", "lift", "p", "expected_matched", "p_matched", "matched"):
        assert compared.facts[name] == shared.facts[name], name
    both = [row for row in compared.to_pylist() if row["in"] == "both"]
    assert [(r["layer"], r["neuron"]) for r in both] == [(r["layer"], r["neuron"]) for r in shared.to_pylist()]


def test_tops_of_fewer_neurons_than_were_asked_for_say_so(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    """A neuron with a score of 0 is in no top."""
    run = make_run(0, concepts=("dog", "cat"), layers=2, width=50)
    positive = {"dog": 3, "cat": 30}
    maps = {
        name: {(layer, n): float(layer == 0 and n < number) * (n + 1) for layer in range(2) for n in range(50)}
        for name, number in positive.items()
    }
    store_maps(empty, run, {"contribution": maps})
    answer = Atlas.open(empty).compare("dog", to="concept=cat", top=10)
    assert answer.facts["chosen"] == 3 and [row["in"] for row in answer.to_pylist()].count("second") == 10
    notes = "\n".join(answer.notes)
    assert "(the top of the first has 3: no other neuron of its map has a score above 0)" in notes
    assert "the top of the second" not in notes


def test_what_cannot_be_compared_is_said(opened: Atlas) -> None:
    for to, message in (
        ("source=image", "is the same map"),
        ("sorce=text", "does not name a map"),
        ("concept=dgo", "did you mean 'dog'"),
    ):
        with pytest.raises(UsageError, match=message):
            opened.compare("dog", method="contribution", source="image", to=to)


def test_the_figure_has_one_point_a_neuron(opened: Atlas) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    from atlas.figures import compare
    from atlas.testing.figures import check_figure

    answer = opened.compare("dog", method="contribution", source="image", to="source=text", top=8)
    check_figure(compare, answer)
    axes = answer.plot()
    drawn = {line.get_label(): len(line.get_xdata()) for line in axes.lines if ":" in str(line.get_label())}
    assert sum(drawn.values()) == len(answer)
    assert f"in both tops: {answer.facts['shared']}" in "".join(drawn)
    plt.close(axes.figure)


def test_methods_without_a_common_reduction_are_compared_by_one_that_both_have(own_atlas: Path) -> None:
    import sqlalchemy as sa

    from atlas.store.engine import connect_writer

    with connect_writer(own_atlas) as connection:
        connection.execute(sa.text("DELETE FROM maps WHERE method = 'activation' AND reduce = 'contrast'"))
    answer = Atlas(own_atlas).compare("dog", method="contribution", source="text", to="method=activation", top=8)
    assert {origin["reduce"] for origin in answer.provenance["maps"]} == {"mean"}
    assert "reduce=mean (which both methods have)" in answer.defaults
    with pytest.raises(UsageError, match="contrast"):
        Atlas(own_atlas).compare("dog", method="contribution", reduce="contrast", source="text", to="method=activation")
