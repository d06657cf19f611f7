"""Groups of options of what a job is made of: a model, how it is loaded, and examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import given, say

if TYPE_CHECKING:
    from atlas.live.model import LiveModel
    from ingest.job import Execution

KeyValues = list[str] | None


@dataclass(frozen=True)
class MachineOptions:
    """Where a model runs."""

    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ... or auto.")] = "cpu"
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the code that lies beside the model; the hub's at a pinned revision."
        ),
    ] = False

    def execution(self, **more: Any) -> Execution:
        """more: fields of Execution that are not of this group."""
        from ingest.job import Execution

        return Execution(device=self.device, trust_remote_code=self.trust_remote_code, **more)

    def content(self) -> dict[str, Any]:
        """The job's fields that were given."""
        return {}


@dataclass(frozen=True)
class LoadOptions(MachineOptions):
    """How a model is loaded."""

    device_map: Annotated[
        str | None, typer.Option("--device-map", help="auto: spread over devices, the rest in memory or on the disk.")
    ] = None
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16, float16 or auto. [default: float32]")
    ] = None
    quantization: Annotated[
        str | None,
        typer.Option("--quantization", help="8bit or 4bit, by bitsandbytes."),
    ] = None
    attn_impl: Annotated[
        str | None,
        typer.Option("--attn-impl", help="sdpa, eager, ...: how attention is computed. [default: the model's]"),
    ] = None

    def execution(self, **more: Any) -> Execution:
        if self.device_map is not None and self.device != "cpu":
            raise UsageError("--device-map chooses the devices; leave out --device")
        return super().execution(device_map=self.device_map, attention=self.attn_impl, **more)

    def refuse(self, why: str) -> None:
        """Raise UsageError where something but the device was said."""
        usual = LoadOptions(device=self.device)
        said = [f.name for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)]
        if said:
            raise UsageError(f"--{said[0].replace('_', '-')} is of a live model, and {why}; leave it out")

    def content(self) -> dict[str, Any]:
        return given({"dtype": self.dtype, "quantization": self.quantization})


@dataclass(frozen=True)
class ModelOptions:
    """Which model."""

    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A folder, a HuggingFace id, or an embedded model.")
    ] = None
    revision: Annotated[str | None, typer.Option("--revision", help="The HuggingFace revision.")] = None

    def content(self) -> dict[str, Any]:
        """The job's fields that were given."""
        return given({"model": self.model, "revision": self.revision})

    def tell(self, name: str) -> None:
        """Say which model is taken where none was named."""
        if self.model is None:
            say(f"using model={name} (no --model was given)")


@dataclass(frozen=True)
class DataOptions:
    """What a dataset is asked for; `ExampleOptions` without what `edit solve` has of its own."""

    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="NAME or NAME:PATH. [default: scenes; an edit's own]"),
    ] = None
    option: Annotated[KeyValues, typer.Option("--option", help="KEY=VALUE for the dataset; repeatable.")] = None
    sources: Annotated[
        str | None,
        typer.Option("--sources", help="Of image, text, audio, video; default: what model and dataset have."),
    ] = None
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Which tasks (`atlas datasets NAME`), not the default ones.")
    ] = None
    per_concept: Annotated[
        int | None,
        typer.Option("--per-concept", "--max-samples", min=1, help="At most so many examples of a concept and task."),
    ] = None

    def content(self) -> dict[str, Any]:
        """The job's fields that were given."""
        plain = {"dataset": self.dataset, "per_concept": self.per_concept}
        return given(plain, {"sources": self.sources, "tasks": self.tasks}, {"options": self.option})


@dataclass(frozen=True)
class ExampleOptions(DataOptions):
    """Which examples of a dataset."""

    concepts: Annotated[
        str | None, typer.Option("--concepts", "--classes", "--concept", help="Only these, separated by commas.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Which examples, and the random control.")] = None

    def content(self) -> dict[str, Any]:
        return super().content() | given({"seed": self.seed}, {"concepts": self.concepts})


@dataclass(frozen=True)
class DrawOptions:
    """How pictures are drawn, and what is found in them."""

    segmenter: Annotated[
        str | None, typer.Option("--segmenter", help="colour, hf or none: what finds concepts in drawn pictures.")
    ] = None
    segment_option: Annotated[
        KeyValues, typer.Option("--segment-option", help="KEY=VALUE for the segmenter; repeatable.")
    ] = None
    draw_option: Annotated[
        KeyValues,
        typer.Option("--draw-option", help="steps=20, guidance=2.5, looks=4, side=PIXELS of drawings; repeatable."),
    ] = None

    def content(self) -> dict[str, Any]:
        """The job's fields that were given."""
        tables = {"segmenting": self.segment_option, "drawing": self.draw_option}
        return given({"segmenter": self.segmenter}, tables=tables)


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored, and what of it is kept."""

    tap: Annotated[str | None, typer.Option("--tap", help="product (default) or gate.")] = None
    layers: Annotated[str | None, typer.Option("--layers", help="Only these layers: 3, 8-15.")] = None
    reduce: Annotated[
        str | None, typer.Option("--reduce", help="mean,contrast (default), cohens_d, auroc: positives and negatives.")
    ] = None
    swap_answers: Annotated[
        bool,
        typer.Option(
            "--swap-answers",
            help="Also score every answer behind another concept's prompt, for twice the time: how many neurons two "
            "sources share by the answers' words alone (`atlas shared`).",
        ),
    ] = False
    negatives: Annotated[
        int | None, typer.Option("--negatives", min=0, help="Examples a source that show none of the concepts.")
    ] = None
    mentions: Annotated[
        str | None,
        typer.Option("--mentions", help="shown (default), or vocabulary: every concept that the answer names."),
    ] = None
    occurrences: Annotated[str | None, typer.Option("--occurrences", help="first (default) or all.")] = None
    tokens: Annotated[str | None, typer.Option("--tokens", help="all (default) or first of a word's tokens.")] = None
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="all (default) scores of a map, or top:N: the best N, and a sketch of the rest."),
    ] = None

    def content(self) -> dict[str, Any]:
        """The job's fields that were given."""
        plain = {name: value for name, value in asdict(self).items() if name != "reduce"}
        return given(plain, {"reduce": self.reduce})


@dataclass(frozen=True)
class TwinOptions:
    """How the concept is taken out of a picture."""

    inpainter: Annotated[
        str | None, typer.Option("--inpainter", help="exact, classical or diffusion, for methods that need twins.")
    ] = None
    inpaint_option: Annotated[
        KeyValues, typer.Option("--inpaint-option", help="KEY=VALUE for the inpainter; repeatable.")
    ] = None

    def content(self) -> dict[str, Any]:
        """The job's fields that were given."""
        return given({"inpainter": self.inpainter}, tables={"inpainting": self.inpaint_option})


def live_model(
    which: ModelOptions, how: MachineOptions, name: str, revision: str | None = None, **usual: Any
) -> LiveModel:
    """The model that was named, or else the one of that name and revision. usual: other fields' defaults."""
    from ingest.job import ModelSpec, make_spec
    from ingest.run.prepare import load_model

    if which.model is None:
        which = ModelOptions(name, which.revision or revision)
    return load_model(make_spec(ModelSpec, usual | which.content() | how.content()), how.execution())
