"""`atlas leaderboard`: the methods side by side, by what was measured of them. Nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, Reduce, Source, note_assumed, resolve, say
from cli.groups import grouped
from cli.render import Output, show


@grouped
def leaderboard(
    *,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="The method whose ranking the others are compared with. [default: ablation]"),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", help="Order by selectivity, suppression, retention or correlation.")
    ] = "selectivity",
    source: Source = None,
    reduce: Reduce = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model, where there are several.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="The dataset, where there are several. [default: the newest]")
    ] = None,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Methods against exact ablation: rank correlation, precision of the top 1 % and 2 %, and what ablating their
    neurons did: accuracy on their concept / on the others / on their concept with as many random neurons, in percent.

    Means over concepts: `ranked` of them for correlation and precision, `ablated` for the others. Selectivity is over
    the numbers of neurons that all measured methods of the source have.

    The rows come from `atlas ingest` (with ablation in the job) and `atlas evaluate --method A,B --top 1%,2%`.

    Example: atlas leaderboard --source text
    """
    from atlas.api.atlas import Atlas
    from atlas.api.compare import REFERENCE
    from atlas.query.map_spec import MapSpec

    chosen = output.chosen()
    which = MapSpec(source=source, reduce=reduce, model=model, dataset=dataset)
    found, assumed = Atlas(resolve(atlas)).leaderboard_for(which, reference, by)
    against = reference or REFERENCE
    if not found.num_rows:
        raise UsageError(
            f"nothing to compare yet: `atlas ingest --methods {against},contribution` ranks neurons, "
            "`atlas evaluate --method contribution --top 1%,2%` measures what they do"
        )
    note_assumed({"assumed": assumed})
    if chosen != "table":
        show(found, chosen, more={"reference": against, "assumed": list(assumed)})
        return
    show(_brief(found.to_pylist()), "table")
    say(f"correlation and precision against {against}; the others: own / others' accuracy left / own with random, %")


def _brief(rows: list[dict[str, Any]]) -> pa.Table:
    tops = list(dict.fromkeys(e["top"] for row in rows for e in row["effects"] or []))
    out = []
    for row in rows:
        shown = {name: row[name] for name in ("source", "method", "reduce", "ranked", "ablated")}
        for name in ("correlation", "precision_1", "precision_2", "selectivity"):
            shown[name] = None if row[name] is None else f"{round(row[name], 2) + 0.0:.2f}"
        done = {e["top"]: e for e in row["effects"] or []}
        shown |= {top: _cell(done[top]) if top in done else None for top in tops}
        out.append(shown)
    return pa.Table.from_pylist(out)


def _cell(effect: dict[str, Any]) -> str:
    left = (effect["own"], effect["others"], effect["random_own"])
    return " / ".join("-" if value is None else f"{100 * value:.0f}" for value in left)
