"""The command `atlas`. Modules that need torch are imported inside the commands that need it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer

from atlas.errors import AtlasError
from cli import ask, db, edit, lists, make
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


for command in (ask.query, ask.shared, ask.neuron, ask.agreement):
    app.command()(command)
for command in (make.init, make.ingest, make.evaluate, make.generate, make.demo):
    app.command()(command)
for command in (lists.methods, lists.datasets, lists.models, lists.runs, lists.concepts):
    app.command()(command)
app.add_typer(edit.app, name="edit")
app.add_typer(db.app, name="db")


def run(arguments: list[str] | None = None) -> None:
    """The console script: every error is one line on stderr and an exit code; a traceback only with --debug."""
    code = main(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(code)


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    import click

    debug = "--debug" in arguments
    try:
        result: Any = app(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except AtlasError as error:
        return _failed(str(error), error.exit_code, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort):
        return _failed("interrupted", INTERRUPTED, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1, debug)
    except Exception as error:  # a defect of ours: say so in one line, and how to see more
        return _failed(f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1, debug)


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"atlas: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
