"""The command `atlas`. Modules that need torch are imported inside the commands that need it."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from atlas.errors import AtlasError
from cli import (
    ask,
    compare,
    db,
    edit,
    geometry,
    labels,
    leaderboard,
    lists,
    make,
    measure,
    plot,
    properties,
    runs,
    select,
    sql,
    vectors,
)
from cli.common import be_quiet

INTERRUPTED = 130

app = typer.Typer(
    name="atlas",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which neurons of a multimodal language model carry a concept, and what happens without them.\n\n"
    "Example: atlas demo, then atlas query --concept dog",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"neuron-atlas {version('neuron-atlas')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No messages, only data and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    be_quiet(quiet)


COMMANDS: tuple[Callable[..., None], ...] = (
    *(ask.query, ask.neuron, compare.shared, compare.only, compare.layers, compare.agreement),
    *(make.init, make.ingest, measure.evaluate, leaderboard.leaderboard, properties.properties, geometry.geometry),
    *(vectors.similar, vectors.search, vectors.match),
    *(make.generate, make.demo),
    *(lists.methods, lists.datasets, lists.models, lists.concepts, sql.sql),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(runs.app, name="runs")
app.add_typer(select.app, name="select")
app.add_typer(edit.app, name="edit")
app.add_typer(labels.app, name="labels")
app.add_typer(plot.app, name="plot")
app.add_typer(db.app, name="db")
app.add_typer(vectors.app, name="index")


def run(arguments: list[str] | None = None) -> None:
    """The console script: every error is one line on stderr and an exit code; a traceback only with --debug."""
    code = main(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):  # whoever read it has had enough
            stream.flush()
    # Everything is closed by now. Where torch and duckdb-engine are in one process, the interpreter's own way out
    # prints pages of reference-count warnings of duckdb's binding, and takes its time.
    atexit._run_exitfuncs()
    os._exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    debug = "--debug" in arguments
    try:
        result: Any = app(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except AtlasError as error:
        return _failed(str(error), error.exit_code, debug)
    except TyperException as error:
        return _misused(error)
    except (KeyboardInterrupt, typer.Abort):
        return _failed("interrupted", INTERRUPTED, debug)
    except BrokenPipeError:
        return _unread()
    except SystemExit as error:  # what typer makes of a closed pipe
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return _unread()
    except OSError as error:
        return _failed(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1, debug)
    except Exception as error:  # a defect of ours: say so in one line, and how to see more
        return _failed(f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1, debug)


def _unread() -> int:
    """Nobody reads on (`atlas ... | head`): what is still buffered goes nowhere, and that is no failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _misused(error: TyperException) -> int:
    """A command line that does not parse, or that asks for nothing and gets the help."""
    message = error.format_message()
    if message.startswith("Usage:"):
        print(message)
        return error.exit_code
    context = getattr(error, "ctx", None)
    hint = f" (`{context.command_path} --help` shows how)" if context is not None else ""
    return _failed(f"{message.rstrip('.')}{hint}", error.exit_code, debug=False)


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with suppress(BrokenPipeError):
        print(f"atlas: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
