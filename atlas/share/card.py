"""The card of a bundle: README.md as the HuggingFace Hub reads it, and what to cite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

_LICENCES = {
    "cc0": "cc0-1.0",
    "cc0-1.0": "cc0-1.0",
    "cc by 4.0": "cc-by-4.0",
    "cc by-sa 4.0": "cc-by-sa-4.0",
    "mit": "mit",
    "mit license": "mit",
    "apache-2.0": "apache-2.0",
}
"""Licences by the names that the Hub has for them; any other is `other`, and stands in full in the text."""

_ATLAS = "Neuron atlas: which neurons of a multimodal language model carry a concept (software)."
_DAI = "Dai et al., Knowledge Neurons in Pretrained Transformers (2022)"
_PAN = "Pan et al., Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers (2023)"
_FANG = "Fang et al., Towards Neuron Attributions in Multi-Modal Large Language Models (2024)"
_PAPERS = {
    "contribution": _PAN,
    "integrated_gradients": "Sundararajan et al., Axiomatic Attribution for Deep Networks (2017)",
    "knowledge_neurons": _DAI,
    "nam_text": _FANG,
    "schwettmann": "Schwettmann et al., Multimodal Neurons in Pretrained Text-Only Transformers (2023)",
    "two_stage": "Sato & Takagi, Identifying Multi-modal Knowledge Neurons via Two-stage Filtering (2025)",
    "logprob_increase": "Yu & Ananiadou, Neuron-Level Knowledge Attribution in Large Language Models (2024)",
    "miner": "Huang et al., MINER (2024)",
    "lape": "Tang et al., Language-Specific Neurons (2024)",
    "modality_profile": "Huo et al., MMNeuron (2024)",
}


def citation(methods: Iterable[str]) -> dict[str, Any]:
    """What to cite of a bundle whose maps are of these methods."""
    return {"text": _ATLAS, "papers": sorted({_PAPERS[m] for m in methods if m in _PAPERS})}


def card(said: Mapping[str, Any], tables: Iterable[str]) -> str:
    """README.md of a bundle. said: its bundle.json. tables: the Parquet tables that any of its runs has."""
    parts = [
        _front(said, sorted(tables)),
        _lead(said),
        _runs(said),
        _sources(said),
        _use(said, sorted(tables)),
        _cite(said),
    ]
    return "\n".join(parts)


def _licence(text: str) -> str:
    return _LICENCES.get(text.partition(",")[0].strip().lower(), "other")


def _front(said: Mapping[str, Any], tables: list[str]) -> str:
    """The YAML in front; JSON strings are YAML strings."""
    licences = sorted({_licence(d["licence"]) for d in said["datasets"]}) or ["other"]
    lines = ["---", "license:", *(f"- {name}" for name in licences)]
    if "other" in licences:
        lines += ["license_name: as-the-datasets-state"]
    lines += [f"pretty_name: {json.dumps(_title(said), ensure_ascii=False)}", "tags:"]
    lines += [f"- {tag}" for tag in ("neuron-atlas", "interpretability", "multimodal", "neurons")]
    lines += ["configs:"] if tables else []
    for table in tables:
        lines += [f"- config_name: {table}", f'  data_files: "runs/*/{table}.parquet"']
    return "\n".join([*lines, "---", ""])


def _title(said: Mapping[str, Any]) -> str:
    models = ", ".join(dict.fromkeys(m["name"] for m in said["models"])) or "no model"
    return f"Neurons of {models}"


def _lead(said: Mapping[str, Any]) -> str:
    maps, scores = (sum(run[key] for run in said["runs"]) for key in ("maps", "scores"))
    text = f"# {_title(said)}\n\n"
    text += (
        "Which neurons of a multimodal language model carry a concept, with everything that made the numbers: a bundle "
    )
    text += f"written by `atlas export` ({said['program']}, schema {said['schema']}).\n\n"
    counts = {"run": len(said["runs"]), "map": maps, "score": scores}
    counts |= {"edit": len(said["edits"]), "selection": len(said["selections"])}
    text += ", ".join(f"{n:,} {what}{'' if n == 1 else 's'}" for what, n in counts.items()) + "."
    if said["filter"] is not None:
        text += f" A part of an atlas: `{json.dumps(said['filter'], ensure_ascii=False)}`."
    return text + "\n"


def _runs(said: Mapping[str, Any]) -> str:
    lines = ["## Runs", "", "| run | kind | model | dataset | methods | concepts | maps | scores | examples |"]
    lines.append("|---|---|---|---|---|--:|--:|--:|--:|")
    for run in said["runs"]:
        cells = [run["run_id"][:8], run["kind"], run["model"] or "", run["dataset"] or "", ", ".join(run["methods"])]
        counts = [f"{run[key]:,}" for key in ("concepts", "maps", "scores", "examples")]
        lines.append("| " + " | ".join([*map(_cell, cells), *counts]) + " |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _sources(said: Mapping[str, Any]) -> str:
    lines = ["## Models and datasets", "", "| model | revision | sha256 of the weights |", "|---|---|---|"]
    lines += [f"| {_cell(m['name'])} | {m['revision'] or ''} | `{m['fingerprint']}` |" for m in said["models"]]
    lines += ["", "| dataset | revision | licence |", "|---|---|---|"]
    lines += [f"| {_cell(d['name'])} | `{_cell(d['revision'])}` | {_cell(d['licence'])} |" for d in said["datasets"]]
    lines += [
        "",
        "Pictures and recordings are not here: examples name them, relative to the dataset's own folder. Prompts,",
    ]
    lines += ["reference answers and names of concepts are the datasets', under their licences.", ""]
    return "\n".join(lines)


def _use(said: Mapping[str, Any], tables: list[str]) -> str:
    one = "scores" if "scores" in tables else (tables or ["scores"])[0]
    return f"""## Use

As an atlas, checked against its sums before anything is stored:

```console
$ atlas pull OWNER/NAME           # from the Hub
$ atlas import FOLDER             # or a folder
$ atlas sql --bundle FOLDER "SELECT method, count(*) FROM maps GROUP BY ALL"
```

As plain Parquet (`map_id`, `concept_id`, `model_id` and `dataset_id` are local to a run's folder):

```python
import duckdb
duckdb.sql("SELECT * FROM read_parquet('runs/*/{one}.parquet', filename=true)")

import pandas
pandas.read_parquet("runs/RUN/{one}.parquet")
```
"""


def _cite(said: Mapping[str, Any]) -> str:
    lines = ["## Cite", "", f"- {said['citation']['text']}", *(f"- {paper}" for paper in said["citation"]["papers"])]
    return "\n".join([*lines, "- The datasets above, as their authors ask."]) + "\n"
