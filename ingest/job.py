"""A job: what to attribute, with which methods, on which examples. A run records it, resolved, and is named by it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import ingest.datasets
import ingest.inpainters
import ingest.methods
import ingest.segmenters
from atlas import registry
from atlas.errors import UsageError, unknown
from atlas.query.given import NAMES, shown
from ingest.attribution.reductions import REDUCTIONS, USUAL
from ingest.data.answers import ANSWERS, OWN
from ingest.data.examples import BOTH, FIND, HELD_OUT, Dataset
from ingest.data.targets import MENTIONS, OCCURRENCES, TOKENS
from ingest.data.where_named import WHERE_NAMED

ALL = "all"
"""`keep` of a job whose maps are stored whole; `concepts` of one that takes every concept, the same as none named."""


def kept_top(keep: str) -> int:
    """How many scores of a map `keep` means, where it is not `all`.

    Raises:
        UsageError: not `all` or `top:N`.
    """
    name, _, amount = keep.partition(":")
    if name != "top" or not amount.isdecimal() or int(amount) < 1:
        raise UsageError(
            f"[[keep]] is all, or top:N for the best N scores of each map, for example top:5000; not '{keep}'"
        )
    return int(amount)


@dataclass(frozen=True)
class ModelSpec:
    """Which model, in which precision.

    model: a folder, a HuggingFace id or an embedded model's name. quantization: "8bit", "4bit", or "" for none.
    """

    model: str = "tiny-llava"
    revision: str | None = None
    dtype: str = "float32"
    quantization: str = ""


@dataclass(frozen=True)
class DataSpec:
    """Which examples of which dataset.

    dataset: `name` or `name:path`. concepts, sources, tasks: empty means all concepts, all sources that the model
    takes, and the default tasks. split: "find", "held_out", or "all" for both. per_concept: at most so many examples of
    each concept and task, of each split. negatives: how many examples of each source show none of the concepts.
    max_new_tokens: length of the model's own answers, where the dataset has none. answers: "own", or "reference": the
    dataset's reference answers in their place (`ingest.data.answers`). where_named: of text examples, only those that
    name the concept in the "prompt", the "answer" or "both" (`ingest.data.where_named`).
    """

    dataset: str = "scenes"
    options: dict[str, Any] = field(default_factory=dict)
    concepts: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    split: str = FIND
    per_concept: int = 16
    seed: int = 0
    negatives: int = 0
    max_new_tokens: int = 50
    answers: str = OWN
    where_named: str = ""


@dataclass(frozen=True)
class Drawing:
    """For tasks that ask for pictures: what finds concepts in the drawn pictures, and how they are drawn.

    segmenter, segmenting: its name and options. drawing: fields of `atlas.live.draw.drawer.DrawOptions`.
    """

    segmenter: str = ""
    segmenting: dict[str, Any] = field(default_factory=dict)
    drawing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoring:
    """How neurons are scored, and which scores are stored.

    methods: method -> its parameters. layers: which to score, for example 8-15; all by default. mentions: "shown", the
    concepts that an example is labelled with, or "vocabulary", every concept whose words are in the answer.
    occurrences, tokens: see `ingest.data.targets`. inpainter, inpainting: what makes counterfactual pictures, and its
    options, where a method needs them. swap_answers: whether every answer is also scored after another concept's prompt
    (`ingest.run.swapped_answers`). exemplars: how many of the strongest examples to keep for each neuron. keep: "all"
    scores of a concept's map, or for example "top:5000", the 5000 best and a sketch of the rest.
    """

    methods: dict[str, dict[str, Any]] = field(default_factory=lambda: {"contribution": {}})
    tap: str = "product"
    layers: str = ""
    reduce: tuple[str, ...] = USUAL
    occurrences: str = "first"
    tokens: str = "all"
    mentions: str = "shown"
    swap_answers: bool = False
    inpainter: str = ""
    inpainting: dict[str, Any] = field(default_factory=dict)
    exemplars: int = 5
    keep: str = ALL


@dataclass(frozen=True)
class Job(Scoring, Drawing, DataSpec, ModelSpec):
    """Everything that determines a number. Equal resolved jobs have the same run id and give the same scores."""


@dataclass(frozen=True)
class Execution:
    """How to run a job: nothing here changes a number by more than rounding, so it is not part of the run's id.

    bad_media: "skip" (and report) or "fail". attention, trust_remote_code: see `atlas.live.load.checkpoints.Loading`.
    """

    device: str = "cpu"
    device_map: str | None = None
    batch_size: int = 16
    bad_media: str = "skip"
    attention: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.bad_media not in ("skip", "fail"):
            raise UsageError(f"[[bad_media]] is skip or fail, not '{self.bad_media}'")


def read_toml(path: Path) -> dict[str, Any]:
    """The fields of a job file: the same names as `Job`, with `[methods.NAME]` tables for parameters.

    Raises:
        UsageError: no such file, not TOML, or an unknown field.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no job file {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a job file: {error}") from error
    known = {f.name for f in fields(Job)}
    for key in content:
        if key not in known:
            raise unknown("job field", key, known, "atlas ingest --help")
    return content


S = TypeVar("S", ModelSpec, DataSpec, Job)


def make_spec(kind: type[S], content: Mapping[str, Any]) -> S:
    """A spec from plain values (of a job file or a command line), checked against the types of its fields.

    Raises:
        UsageError: a value of the wrong type.
    """
    defaults = kind()
    values = dict(content)
    for key, value in values.items():
        expected = getattr(defaults, key)
        if isinstance(expected, tuple) and isinstance(value, list):
            values[key] = tuple(str(v) for v in value)
        elif expected is not None and not isinstance(value, type(expected)):
            raise UsageError(f"[[{key}]] of the job must be {NAMES.get(type(expected), 'a list')}, not {shown(value)}")
    return kind(**values)


def make_job(content: Mapping[str, Any]) -> Job:
    """A checked job from plain values.

    Raises:
        UsageError: a value of the wrong type, or a name that does not exist.
    """
    job = make_spec(Job, content)
    for name, value, known in (
        ("occurrences", job.occurrences, OCCURRENCES),
        ("tokens", job.tokens, TOKENS),
        ("mentions", job.mentions, MENTIONS),
        ("split", job.split, (FIND, HELD_OUT, BOTH)),
        ("tap", job.tap, ("product", "gate")),
        ("answers", job.answers, ANSWERS),
        ("where_named", job.where_named, ("", *WHERE_NAMED)),
    ):
        if value not in known:
            raise UsageError(f"no {name} called '{value}'; there are: {', '.join(filter(None, known))}")
    for reduce in job.reduce:
        if reduce not in REDUCTIONS:
            raise UsageError(f"no reduction called '{reduce}'; there are: {', '.join(REDUCTIONS)}")
    if job.per_concept < 1 or job.exemplars < 0 or job.max_new_tokens < 1 or job.negatives < 0:
        raise UsageError("per_concept and max_new_tokens must be at least 1, exemplars and negatives at least 0")
    if job.keep != ALL:
        kept_top(job.keep)
    if not job.methods:
        raise UsageError("the job names no method; `atlas methods` lists them")
    methods = {name: _parameters(name, parameters) for name, parameters in job.methods.items()}
    return replace(job, methods=methods, concepts=() if job.concepts == (ALL,) else job.concepts)


def _parameters(name: str, parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, Mapping):
        raise UsageError(f"the job's methods.{name} is {parameters!r}; it must be a table of parameters")
    values = {k: _from_file(v) if isinstance(v, str) and v.startswith("@") else v for k, v in parameters.items()}
    return registry.resolve(name, registry.load(ingest.methods, name).build, values)


def _from_file(value: str) -> str:
    """For `@FILE`, the file's words joined by commas, so that the run records the content."""
    try:
        return ",".join(Path(value[1:]).read_text(encoding="utf-8").split())
    except OSError as error:
        raise UsageError(f"cannot read {value[1:]}: {error.strerror}") from error


def open_dataset(spec: DataSpec) -> Dataset:
    """The spec's dataset; checks the spec's concepts and sources against it.

    Raises:
        UsageError: an unknown dataset, concept or source; the message has the nearest name.
    """
    name, _, path = spec.dataset.partition(":")
    module = registry.load(ingest.datasets, name)
    options = registry.resolve(name, module.build, spec.options)
    dataset: Dataset = module.build(path or None, **options)
    for concept in spec.concepts:
        if concept not in dataset.concepts:
            raise unknown("concept", concept, dataset.concepts, f"atlas concepts --dataset {spec.dataset}")
    for source in spec.sources:
        if source not in dataset.tasks:
            raise unknown("source", source, dataset.tasks, "atlas datasets")
    return dataset
