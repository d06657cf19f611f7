"""The everyday questions about one map and one neuron: query, neuron. Nothing here loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, Method, Reduce, Source, Target, note_assumed, resolve, say, tell, words
from cli.filters import Dataset, Model, Question, Run
from cli.groups import grouped
from cli.render import Output, show, write_json

if TYPE_CHECKING:
    from atlas.api.atlas import Atlas
    from atlas.query.find import NeuronQuery
    from atlas.query.neuron_set import NeuronSet
    from atlas.query.statements import Query

FailEmpty = Annotated[bool, typer.Option("--fail-empty", help="Exit with 1 where there is no row.")]


@grouped
def query(
    *,
    question: Question,
    minus: Annotated[
        str | None,
        typer.Option("--minus", help="Leave out the best of another map, as many: concept=cat."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", help="Several methods that vote: contribution,ablation.")
    ] = None,
    agree: Annotated[
        int | None,
        typer.Option("--agree", help="In how many of the --methods, or concepts. [default: more than half]"),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", help="Go on behind a page: the cursor that it ended with.")
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Every neuron once, with the map in which it ranks best.")
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Of each map, how many neurons pass.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print the SQL instead of its answer.")] = False,
    fail_empty: FailEmpty = False,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Which neurons carry a concept: score, rank, percentile, decoded tokens, methods that agree. Or, without a concept
    or over several, every neuron of every map that passes.

    Names may be patterns (--concept 'd*'). --where takes a whole condition of the fields model, dataset, concept,
    supercategory, method, run, source, target, component, reduce, tap, layer, neuron, score, rank, percentile, z,
    token, label, selection, effect.suppression, effect.retention, effect.selectivity and effect.beyond_random, with
    = != < <= > >= in, and, or, not and parentheses.

    With --methods, the neurons that a rule (--select or --top) gives for several methods at once; with
    --supercategory alone, for several of its concepts: votes, who agrees, the ranks in all, the mean percentile.

    Example: atlas query --concept dog --source text --top 5

    Example: atlas query --where "concept in dog,cat and layer in 2-3 and (percentile >= 99.9 or token = bark*)"

    Example: atlas query --token bark --effect 'suppression>0.5' --sort=-score

    Example: atlas query --score '>0.1' --count

    Example: atlas query --concept dog --methods contribution,activation,ablation --agree 2 --top 50
    """
    from dataclasses import replace

    from atlas.api.atlas import Atlas

    chosen = output.chosen()
    given, sort, top = question.neurons(), question.sort, question.top
    there = Atlas(resolve(atlas))
    if methods or (question.supercategory and not (given or sort or after or each or count)):
        if given or minus or sort or after or each or count:
            raise UsageError("where several maps vote, only names of maps, --select, --top and --agree can be given")
        found, statement = _vote(there, question, methods, agree, explain)
    else:
        if agree is not None:
            raise UsageError("--agree is for votes: give --supercategory, or --concept with --methods a,b")
        if not given and question.concept is None and question.supercategory is None:
            raise UsageError(
                "give --concept, or another condition: --token bark, --label image, --where ... (`atlas query --help`)"
            )
        ask = question.ask(after, each)
        if count:
            if sort or after or each or top or minus:
                raise UsageError(
                    "--count tells how many of each map pass; leave out --top, --sort, --after, --each, --minus"
                )
            _count(there, replace(ask, limit=None), chosen, explain, fail_empty)
            return
        found, statement = there.ask(ask)
    note_assumed(found.provenance)
    if explain:
        tell(statement.explained())
        return
    if minus:
        found = found - _elsewhere(there, found, minus, question)
    table = found.to_arrow()
    if chosen == "table" and "ranks" in table.column_names and len(found.provenance["maps"]) > 8:
        table = table.drop_columns(["ranks"])  # too many to read
    show(table, chosen, more={"next": found.provenance.get("next"), "provenance": found.provenance})
    if "next" in found.provenance and not minus and (given or question.select or sort or after):
        say(f"there are more: a larger --top, or --after {found.provenance['next']}")
    if fail_empty and not len(found):
        raise typer.Exit(1)


