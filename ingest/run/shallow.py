"""A job's model with a few layers of random weights, which costs what as many layers of the real one cost."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from atlas.errors import Unsupported, UsageError
from atlas.live.load.checkpoints import DTYPES, find_device, quiet, read_config, sketch
from atlas.live.load.gguf_model import find_gguf, load_gguf_tokenizer, parsing_once
from atlas.live.load.load_errors import explain_load_errors
from atlas.live.load.processors import load_processor
from atlas.live.model import LiveModel
from ingest import zoo
from ingest.job import Execution, Job
from ingest.run.prepare import loading

STORED = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The floating types of safetensors, by its names for them."""


def shallow(job: Job, execution: Execution, depth: int) -> tuple[LiveModel, dict[str, float]]:
    """The job's model with only `depth` layers, of random weights, and what loading it takes besides reading weights.
    begin: seconds that do not depend on them. weights: those of checking and hashing them. parameters: how many they
    are.

    Raises:
        Unsupported: it has no tokenizer or processor here, so that nothing can be encoded for it.
    """
    name, how = zoo.resolve(job.model), loading(job, execution)
    with parsing_once(name):
        config = read_config(name, how)
        started = time.perf_counter()
        with quiet(), torch.device("meta"):
            sketch(cut(config, depth), how)
        processor = _processor(name, job, config, execution)
        begin = time.perf_counter() - started
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = sketch(cut(config, depth), how).to(precision(job, config)).eval()
    model.to(find_device(execution.device))
    folder = Path(name) if Path(name).is_dir() else None
    started = time.perf_counter()
    live = LiveModel(model, processor, name=job.model, folder=folder)
    _ = live.fingerprint  # a run is named by it
    weights = time.perf_counter() - started
    started = time.perf_counter()
    _ = live.configuration
    seconds = {"begin": begin + time.perf_counter() - started, "weights": weights}
    return live, seconds | {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def _processor(name: str | Path, job: Job, config: Any, execution: Execution) -> Any:
    """The processor with which the job itself would encode.

    Raises:
        Unsupported: there is none, as in a folder with a config.json alone.
    """
    try:
        with explain_load_errors(name, "the processor of"):
            if (file := find_gguf(name)) is not None:
                return load_gguf_tokenizer(file)
            return load_processor(name, job.revision, config, trust_remote_code=execution.trust_remote_code)
    except UsageError as error:  # nothing is wrong with the job, of which shapes alone may be asked
        raise Unsupported(str(error)) from error


def parameters_of(job: Job, execution: Execution, depth: int) -> int:
    """How many parameters the model has with `depth` layers."""
    how = loading(job, execution)
    with quiet(), torch.device("meta"):
        model = sketch(cut(read_config(zoo.resolve(job.model), how), depth), how)
    return sum(parameter.numel() for parameter in model.parameters())


def cut(config: Any, depth: int) -> Any:
    """A copy of the config whose language model has `depth` layers; lists of one entry a layer are cut too."""
    config = copy.deepcopy(config)
    text = config.get_text_config(decoder=True)
    layers = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == layers:
            setattr(text, name, value[:depth])
    text.num_hidden_layers = depth
    return config


def precision(job: Job, config: Any) -> torch.dtype:
    """The dtype in which the job's model is loaded. Of `auto`, as transformers chooses it: the config's, or else that
    of the checkpoint's weights."""
    if job.dtype in DTYPES:
        return DTYPES[job.dtype]
    stated = getattr(config, "dtype", None)
    if stated is None:
        return _stored(Path(zoo.resolve(job.model))) or torch.float32
    return stated if isinstance(stated, torch.dtype) else getattr(torch, str(stated))


def _stored(folder: Path) -> torch.dtype | None:
    """The floating type of the first weights in a folder's safetensors; None where there are none."""
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(file, "pt") as opened:
                kinds = (opened.get_slice(key).get_dtype() for key in opened.keys())  # noqa: SIM118
                return next((STORED[kind] for kind in kinds if kind in STORED), None)
        except (OSError, SafetensorError):
            return None
    return None
