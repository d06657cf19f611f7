"""What there is: methods, datasets, concepts."""

from __future__ import annotations

import ast
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
import typer

from atlas.errors import AtlasError, AtlasWarning
from cli.common import AtlasPath, resolve
from cli.groups import grouped
from cli.questions import print_answer
from cli.render import Output, show

if TYPE_CHECKING:
    from atlas.registry import Entry

Stored = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="NAME or NAME:PATH: what the dataset has, instead of what the atlas has."),
]


def _about(package: ModuleType, entry: Entry) -> tuple[str, str]:
    """The first line of an entry's docstring and its parameters, read without importing it (it may need torch)."""
    tree = ast.parse(entry.file.read_text(encoding="utf-8"))
    build = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "build"), None)
    parameters = []
    if build is not None:
        for argument, default in zip(build.args.kwonlyargs, build.args.kw_defaults, strict=True):
            parameters.append(f"{argument.arg}={_default(package, entry.name, argument.arg, default)}")
    return (ast.get_docstring(tree) or "").partition("\n")[0], " ".join(parameters)


def _layout(package: ModuleType, name: str) -> list[str]:
    """What its docstring says of the files below PATH that an entry reads; nothing of one that reads none."""
    from atlas import registry

    file = registry.file_of(package, name)
    if file is None:
        return []
    lines = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[1:]
    return [line for line in lines if line.strip()] if any("PATH" in line for line in lines) else []


def _default(package: ModuleType, name: str, parameter: str, default: ast.expr | None) -> str:
    """What a parameter is where it is not given; a named constant by its value, for which the entry is imported."""
    if isinstance(default, ast.Name):
        from atlas import registry

        return repr(registry.parameters(registry.load(package, name).build)[parameter])
    return ast.unparse(default) if default else ""


def _entries(package: ModuleType, kind: str, form: str) -> None:
    """Show a registry's entries, and warn of each plug-in that is left out."""
    from atlas import registry

    listed, left_out = registry.entries(package)
    rows = []
    for entry in listed:
        try:
            about, parameters = _about(package, entry)
        except AtlasError as error:  # a plug-in that had to be imported, and could not be
            left_out.append(str(error))
            continue
        rows.append({kind: entry.name, "about": about, "parameters": parameters, "distribution": entry.distribution})
    for message in left_out:
        warnings.warn(message, AtlasWarning, stacklevel=2)
    show(pa.Table.from_pylist(rows), form)


@grouped
def methods(*, output: Output) -> None:
    """The attribution methods, and their parameters for `atlas ingest --param METHOD.KEY=VALUE`; those of plug-ins too.

    Example: atlas methods
    """
    import ingest.methods

    _entries(ingest.methods, "method", output.chosen())


@grouped
def datasets(
    *,
    name: Annotated[str | None, typer.Argument(help="NAME or NAME:PATH: its sources, tasks and splits.")] = None,
    output: Output,
) -> None:
    """The kinds of dataset, and their options for `atlas ingest --option KEY=VALUE`; or the tasks of one; or, without
    its PATH, what one that reads files expects there.

    Example: atlas datasets scenes
    """
    import ingest.datasets

    chosen = output.chosen()
    if name is None:
        _entries(ingest.datasets, "dataset", chosen)
        return
    if layout := _layout(ingest.datasets, name):
        show(pa.Table.from_pylist([{"layout": line} for line in layout]), chosen)
        return
    from ingest.job import DataSpec, open_dataset

    opened = open_dataset(DataSpec(dataset=name))
    rows = [
        {
            "source": source,
            "task": task,
            "default": "yes" if task in opened.tasks.get(source, ()) else "no",
            "metrics": " ".join(opened.metrics.get(task, ())),
        }
        for source, tasks in opened.all_tasks.items()
        for task in tasks
    ]
    show(pa.Table.from_pylist(rows), chosen, more={"licence": opened.licence, "revision": opened.revision})


@grouped
def concepts(*, dataset: Stored = None, output: Output, atlas: AtlasPath = None) -> None:
    """The concepts in the atlas with their sources and methods; or those a dataset has, with their surface forms.

    Example: atlas concepts --dataset scenes
    """
    chosen = output.chosen()
    if dataset is None:
        from atlas.questions.concepts import Concepts

        print_answer(Concepts().answer(resolve(atlas)), chosen)
        return
    from ingest.job import DataSpec, open_dataset

    of_dataset = open_dataset(DataSpec(dataset=dataset)).concepts.values()
    rows = [{"concept": c.name, "supercategory": c.supercategory, "forms": list(c.forms)} for c in of_dataset]
    show(pa.Table.from_pylist(rows), chosen)
