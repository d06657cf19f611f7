"""The everyday questions about one map and one neuron: query, neuron. Nothing here loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, Method, Reduce, Select, Source, Target, note_assumed, resolve, say, words
from cli.render import Csv, Format, Json, chosen_format, show

if TYPE_CHECKING:
    from atlas.queries import Which
    from atlas.selection import NeuronSet

Model = Annotated[str | None, typer.Option("--model", "-m", help="The model's name (`atlas models` lists them).")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", "-d", help="The dataset's name, where several have the concept.")
]
Layers = Annotated[str | None, typer.Option("--layers", help="Only these layers: 3, 8-15, 0,2,8-15.")]
Run = Annotated[str | None, typer.Option("--run", help="The run, by the beginning of its id.")]
Supercategory = Annotated[
    str | None, typer.Option("--supercategory", help="All concepts of it (`atlas concepts` lists them).")
]
FailEmpty = Annotated[bool, typer.Option("--fail-empty", help="Exit with 1 where there is no row.")]


def query(
    concept: Annotated[
        str | None, typer.Option("--concept", "-c", help="The concept's name (`atlas concepts` lists them).")
    ] = None,
    method: Method = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Dataset = None,
    run: Run = None,
    select: Select = None,
    minus: Annotated[
        str | None, typer.Option("--minus", help="Leave out what the same rule gives elsewhere: concept=cat.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", help="Several methods that vote: contribution,ablation.")
    ] = None,
    supercategory: Supercategory = None,
    agree: Annotated[
        int | None,
        typer.Option("--agree", help="In how many of the --methods, or concepts. [default: more than half]"),
    ] = None,
    layers: Layers = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", "-n", "--limit", min=1, help="How many neurons. [default: 20, or all that --select does]"
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the SQL instead of running it.")] = False,
    fail_empty: FailEmpty = False,
    form: Format = None,
    as_json: Json = False,
    as_csv: Csv = False,
    atlas: AtlasPath = None,
) -> None:
    """Which neurons carry a concept: score, rank, percentile, decoded tokens, methods that agree.

    With --methods, the neurons that a rule (--select or --top) gives for several methods at once; with
    --supercategory, for several of its concepts: votes, who agrees, the ranks in all of them, the mean percentile.

    Example: atlas query --concept dog --source text --top 5

    Example: atlas query --concept dog --methods contribution,activation,ablation --agree 2 --top 50

    Example: atlas query --supercategory animal --select z:4
    """
    from atlas.api import Atlas
    from atlas.neurons import parse_layers
    from atlas.queries import Which
    from atlas.rules import Rule

    chosen = chosen_format(form, as_json, as_csv)
    which = Which(concept, method, source, target, reduce, model, dataset, run, supercategory=supercategory)
    rule = Rule.parse(select) if select else None
    there = Atlas(resolve(atlas))
    if methods or supercategory:
        if layers or minus:
            raise UsageError("--layers and --minus are for one map; leave them out where several vote")
        if rule and top:
            raise UsageError("the maps vote by one rule; give --select or --top")
        found, question = there.vote_sql(which, words(methods), rule or Rule("top", top or 20), agree)
        if not len(found):
            needed = found.provenance["selection"]["agree"]
            say(f"no neuron is chosen in {needed} maps; a smaller --agree asks for fewer")
    else:
        if concept is None or agree is not None:
            raise UsageError("give --concept; or --supercategory, or --concept with --methods a,b, for --agree")
        top = top if rule or top else 20
        asked: dict[str, Any] = {"layers": parse_layers(layers) if layers else (), "top": top}
        found, question = there.query_sql(which, rule=rule, **asked)
    note_assumed(found.provenance)
    if explain:
        print(question.explained())
        return
    if minus:
        found = found - there.query_sql(elsewhere(found, minus), rule=rule, **asked)[0]
    table = found.to_arrow()
    if chosen == "table" and "ranks" in table.column_names and len(found.provenance["maps"]) > 8:
        table = table.drop_columns(["ranks"])  # too many to read
    show(table, chosen, more={"provenance": found.provenance})
    if top and (layers or rule) and len(found) == top and not (methods or supercategory or minus):
        say(f"{top} neurons; there may be more, and a larger --top shows them")
    if fail_empty and not len(found):
        raise typer.Exit(1)


def elsewhere(found: NeuronSet, names: str) -> Which:
    """The map that `--minus` means: that of the neurons found, but for the names given."""
    from atlas.choose import ASKED
    from atlas.queries import Which
    from atlas.rules import names_given

    (mine,) = found.provenance["maps"]
    same = {name: mine[name] for name in ("concept", *ASKED, "fingerprint")}
    return Which(**(same | names_given(names, "--minus ")))


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
