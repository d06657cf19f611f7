"""The command `atlas`. Modules that need torch are imported inside the commands that need it."""

from __future__ import annotations

import atexit
import copy
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from atlas.errors import AtlasError, AtlasWarning, Unsupported, UsageError
from atlas.missing_extra import missing_extra
from cli.common import be_quiet, in_flags, say
from cli.text import visible

INTERRUPTED = 130

COMMANDS = {
    "search": "vectors",
    "neuron": "neuron",
    **dict.fromkeys(("init", "ingest"), "make"),
    "evaluate": "measure",
    "properties": "properties",
    "geometry": "geometry",
    "heatmaps": "heatmaps",
    **dict.fromkeys(("generate", "demo"), "make"),
    **dict.fromkeys(("methods", "datasets", "concepts"), "lists"),
    "sql": "sql",
    "use": "use",
    "serve": "serve",
    "site": "site",
    **dict.fromkeys(("export", "import", "push", "pull"), "share"),
}
"""Command -> the module of `cli` that has a function of that name. Every question of `atlas.questions` that is not here
nor within a group is a command too."""

GROUPS = {"runs": "runs", "select": "select", "edit": "edit", "labels": "labels", "plot": "plot", "db": "db"}
GROUPS |= {"index": "vectors", "models": "models"}
"""Group of commands -> the module of `cli` whose `app` it is."""

WITHIN = {"run": "runs show", "run_diff": "runs diff", "runs": "runs ls", "labels": "labels show"}
WITHIN |= {"edits": "edit ls", "edit_diff": "edit diff"}
"""Questions that are commands of a group."""


def questions(named: str | None) -> dict[str, str]:
    """Command -> question, of those that are commands by themselves. Plug-ins are looked for only where our own are
    not enough, as that takes longer than a question."""
    import atlas.questions
    from atlas import registry

    def commands(names: list[str]) -> dict[str, str]:
        others = {*WITHIN, *COMMANDS, *GROUPS}
        return {name.replace("_", "-"): name for name in names if name not in others}

    own_commands = commands(registry.folder_names(atlas.questions))
    known = named in own_commands or named in COMMANDS or named in GROUPS
    return own_commands if known else commands(registry.names(atlas.questions))


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"neuron-atlas {version('neuron-atlas')}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No messages, only data and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    be_quiet(quiet)


def make_app(named: str | None = None) -> typer.Typer:
    """The command line: all of it, or what is needed for one command, as the others take longer than a question."""
    app = typer.Typer(
        name="atlas",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Which neurons of a multimodal language model carry a concept, and what happens without them.\n\n"
        "Example: atlas demo\n\nExample: atlas query --concept dog",
    )
    app.callback()(options)
    question_commands = questions(named)
    known = named in question_commands or named in COMMANDS or named in GROUPS
    for name, question in question_commands.items():
        if name == named or not known:
            _add_question(app, name, question, named)
    for name, module in COMMANDS.items():
        if name == named or not known:
            module_of_command = importlib.import_module(f"cli.{module}")
            # A function cannot be called `import`.
            app.command(name)(getattr(module_of_command, name, None) or getattr(module_of_command, f"{name}_"))
    for name, module in GROUPS.items():
        if name == named or not known:
            app.add_typer(importlib.import_module(f"cli.{module}").app, name=name)
    return app


def _add_question(app: typer.Typer, name: str, question: str, named: str | None) -> None:
    """Add a question's command. A plug-in that cannot be used is a warning, unless it is what was asked for."""
    from cli.questions import ask

    try:
        app.command(name)(ask(question))
    except AtlasError as error:
        if name == named:
            raise
        warnings.warn(str(error), AtlasWarning, stacklevel=2)


def _with_common_options(command: Any) -> Any:
    """The command line with --quiet and --debug behind every command too, where people write them."""
    own = [copy.copy(p) for p in command.params if p.name in ("quiet", "debug")]
    for option in own:
        option.expose_value = False
        option.callback = _hushed if option.name == "quiet" else None
    commands = list(command.commands.values())
    while commands:
        one = commands.pop()
        one.params += own
        commands += getattr(one, "commands", {}).values()
    return command


def _hushed(context: Any, parameter: Any, quiet: bool) -> None:
    if quiet:  # it may have been given before the command
        be_quiet(True)


def run(arguments: list[str] | None = None) -> None:
    """The console script: every error is one line on stderr and an exit code; a traceback only with --debug."""
    _require_streams()
    code = main(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has had enough
        pass
    except OSError as error:
        code = _failed(f"the output could not be written: {error.strerror}", 1, debug=False)
    with suppress(OSError):
        sys.stderr.flush()
    # Everything is closed by now; where torch is loaded, the interpreter's own way out takes its time.
    atexit._run_exitfuncs()
    os._exit(code)


def _require_streams() -> None:
    """A stream that is closed goes nowhere, and no file that is opened later gets its number; whatever an encoding
    lacks is written as an escape."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8"))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    debug = "--debug" in arguments
    if any("\ud800" <= sign <= "\udfff" for text in arguments for sign in text):
        return _failed("an argument is not valid UTF-8", UsageError.exit_code, debug=False)
    try:
        named = next((a for a in arguments if not a.startswith("-")), None)
        with _warnings_in_one_line():
            program = _with_common_options(typer.main.get_command(make_app(named)))
            result: Any = program(arguments, prog_name="atlas", standalone_mode=False)
        if result == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except AtlasError as error:
        return _failed(in_flags(error.message), error.exit_code, debug)
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
    except Exception as error:
        if (needed := missing_extra(error)) is not None:
            return _failed(f"`{_command_of(arguments)}` needs {needed}", Unsupported.exit_code, debug)
        # A defect of ours: say so in one line, and how to see more.
        return _failed(f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1, debug)
    finally:
        be_quiet(False)  # the next command line says for itself


def _command_of(arguments: list[str]) -> str:
    """The command that a command line gives, without its arguments: "atlas edit apply"."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    words = 2 if names and names[0] in GROUPS else 1
    return " ".join(["atlas", *names[:words]])


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always", AtlasWarning)
        usual = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, AtlasWarning):
                say(f"warning: {message}")
            else:
                usual(message, category, *where)

        warnings.showwarning = tell  # type: ignore[assignment]
        yield


def _unread() -> int:
    """Nobody reads on (`atlas ... | head`): what is still buffered goes nowhere, and that is not failure."""
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
    with suppress(OSError):  # nobody can be told
        print(f"atlas: {visible(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
