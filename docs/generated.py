"""Parts of pages that are written when the site is built, from the program itself: they cannot fall behind it.

A page says where they go: `<!-- commands -->`, `<!-- classes -->`, `<!-- parameters: METHOD -->`, and for a page of the
repository that lies outside of docs/, `<!-- file: PATH -->`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from atlas import Atlas, errors
from ingest.data.examples import BadMedia

LIBRARIES = ("pyarrow", "pa", "torch", "transformers", "numpy", "np", "PIL", "pandas", "pd", "duckdb", "matplotlib")
UNDOCUMENTED = (
    rf"({'|'.join(LIBRARIES)})\..*",
    r"(pathlib|collections|contextlib|typing|datetime)\..*",
    r"atlas\.\w+\.\w+\.[A-Z]",  # variables for types
    r"(Path|Sequence|Mapping|Iterator|Iterable|Callable|AbstractContextManager|Any|Tensor|Literal|Image|Medium|NDArray)(\..*)?",
)

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!-- (?P<what>commands|classes|parameters|file)(: (?P<name>[\w/.-]+))? -->")


def filled(page: str) -> str:
    """The page with every marked part written behind its mark."""

    def written(mark: re.Match[str]) -> str:
        text = OF_A_NAME[mark["what"]](mark["name"]) if mark["name"] else PARTS[mark["what"]]()
        return f"{mark[0]}\n\n{text}\n"

    return MARK.sub(written, page)


def walk(command: Any, path: tuple[str, ...] = ("atlas",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group below one, with what is typed for it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*path, name))


def command_line() -> Any:
    from cli.main import make_app

    return typer.main.get_command(make_app())


def commands() -> str:
    """A section for each command: what it does, its examples, arguments and options, as its `--help` has them."""
    root = command_line()
    return "\n\n".join(_section(root, path, command) for path, command in walk(root) if len(path) > 1)


def _section(root: Any, path: tuple[str, ...], command: Any) -> str:
    context = root.context_class(command, info_name=" ".join(path))
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"{'#' * len(path)} {' '.join(path)}", f"```text\n{usage}\n```"]
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        text = " ".join(paragraph.split())
        example = re.match(r"Example: (.*)", text)
        lines.append(f"```console\n$ {example[1]}\n```" if example else escaped(text))
    records = (p.get_help_record(context) for p in command.params if not getattr(p, "hidden", False))
    rows = [f"| {code(name)} | {escaped(told)} |" for name, told in filter(None, records)]
    if rows:
        lines.append("\n".join(["| argument or option | |", "|---|---|", *rows]))
    return "\n\n".join(lines)


def code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|")


def escaped(text: str) -> str:
    """Plain text as Markdown shows it: what is in backquotes stays code, everything else means itself."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        p.replace("|", r"\|") if p.startswith("`") else re.sub(r"([\\*_|<>\[\]{}$#~^])", r"\\\1", p) for p in parts
    )


def parameters(method: str) -> str:
    """The parameters of a method as a table, from its `build`; what they mean in the words of its docstring."""
    build = importlib.import_module(f"ingest.methods.{method}").build
    rows = [
        f"| `{p.name}` | {code(repr(p.default))} | `--param {method}.{p.name}=...` |"
        for p in inspect.signature(build).parameters.values()
    ]
    told = escaped(" ".join((inspect.getdoc(build) or "").split()))
    return "\n".join(["| parameter | default | to set it |", "|---|---|---|", *rows, "", told]) if rows else told


def resolve_signatures() -> None:
    """Give the methods that ask questions or perform requests their types themselves, as their names are of the
    questions' and requests' modules."""
    for _, method in inspect.getmembers(
        Atlas, lambda member: hasattr(member, "question") or hasattr(member, "request")
    ):
        asked, does = _asked_and_done(method)
        hints = typing.get_type_hints(asked)
        gives = typing.get_type_hints(does, _names(sys.modules[does.__module__]))["return"]
        signature = inspect.signature(method)
        own = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]
        method.__signature__ = signature.replace(parameters=own, return_annotation=gives)
        method.__annotations__ = {p.name: p.annotation for p in own[1:]} | {"return": gives}


def _asked_and_done(method: Any) -> tuple[type, Any]:
    """The class that a method of `Atlas` takes its parameters from, and the function that answers or performs it."""
    if question := getattr(method, "question", None):
        return question, question.answer
    return method.request, method.request.perform


def classes() -> str:
    """`Atlas`, every class of ours that its methods take or give, and the errors: docstrings and signatures."""
    resolve_signatures()
    found: list[type] = [Atlas]
    for cls in found:
        for annotated in (cls, *_functions(cls)):
            found += [c for c in mentioned(annotated) if c not in found]
    found += [e for e in vars(errors).values() if isinstance(e, type) and e.__module__ == errors.__name__]
    found += [*errors.Unsupported.__subclasses__(), BadMedia]
    return "\n\n".join(_documented(cls) for cls in dict.fromkeys(found))


def _functions(cls: type) -> Iterator[Any]:
    """What the annotations of a class's public methods and properties are read from."""
    for name, member in inspect.getmembers(cls):
        function = getattr(member, "fget", None) or getattr(member, "func", member)  # of a property, a cached one
        if name.startswith("_") or not (inspect.isfunction(function) or inspect.ismethod(function)):
            continue
        if hasattr(function, "question") or hasattr(function, "request"):  # its fields, and what it gives
            asked, does = _asked_and_done(function)
            given = {"return": does.__annotations__["return"]}
            yield types.SimpleNamespace(__module__=does.__module__, __annotations__=given)
            yield from (base for base in asked.__mro__ if base.__module__.startswith(("atlas.", "ingest.")))
        else:
            yield function


def mentioned(annotated: Any) -> list[type]:
    """Classes of ours in the annotations of a function or a class."""
    names = _names(sys.modules[annotated.__module__])
    words = re.findall(r"\w+", " ".join(map(str, getattr(annotated, "__annotations__", {}).values())))
    types = [t for word in words if word in names for t in (names[word], *typing.get_args(names[word]))]
    classes = [t for t in types if isinstance(t, type)]
    return list(dict.fromkeys(c for c in classes if c.__module__.split(".")[0] in ("atlas", "ingest")))


def _names(module: Any) -> dict[str, Any]:
    """What a module's annotations may name, with what it imports for type checkers alone."""
    names = dict(vars(module))
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for one in node.body:
                exec(compile(ast.Module([one], []), module.__file__, "exec"), names)
    return names


def _documented(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}" if cls is not Atlas else "atlas.Atlas"
    return f"""## {cls.__name__}

```{{eval-rst}}
.. autoclass:: {name}
   :members:
   :undoc-members:
   :inherited-members: object, tuple, dict
```"""


def file(path: str) -> str:
    """A Markdown file of the repository as part of a page: without front matter, headings one level lower, links to its
    neighbours as links within the page."""
    text = re.sub(r"\A---\n.*?\n---\n", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [re.sub(r"^#", "##", part, flags=re.MULTILINE) for part in parts[::2]]
    return re.sub(r"\]\(\.\./([\w-]+)/?\)", r"](#\1)", "".join(parts))


OF_A_NAME: dict[str, Callable[[str], str]] = {"parameters": parameters, "file": file}
PARTS: dict[str, Callable[[], str]] = {"commands": commands, "classes": classes}
