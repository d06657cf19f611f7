"""Options of everything that runs a model: which model, how it is loaded, which examples, what is scored.

A request inherits the groups that it needs; the command line and Python take the same fields. None: not given, so that
the job's own default, or an edit's, holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query.given import check_given
from atlas.query.option import COMMAS, PAIRS, described, option, options_of
from ingest.requests.named_dataset import NamedDataset

if TYPE_CHECKING:
    from atlas.live.model import LiveModel
    from ingest.job import Execution

JOB, EXECUTION = "job", "execution"
"""What a field belongs to: `ingest.job.Job`, whose field of that name it fills, or `ingest.job.Execution`."""


@described
class JobOptions:
    """Options that fill fields of a job, or of how it is run."""

    def __post_init__(self) -> None:
        """Convert and check the values; see `check_given`.

        Raises:
            UsageError: a value that is not allowed.
        """
        check_given(self)

    def content(self) -> dict[str, Any]:
        """The fields of a job that were given."""
        return self._given(JOB)

    def execution(self) -> Execution:
        """How to run it; what was not given is as it is by default."""
        from ingest.job import Execution

        return Execution(**self._given(EXECUTION))

    def _given(self, part: str) -> dict[str, Any]:
        names = (name for name, about in options_of(type(self)).items() if about.of == part)
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@described
class MachineOptions(JobOptions):
    """Where a model runs."""

    device: str | None = option("cpu, cuda, cuda:1, ... or auto. [default: cpu]", default=None, of=EXECUTION)
    trust_remote_code: bool = option(
        "Run the code that comes with the model; from the Hub, at a pinned revision.", default=False, of=EXECUTION
    )


@described
class LoadOptions(MachineOptions):
    """How a model is loaded."""

    device_map: str | None = option(
        "auto: spread over devices, the rest in memory or on disk.", default=None, of=EXECUTION
    )
    dtype: str | None = option("float32, bfloat16, float16 or auto. [default: float32]", default=None, of=JOB)
    quantization: str | None = option("8bit or 4bit, by bitsandbytes.", default=None, of=JOB)
    attention: str | None = option(
        "sdpa, eager, ...: how attention is computed. [default: the model's]",
        "--attn-impl",
        default=None,
        of=EXECUTION,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device_map is not None and self.device is not None:
            raise UsageError("[[device_map]] chooses the devices; leave out [[device]]")

    def refuse(self, why: str) -> None:
        """Raise UsageError where something but the device was given: no model is loaded, and why."""
        given = [name for name in options_of(LoadOptions) if name != "device" and getattr(self, name)]
        if given:
            raise UsageError(f"[[{given[0]}]] is for loading a model, and {why}; leave it out")


@described
class ModelOptions(JobOptions):
    """Which model."""

    model: str | None = option(
        "A folder, a GGUF file, a HuggingFace id, or a name of `atlas models`.", "--model", "-m", default=None, of=JOB
    )
    revision: str | None = option("The HuggingFace revision.", default=None, of=JOB)


@described
class DataOptions(JobOptions):
    """What a dataset is asked for; `ExampleOptions` without what solving an edit has of its own."""

    dataset: str | NamedDataset | None = option(
        "NAME or NAME:PATH. [default: scenes; an edit's own]",
        "--dataset",
        "-d",
        default=None,
        of=JOB,
    )
    options: Mapping[str, Any] | None = option(
        "KEY=VALUE for the dataset; repeatable.", "--option", default=None, several=PAIRS, of=JOB
    )
    sources: Sequence[str] | None = option(
        "Of image, text, audio, video; default: what model and dataset have.", default=None, of=JOB, several=COMMAS
    )
    tasks: Sequence[str] | None = option(
        "Which tasks (`atlas datasets NAME`), not the default ones.", default=None, of=JOB, several=COMMAS
    )
    per_concept: int | None = option(
        "At most so many examples of a concept and task.",
        "--per-concept",
        "--max-samples",
        default=None,
        of=JOB,
        least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.dataset, NamedDataset):
            object.__setattr__(self, "options", {**self.dataset.options, **(self.options or {})} or None)
            object.__setattr__(self, "dataset", str(self.dataset))


@described
class ExampleOptions(DataOptions):
    """Which examples of a dataset."""

    concepts: Sequence[str] | None = option(
        "Only these, separated by commas.",
        "--concepts",
        "--classes",
        "--concept",
        default=None,
        of=JOB,
        several=COMMAS,
    )
    seed: int | None = option("Which examples, and the random control.", default=None, of=JOB)
    answers: str | None = option(
        "Of pictures: the model's own words (own), or the dataset's (reference). [default: own; of `evaluate`: those "
        "that the neurons were found on]",
        default=None,
        of=JOB,
    )
    where_named: str | None = option(
        "Only texts that name the concept in the prompt, the answer, or both.", default=None, of=JOB
    )


@described
class DrawingOptions(JobOptions):
    """How pictures are drawn, and what is found in them."""

    segmenter: str | None = option("colour, hf or none: what finds concepts in drawn pictures.", default=None, of=JOB)
    segmenting: Mapping[str, Any] | None = option(
        "KEY=VALUE for the segmenter; repeatable.", "--segment-option", default=None, several=PAIRS, of=JOB
    )
    drawing: Mapping[str, Any] | None = option(
        "steps=20, guidance=2.5, looks=4, side=PIXELS of drawings; repeatable.",
        "--draw-option",
        default=None,
        several=PAIRS,
        of=JOB,
    )


@described
class ScoringOptions(JobOptions):
    """What is scored, and what of it is kept."""

    tap: str | None = option("product (default) or gate.", default=None, of=JOB)
    layers: str | None = option("Only these layers: 3, 8-15.", default=None, of=JOB)
    reduce: Sequence[str] | None = option(
        "mean,contrast (default), cohens_d, auroc: positives and negatives.", default=None, of=JOB, several=COMMAS
    )
    swap_answers: bool | None = option(
        "Also score every answer behind another concept's prompt, for twice the time: how many neurons two sources "
        "share by the answers' words alone (`atlas shared`).",
        default=None,
        of=JOB,
    )
    negatives: int | None = option("Examples a source that show none of the concepts.", default=None, of=JOB, least=0)
    mentions: str | None = option(
        "shown (default), or vocabulary: every concept that the answer names.", default=None, of=JOB
    )
    occurrences: str | None = option("first (default) or all.", default=None, of=JOB)
    tokens: str | None = option("all (default) or first of a word's tokens.", default=None, of=JOB)
    keep: str | None = option(
        "all (default) scores of a map, or top:N: the best N, and a sketch of the rest.", default=None, of=JOB
    )


@described
class InpaintingOptions(JobOptions):
    """How the concept is taken out of a picture."""

    inpainter: str | None = option(
        "exact, classical or diffusion, for methods that need counterfactual pictures.", default=None, of=JOB
    )
    inpainting: Mapping[str, Any] | None = option(
        "KEY=VALUE for the inpainter; repeatable.", "--inpaint-option", default=None, several=PAIRS, of=JOB
    )


def load(request: JobOptions, name: str, revision: str | None = None, **defaults: Any) -> LiveModel:
    """The model that was asked for, or else the one of that name and revision. defaults: of other fields.

    Raises:
        UsageError, Unsupported: it cannot be loaded.
    """
    from ingest.job import ModelSpec, make_spec
    from ingest.run.prepare import load_model

    content = request.content()
    if "model" not in content:
        content = {"model": name, **({} if revision is None else {"revision": revision}), **content}
    known = {key: value for key, value in (defaults | content).items() if key in ModelSpec.__dataclass_fields__}
    return load_model(make_spec(ModelSpec, known), request.execution())
