"""The everyday questions: query, shared, neuron, agreement. Nothing here loads torch."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, Concept, Method, Reduce, Source, Target, note_assumed, resolve, say, words
from cli.render import Csv, Format, Json, chosen_format, show

Top = Annotated[int, typer.Option("--top", "-n", "--limit", min=1, help="How many neurons.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The model's name (`atlas models` lists them).")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", "-d", help="The dataset's name, where several have the concept.")
]
Layers = Annotated[str | None, typer.Option("--layers", help="Only these layers: 3, 8-15, 0,2,8-15.")]
FailEmpty = Annotated[bool, typer.Option("--fail-empty", help="Exit with 1 where there is no row.")]


def query(
    concept: Concept,
    method: Method = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Dataset = None,
    run: Annotated[str | None, typer.Option("--run", help="The run, by the beginning of its id.")] = None,
    layers: Layers = None,
    min_percentile: Annotated[
        float | None, typer.Option("--min-percentile", help="Only neurons at or above it.")
    ] = None,
    top: Top = 20,
    explain: Annotated[bool, typer.Option("--explain", help="Print the SQL instead of running it.")] = False,
    fail_empty: FailEmpty = False,
    form: Format = None,
    as_json: Json = False,
    as_csv: Csv = False,
    atlas: AtlasPath = None,
) -> None:
    """Which neurons carry a concept: score, rank, percentile, decoded tokens, methods that agree.

    Example: atlas query --concept dog --source text --top 5
    """
    from atlas.api import Atlas
    from atlas.neurons import parse_layers
    from atlas.queries import Which

    chosen = chosen_format(form, as_json, as_csv)
    which = Which(concept, method, source, target, reduce, model, dataset, run)
    found, question = Atlas(resolve(atlas)).query_sql(
        which, layers=parse_layers(layers) if layers else (), min_percentile=min_percentile, top=top
    )
    note_assumed(found.provenance)
    if explain:
        print(question.explained())
        return
    show(found.to_arrow(), chosen, more={"provenance": found.provenance})
    _note_more(len(found), top, bool(layers), min_percentile, found.provenance)
    if fail_empty and not len(found):
        raise typer.Exit(1)


def _note_more(shown: int, top: int, by_layer: bool, min_percentile: float | None, provenance: dict[str, Any]) -> None:
    """Say on stderr that --top, and not the filters, ended the rows."""
    if shown < top or not (by_layer or min_percentile is not None):
        return
    if by_layer or min_percentile is None:
        say(f"{shown} neurons; there may be more, and a larger --top shows them")
        return
    count = int(provenance["maps"][0]["neurons"])
    fits = bisect_right(range(1, count + 1), -min_percentile, key=lambda rank: -100.0 * (count - rank + 1) / count)
    if fits > shown:
        say(f"{shown} of the {fits} neurons at or above percentile {min_percentile:g}; --top {fits} shows all")


def shared(
    concept: Concept,
    sources: Annotated[str, typer.Option("--sources", help="Two modalities.")] = "image,text",
    only: Annotated[
        str | None, typer.Option("--only", help="Neurons of this modality's top and not the other's.")
    ] = None,
    method: Method = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Dataset = None,
    run: Annotated[str | None, typer.Option("--run", help="The run, by the beginning of its id.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the best neurons of each side.")] = 40,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows to print.")] = 1000,
    form: Format = None,
    as_json: Json = False,
    as_csv: Csv = False,
    atlas: AtlasPath = None,
) -> None:
    """Which neurons carry a concept in both modalities, and how many chance would give.

    Rows come best first by the sum of their ranks, which are in the order of --sources.

    Example: atlas shared --concept dog --sources image,text --top 40
    """
    from atlas.api import Atlas

    chosen = chosen_format(form, as_json, as_csv)
    found = Atlas(resolve(atlas)).shared(
        concept,
        method,
        sources=words(sources),
        only=only,
        reduce=reduce,
        model=model,
        dataset=dataset,
        run=run,
        top=top,
    )
    note_assumed(found.neurons.provenance)
    show(
        found.neurons.to_arrow().slice(0, limit),
        chosen,
        more={"statistics": found.statistics, "provenance": found.neurons.provenance},
    )
    s = found.statistics
    say(
        f"{int(s['shared'])} of {int(s['top'])} shared by {' and '.join(found.sources)}; "
        f"{s['expected']:.2g} expected by chance, lift {s['lift']:.3g}, p = {s['p_value']:.2g}"
    )


def neuron(
    address: Annotated[str, typer.Argument(help="layer/index, for example 3/117.")],
    method: Method = None,
    source: Source = None,
    reduce: Reduce = None,
    model: Model = None,
    top: Annotated[int, typer.Option("--top", "-n", "--limit", min=1, help="Concepts for each method and source.")] = 3,
    form: Format = None,
    as_json: Json = False,
    atlas: AtlasPath = None,
) -> None:
    """One neuron: the tokens it raises and lowers, its best concepts by method and source, its strongest examples.

    Example: atlas neuron 3/117
    """
    from atlas.api import Atlas
    from atlas.neurons import LANGUAGE

    chosen = chosen_format(form, as_json)
    if chosen not in ("table", "json", "jsonl"):
        raise UsageError("a neuron's profile is three tables; use --format table or json")
    profile = Atlas(resolve(atlas)).neuron(address, method=method, source=source, reduce=reduce, model=model, top=top)
    parts = {"tokens": profile.tokens, "concepts": profile.concepts, "exemplars": profile.exemplars}
    if profile.neuron.component != LANGUAGE and not any(table.num_rows for table in parts.values()):
        raise UsageError(
            f"the atlas has nothing of the component '{profile.neuron.component}'; "
            "write layer/index, for example 3/117, for a neuron of the language model"
        )
    if chosen != "table":
        import json

        whole: dict[str, Any] = {"schema_version": 1, "neuron": str(profile.neuron), "model": profile.model}
        whole |= {name: table.to_pylist() for name, table in parts.items()}
        print(json.dumps(whole, ensure_ascii=False, indent=2 if chosen == "json" else None))
        return
    print(f"neuron {profile.neuron} of {profile.model}")
    for name, table in parts.items():
        print(f"\n{name}")
        show(table.drop_columns(["logits"]) if name == "tokens" else _brief(table), "table")


def _brief(table: Any) -> Any:
    wide = {"target", "position", "role", "media", "concepts"}
    return table.drop_columns([n for n in table.column_names if n in wide])


def agreement(
    reference: Annotated[
        str, typer.Option("--reference", help="The method the others are compared with.")
    ] = "ablation",
    concept: Annotated[str | None, typer.Option("--concept", "-c", help="One concept instead of all.")] = None,
    source: Source = None,
    form: Format = None,
    as_json: Json = False,
    as_csv: Csv = False,
    atlas: AtlasPath = None,
) -> None:
    """How well each method's ranking of neurons follows exact ablation's: rank correlation and overlap of the tops.

    Example: atlas agreement --source image
    """
    from atlas.api import Atlas

    chosen = chosen_format(form, as_json, as_csv)
    table = Atlas(resolve(atlas)).agreement(reference, concept=concept, source=source)
    if not table.num_rows:
        raise UsageError(
            f"no map of another method can be compared with '{reference}'; "
            f"ingest with --methods {reference},contribution (`atlas concepts` lists what is stored)"
        )
    show(table, chosen, more={"reference": reference})
