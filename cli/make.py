"""What makes an atlas or runs a model: init, ingest, generate, demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.errors import AtlasError, UsageError
from cli.common import AtlasPath, existing, note_model, resolve, say, tell
from cli.groups import grouped
from cli.progress import NoProgress, progressing
from cli.render import show
from ingest.requests.generate import MODEL, Generate
from ingest.requests.ingest import Ingest

if TYPE_CHECKING:
    from ingest.job import Job


def init(atlas: AtlasPath = None) -> None:
    """Make an empty atlas folder; one that is there is left as it is.

    Example: atlas init --atlas my.atlas
    """
    from atlas.store import create

    path = resolve(atlas)
    say("made an empty atlas" if create.init(path) else "there is an atlas already")
    tell(path)


@grouped
def ingest(
    *,
    request: Ingest,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a model that was not named.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="The same: never ask.")] = False,
    no_progress: NoProgress = False,
    atlas: AtlasPath = None,
) -> None:
    """Score every neuron of a model for concepts, by all methods on one pass, and store the maps.

    The same job is never run twice; an interrupted one goes on where it stopped.

    Example: atlas ingest --model tiny-llava --dataset scenes --methods contribution,ablation --concepts dog,cat
    """
    if dry_run:
        show(request.plan(), "table")
        return
    path = existing(atlas)
    begin = _beginning("model" in request.content(), yes or no_input)
    with resumable(), progressing(no_progress) as progress:
        run = request.perform(path, progress, begin)
    for note in run.notes:
        say(note)
    outcome = run.facts["outcome"]
    if run.facts["fresh"]:
        say(f"{outcome['maps']} maps from {outcome['examples']} examples in {outcome['seconds']:.1f} s")
    tell(run.facts["run_id"])


@contextmanager
def resumable() -> Iterator[None]:
    """Tell at Ctrl-C what was kept: of how many examples (the interrupt's note, by `ingest.run.map_step`)."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = next(iter(getattr(error, "__notes__", ())), "0")
        if kept.startswith("0"):
            say("nothing was finished yet; the same command starts again")
        else:
            say(f"{kept} examples are kept; the same command goes on from there")
        raise


def _beginning(named: bool, yes: bool) -> Callable[[Job, int], None]:
    """What tells what is about to run, and on a terminal asks where nobody named the model."""

    def begin(job: Job, examples: int) -> None:
        concepts = f"{len(job.concepts)} concept{'s' * (len(job.concepts) != 1)}"
        say(
            f"{job.model}{'' if named else ' (no --model was given)'} on {examples:,} examples of {job.dataset}: "
            f"{concepts}, {' and '.join(job.sources)}, {', '.join(job.methods)}"
        )
        if named or yes or not sys.stdin.isatty():
            return
        try:
            go_on = typer.confirm("run that?", default=True, err=True)
        except typer.Abort:
            raise UsageError("nobody answered; give --model, or --yes") from None
        if not go_on:
            raise UsageError("nothing was run; --model, --dataset and --concepts choose others")

    return begin


@grouped
def generate(*, request: Generate) -> None:
    """A live model's greedy answer, and what it draws.

    Example: atlas generate --model tiny-llava --image scenes:held_out/0 --prompt "what is this?"

    Example: atlas generate --model tiny-gill --prompt "draw a red dog." --draw dog.png
    """
    answer = request.perform()
    note_model(request, MODEL)
    tell(answer)
    if request.draw is not None:
        if answer.picture is None:
            raise AtlasError("the answer has no picture; ask for one (`draw a red dog.`), or leave out --draw")
        say(f"drawn: {request.draw}")


def demo(
    full: Annotated[
        bool, typer.Option("--full", help="Also the embedded models that hear and draw (extra `diffusion`).")
    ] = False,
    real: Annotated[
        bool,
        typer.Option("--real", help="Instead on photo-vlm, with pretrained weights, and photographs; fetches 110 MB."),
    ] = False,
    atlas: AtlasPath = None,
    no_progress: NoProgress = False,
) -> None:
    """Everything once, on the embedded models and world, into the default atlas: ingest, ask, edit, evaluate.

    Example: atlas demo --full

    Example: atlas demo --real
    """
    import ingest.run.ingest  # noqa: F401 - without torch, say so before the first step
    from cli.demo import FURTHER, GET, REAL, STEPS, play

    if full and real:
        raise UsageError("--full is of the embedded models, --real of photo-vlm; choose one")
    play(resolve(atlas), no_progress, (GET, *REAL) if real else (*STEPS, *(FURTHER if full else ())))
