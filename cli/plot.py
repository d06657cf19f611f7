"""`atlas plot`: what is stored, as pictures. matplotlib is the extra `plots`, and is imported only here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import Unsupported, UsageError
from cli.common import AtlasPath, Method, Reduce, Source, note_assumed, resolve, tell
from cli.groups import grouped
from cli.render import Output, show

app = typer.Typer(no_args_is_help=True, help="Draw what is stored.")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#4d4d4d")
"""Colours that colour-blind readers tell apart (Okabe and Ito's, and two more)."""

ENDINGS = (".png", ".svg", ".pdf")


@app.command("doses")
@grouped
def plot_doses(
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .png, .svg or .pdf beside the table.")] = None,
    method: Method = None,
    source: Source = None,
    reduce: Reduce = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model, where there are several.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="The dataset, where there are several.")
    ] = None,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Accuracy left as more of a method's best neurons are ablated, on their concept and on others, beside random ones.

    The rows come from `atlas evaluate --method A,B --doses 0.1%,0.5%,1%,2%,5%`.

    Example: atlas plot doses --out doses.png
    """
    from atlas.api.atlas import Atlas
    from atlas.query.map_spec import MapSpec

    chosen = output.chosen()
    if out is not None:
        _check(out)
    which = MapSpec(method=method, source=source, reduce=reduce, model=model, dataset=dataset)
    found, assumed = Atlas(resolve(atlas)).doses(which)
    if not found.num_rows:
        raise UsageError(
            "no doses are measured yet: `atlas evaluate --method contribution --doses 0.1%,0.5%,1%,2%,5%` measures some"
        )
    note_assumed({"assumed": assumed})
    if chosen != "table":
        show(found, chosen)
    else:
        show(_brief(found.to_pylist()), "table")
    if out is not None:
        draw(found.to_pylist(), out)
        tell(out)


def _check(out: Path) -> None:
    if out.suffix not in ENDINGS:
        raise UsageError(f"cannot draw to '{out}'; give a file that ends in {', '.join(ENDINGS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise Unsupported("plots need: pip install 'neuron-atlas[plots]'")


def _brief(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = ("own", "others", "random_own", "random_others")
    return pa.Table.from_pylist(
        [
            {n: r[n] for n in ("source", "method", "reduce", "dose", "neurons")}
            | {n: None if r[n] is None else f"{r[n]:.1%}" for n in names}
            | {"concepts": r["concepts"]}
            for r in rows
        ]
    )


def draw(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """One panel a source: accuracy against the share of neurons that are ablated."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sources = list(dict.fromkeys(r["source"] for r in rows))
    several = len({r["reduce"] for r in rows if r["method"] != "random"}) > 1
    rows = [{**r, "method": f"{r['method']} ({r['reduce']})" if several else r["method"]} for r in rows]
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axes = plt.subplots(
        1, len(sources), figsize=(5.2 * len(sources) + 1.8, 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, source in zip(axes[0], sources, strict=True):
        for colour, method in zip((COLOURS * len(methods))[: len(methods)], methods, strict=True):
            mine = [r for r in rows if (r["source"], r["method"]) == (source, method)]
            if mine:
                _curves(axis, mine, colour, method)
        _random(axis, [r for r in rows if r["source"] == source])
        axis.set_xscale("log")
        axis.set_xlabel("neurons ablated, % of all")
        axis.set_title(f"{source} questions")
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.25)
        ticks = sorted({100 * r["share"] for r in rows if r["source"] == source})
        axis.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
        axis.minorticks_off()
    axes[0][0].set_ylabel("accuracy left, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def _curves(axis: Any, rows: Sequence[Mapping[str, Any]], colour: str, method: str) -> None:
    """Solid: questions about the concept, with its 95 % interval; dashed: about others."""
    x = [100 * r["share"] for r in rows]
    own = [_percent(r["own"]) for r in rows]
    axis.plot(x, own, color=colour, marker="o", markersize=4, label=f"{method}: concept")
    low, high = ([_percent(r[f"own_{end}"]) for r in rows] for end in ("low", "high"))
    axis.fill_between(x, low, high, color=colour, alpha=0.08, linewidth=0)
    axis.plot(x, [_percent(r["others"]) for r in rows], color=colour, linestyle="--", label=f"{method}: others")


def _random(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """The mean over methods: as many random neurons of the same layers, questions about the concept."""
    shares = sorted({r["share"] for r in rows if r["random_own"] is not None})
    means = []
    for share in shares:
        some = [r["random_own"] for r in rows if r["share"] == share and r["random_own"] is not None]
        means.append(100 * sum(some) / len(some))
    if shares:
        axis.plot(
            [100 * s for s in shares],
            means,
            color="#888888",
            linestyle=":",
            marker="x",
            label="as many random neurons: concept",
        )


def _percent(value: float | None) -> float:
    """Not a number, which is not drawn, where nothing was measured."""
    return float("nan") if value is None else 100 * value
