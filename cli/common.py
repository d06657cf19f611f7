"""Options that commands share, where the atlas is, and what a command prints where."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.errors import AtlasError, UsageError, spelled
from cli.text import visible

if TYPE_CHECKING:
    from atlas.query.answer import Answer

AtlasPath = Annotated[
    Path | None,
    typer.Option(
        "--atlas", "-a", help="The atlas folder. [env: NEURON_ATLAS; else a config file; else the user's data folder]"
    ),
]
Method = Annotated[str | None, typer.Option("--method", help="The attribution method (`atlas methods` lists them).")]
Source = Annotated[
    str | None, typer.Option("--source", help="The modality that carries the concept in: image, text, audio or video.")
]
Target = Annotated[str | None, typer.Option("--target", help="The modality of the output explained.")]
Select = Annotated[
    str | None,
    typer.Option(
        "--select",
        help="A rule instead of --top: top:50, share:1 (percent), per_layer:5, percentile:99, fraction:0.3 (of the "
        "largest score), "
        "above:0.5 (a score above it: of knowledge_neurons, the refined set), z:4 (robust, against the map itself), "
        "z:4,concept=cat (against another map).",
    ),
]
Of = Annotated[
    str | None,
    typer.Option("--of", help="Saved selections' and edits' neurons, joined: 'dog', 'dog & cat', '(a | b) - no-dog'."),
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The model's name (`atlas models` lists them).")]
Run = Annotated[str | None, typer.Option("--run", help="The run, by the beginning of its id.")]
Reduce = Annotated[
    str | None, typer.Option("--reduce", help="mean over the concept's examples, or contrast with others.")
]


def words(text: str | None) -> tuple[str, ...]:
    """A comma-separated option as its parts."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def pairs(texts: list[str], name: str) -> dict[str, Any]:
    """The KEY=VALUE texts of an option, which was given for a field of this name.

    Raises:
        UsageError: one is not.
    """
    values = {}
    for pair in texts:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"[[{name}]] '{pair}' is not KEY=VALUE")
        values[key] = value
    return values


def resolve(path: Path | None) -> Path:
    """Where the atlas is: the flag, $NEURON_ATLAS, ./neuron-atlas.toml, the user's config file, the data folder."""
    if path is not None:
        return path
    if variable := os.environ.get("NEURON_ATLAS"):
        return Path(variable)
    import platformdirs

    from atlas.store.atomic import expand_home

    for file in (Path("neuron-atlas.toml"), platformdirs.user_config_path("neuron-atlas") / "config.toml"):
        if configured := _settings(file).get("atlas"):
            return expand_home(file.parent / str(configured))
    from atlas.store.default_path import default_path

    return default_path()


def existing(path: Path | None) -> Path:
    """`resolve`, where there has to be an atlas: told before anything heavy is loaded.

    Raises:
        StoreUnavailable: there is none.
    """
    from atlas.store.database import database_file, missing

    folder = resolve(path)
    if not database_file(folder).is_file():
        raise missing(folder)
    return folder


def _settings(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file} is not a configuration file: {error}") from error


_quiet = False


def be_quiet(quiet: bool) -> None:
    global _quiet
    _quiet = quiet


_flags: ContextVar[Mapping[str, str] | None] = ContextVar("flags", default=None)


@contextmanager
def spelling(flags: Mapping[str, str]) -> Iterator[None]:
    """Messages of the block name fields by these flags; an error keeps how it is to be spelled."""
    token = _flags.set(flags)
    try:
        yield
    except AtlasError as error:
        error.message = in_flags(error.message)
        raise
    finally:
        _flags.reset(token)


def in_flags(message: str) -> str:
    """A message whose fields are written as options: `--top`, or `--token bark`."""

    def flag(name: str, value: str | None) -> str:
        spelled_flag = (_flags.get() or {}).get(name, f"--{name.replace('_', '-')}")
        return spelled_flag if value is None else f"{spelled_flag} {shlex.quote(value)}"

    return spelled(message, flag)


def say(text: str) -> None:
    """A message to the person, one line on stderr; data alone goes to stdout."""
    if not _quiet:
        print(visible(in_flags(text)), file=sys.stderr)


def tell(text: object = "", *, flush: bool = False) -> None:
    """A result on stdout, of one line or several, in text that a terminal may have."""
    print(visible(str(text), keep="\n\t"), flush=flush)


def note_defaults(answer: Answer) -> None:
    """Tell what was left open and filled in for an answer, so that no choice is silent."""
    for default in answer.defaults:
        say(f"using {default}")


def note_model(request: Any, name: str) -> None:
    """Tell which model is taken where none was named."""
    if request.model is None:
        say(f"using model={name} (no --model was given)")