def _count(there: Atlas, ask: NeuronQuery, form: str, explain: bool, fail_empty: bool) -> None:
    table, question, provenance = there.count(ask)
    note_assumed(provenance)
    if explain:
        tell(question.explained())
        return
    show(table, form, more={"provenance": provenance})
    if fail_empty and not any(table["passing"].to_pylist()):
        raise typer.Exit(1)


def _vote(
    there: Atlas, question: Question, methods: str | None, agree: int | None, explain: bool
) -> tuple[NeuronSet, Query]:
    from atlas.query.map_spec import MapSpec
    from atlas.query.selection_rules import Rule

    if question.select and question.top:
        raise UsageError("the maps vote by one rule; give --select or --top")
    rule = Rule.parse(question.select) if question.select else Rule("top", float(question.top or 20))
    found, statement = there.vote_sql(MapSpec(**question.names()), words(methods), rule, agree)
    if not len(found) and not explain:
        needed = found.provenance["selection"]["agree"]
        say(f"no neuron is chosen in {needed} maps; a smaller --agree asks for fewer")
    return found, statement


def _elsewhere(there: Atlas, found: NeuronSet, names: str, question: Question) -> NeuronSet:
    """What the same question finds in the map that `--minus` names: of the same run where that has it.

    Raises:
        UsageError: the neurons are of several maps, or there is no such map.
    """
    from atlas.query.resolve_maps import same_but
    from atlas.query.selection_rules import names_given

    if len(found.provenance["maps"]) != 1:
        raise UsageError("--minus compares one map with another; of several, save selections: atlas select save ...")
    mine = found.provenance["maps"][0]
    same = same_but(mine, names_given(names, "--minus "))
    try:
        return there.ask(question.elsewhere({**same, "run": mine["run_id"]}))[0]
    except UsageError:
        return there.ask(question.elsewhere(same))[0]


def neuron(
    address: Annotated[str, typer.Argument(help="layer/index, for example 3/117.")],
    method: Method = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Dataset = None,
    run: Run = None,
    top: Annotated[int, typer.Option("--top", "-n", "--limit", min=1, help="Concepts for each method and source.")] = 3,
    form: Annotated[str | None, typer.Option("--format", "-f", help="table (on a terminal), json or jsonl.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    atlas: AtlasPath = None,
) -> None:
    """One neuron: the tokens it raises and lowers, its best concepts by method and source, its strongest examples.

    Example: atlas neuron 3/117
    """
    from atlas.api.atlas import Atlas
    from atlas.neurons import LANGUAGE

    chosen = Output(form, as_json).chosen()
    if chosen not in ("table", "json", "jsonl"):
        raise UsageError("a neuron's profile is three tables; use --format table or json")
    names = {"method": method, "source": source, "target": target, "reduce": reduce}
    names |= {"model": model, "dataset": dataset, "run": run}
    profile = Atlas(resolve(atlas)).neuron(address, top=top, **names)
    note_assumed({"assumed": profile.assumed})
    parts = {"tokens": profile.tokens, "concepts": profile.concepts, "exemplars": profile.exemplars}
    if profile.neuron.component != LANGUAGE and not any(table.num_rows for table in parts.values()):
        raise UsageError(
            f"the atlas has nothing of the component '{profile.neuron.component}'; "
            "write layer/index, for example 3/117, for a neuron of the language model"
        )
    if chosen != "table":
        whole: dict[str, Any] = {"schema_version": 1, "neuron": str(profile.neuron), "model": profile.model}
        whole["assumed"] = list(profile.assumed)
        whole |= {name: table.to_pylist() for name, table in parts.items()}
        write_json(whole, indent=2 if chosen == "json" else None)
        return
    tell(f"neuron {profile.neuron} of {profile.model}")
    for name, table in parts.items():
        tell(f"\n{name}")
        show(table.drop_columns(["logits"]) if name == "tokens" else _brief(table), "table")


def _brief(table: Any) -> Any:
    wide = {"target", "position", "role", "media", "concepts"}
    return table.drop_columns([n for n in table.column_names if n in wide])
