"""What makes an atlas or runs a model: init, ingest, generate, demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import AtlasError, UsageError
from cli.common import (
    AtlasPath,
    Audios,
    BatchSize,
    Images,
    MaxNewTokens,
    PromptText,
    Videos,
    existing,
    given,
    pairs,
    picture_file,
    resolve,
    say,
    tell,
    words,
)
from cli.groups import grouped
from cli.jobs import DrawOptions, ExampleOptions, LoadOptions, ModelOptions, ScoreOptions, TwinOptions, live_model
from cli.progress import NoProgress, progressing
from cli.render import show

if TYPE_CHECKING:
    from ingest.job import Job

BadMedia = Annotated[
    str, typer.Option("--bad-media", help="skip (and report) or fail at a picture that does not open.")
]


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
    job: Annotated[Path | None, typer.Argument(help="A TOML job file; options given beside it win.")] = None,
    which: ModelOptions,
    methods: Annotated[str | None, typer.Option("--methods", help="Attribution methods, separated by commas.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="METHOD.KEY=VALUE, or @FILE as value.")] = None,
    examples: ExampleOptions,
    split: Annotated[str | None, typer.Option("--split", help="find (default) or held_out.")] = None,
    scores: ScoreOptions,
    twins: TwinOptions,
    drawing: DrawOptions,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Length of answers.")] = None,
    exemplars: Annotated[int | None, typer.Option("--exemplars", min=0, help="Examples kept for each neuron.")] = None,
    how: LoadOptions,
    batch_size: BatchSize = 16,
    bad_media: BadMedia = "skip",
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
    path = resolve(atlas) if dry_run else existing(atlas)
    from ingest.job import make_job, read_toml
    from ingest.run.ingest import ingest as start

    content: dict[str, Any] = read_toml(job) if job else {}
    for group in (which, examples, scores, twins, drawing, how):
        content |= group.content()
    content |= given({"split": split, "max_new_tokens": max_new_tokens, "exemplars": exemplars})
    if methods is not None:
        content["methods"] = {name: content.get("methods", {}).get(name, {}) for name in words(methods)}
    _parameters(content, param or [])
    checked = make_job(content)
    execution = how.execution(batch_size=batch_size, bad_media=bad_media)
    if dry_run:
        from ingest.run.plan import plan

        show(pa.Table.from_pylist(plan(checked, execution)), "table")
        return
    begin = _beginning("model" in content, yes or no_input)
    with resumable(), progressing(no_progress) as progress:
        done = start(path, checked, execution, progress, begin)
    report(done.outcome.get("skipped"), path / "runs" / done.run_id / "manifest.json")
    if not done.fresh:
        say(f"run {done.run_id[:8]} was done before; nothing to do")
        tell(done.run_id)
        return
    for note in done.outcome.get("notes", ()):
        say(note)
    for method, lacking in done.outcome["empty"].items():
        say(f"{method}: no neuron passed for {', '.join(lacking)}; its parts have maps (`atlas concepts`)")
    o = done.outcome
    say(f"{o['maps']} maps from {o['examples']} examples in {o['seconds']:.1f} s")
    tell(done.run_id)


def _parameters(content: dict[str, Any], given: list[str]) -> None:
    for name, value in pairs(given).items():
        method, dot, key = name.partition(".")
        if not dot or method not in content.get("methods", {}):
            raise UsageError(
                f"--param {name}=... needs a method of this job before the dot, as in contribution.norm=true"
            )
        content["methods"][method] = {**content["methods"][method], key: value}


def report(skipped: dict[str, Any] | None, manifest: Path) -> None:
    """Say what was left out: nothing is dropped silently. manifest: the file with the run's whole outcome."""
    if not skipped:
        return
    for pointer, reason in list(skipped["media"].items())[:5]:
        say(f"skipped {pointer}: {reason}")
    if len(skipped["media"]) > 5:
        say(f"skipped {len(skipped['media']) - 5} more media ({manifest} has them all, under outcome)")
    for concept, count in skipped["unmentioned"].items():
        say(f"{concept}: {count} answers do not mention it and were left out")
    for concept, count in skipped.get("unplaced", {}).items():
        say(f"{concept}: {count} pictures do not say where it is and were left out")
    for concept, count in skipped.get("undrawn", {}).items():
        say(f"{concept}: {count} answers have no picture and were left out")


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
        say(
            f"{job.model}{'' if named else ' (no --model was given)'} on {examples:,} examples of {job.dataset}: "
            f"{len(job.concepts)} concepts, {' and '.join(job.sources)}, {', '.join(job.methods)}"
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
def generate(
    *,
    prompt: PromptText,
    image: Images = None,
    audio: Audios = None,
    video: Videos = None,
    which: ModelOptions,
    how: LoadOptions,
    max_new_tokens: MaxNewTokens = 50,
    draw: Annotated[Path | None, typer.Option("--draw", help="Save the picture that the answer asks for.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the picture's noise.")] = 0,
) -> None:
    """A live model's greedy answer, and what it draws.

    Example: atlas generate --model tiny-llava --image scenes:held_out/0 --prompt "what is this?"

    Example: atlas generate --model tiny-gill --prompt "draw a red dog." --draw dog.png
    """
    picture_file(draw)
    from ingest.run.generate import generate_answer, open_media

    media = open_media(image, audio, video)
    which.tell("tiny-llava")
    live = live_model(which, how, "tiny-llava")
    said, picture = generate_answer(live, prompt, media, max_new_tokens=max_new_tokens, seed=seed if draw else None)
    tell(said)
    if draw is not None:
        if picture is None:
            raise AtlasError("the answer has no picture; ask for one (`draw a red dog.`), or leave out --draw")
        picture.save(draw)
        say(f"drawn: {draw}")


def demo(
    full: Annotated[
        bool, typer.Option("--full", help="Also the embedded models that hear and draw (extra `diffusion`).")
    ] = False,
    atlas: AtlasPath = None,
    no_progress: NoProgress = False,
) -> None:
    """Everything once, on the embedded models and world, into the default atlas: ingest, ask, edit, evaluate.

    Example: atlas demo --full
    """
    import ingest.run.ingest  # noqa: F401 - without torch, say so before the first step
    from cli.demo import FURTHER, STEPS, play

    play(resolve(atlas), no_progress, (*STEPS, *(FURTHER if full else ())))
