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
"""Licences by the Hub's names for them; any other is `other`, and given in full in the text."""

_ATLAS = "Neuron atlas: which neurons of a multimodal language model carry a concept (software)."
_DAI = "Dai et al., Knowledge Neurons in Pretrained Transformers (2022)"
_PAN = "Pan et al., Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers (2023)"
_FANG = "Fang et al., Towards Neuron Attributions in Multi-Modal Large Language Models (2024)"
_PAPERS = {
    "contribution": _PAN,
    "iou": "Bau et al., Network Dissection: Quantifying Interpretability of Deep Visual Representations (2017)",
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
    """What to cite for a bundle whose maps are of these methods."""
    return {"text": _ATLAS, "papers": sorted({_PAPERS[m] for m in methods if m in _PAPERS})}


def card(bundle: Mapping[str, Any], tables: Iterable[str]) -> str:
    """README.md of a bundle. bundle: its bundle.json. tables: the Parquet tables that any of its runs has."""
    parts = [
        _front(bundle, sorted(tables)),
        _lead(bundle),
        _runs(bundle),
        _sources(bundle),
        _use(bundle, sorted(tables)),
        _cite(bundle),
    ]
    return "\n".join(parts)


def _licence(text: str) -> str:
    return _LICENCES.get(text.partition(",")[0].strip().lower(), "other")


def _front(bundle: Mapping[str, Any], tables: list[str]) -> str:
    """The YAML in front; JSON strings are YAML strings."""
    licences = sorted({_licence(d["licence"]) for d in bundle["datasets"]}) or ["other"]
    lines = ["---", "license:", *(f"- {name}" for name in licences)]
    if "other" in licences:
        lines += ["license_name: as-the-datasets-state"]
    lines += [f"pretty_name: {json.dumps(_title(bundle), ensure_ascii=False)}", "tags:"]
    lines += [f"- {tag}" for tag in ("neuron-atlas", "interpretability", "multimodal", "neurons")]
    lines += ["configs:"] if tables else []
    for table in tables:
        lines += [f"- config_name: {table}", f'  data_files: "runs/*/{table}.parquet"']
    return "\n".join([*lines, "---", ""])


def _title(bundle: Mapping[str, Any]) -> str:
    models = ", ".join(dict.fromkeys(m["name"] for m in bundle["models"])) or "no model"
    return f"Neurons of {models}"


def _lead(bundle: Mapping[str, Any]) -> str:
    maps, scores = (sum(run[key] for run in bundle["runs"]) for key in ("maps", "scores"))
    text = f"# {_title(bundle)}\n\n"
    text += (
        "Which neurons of a multimodal language model carry a concept, with everything that determined the numbers: "
    )
    text += f"a bundle written by `atlas export` ({bundle['program']}, schema {bundle['schema']}).\n\n"
    counts = {"run": len(bundle["runs"]), "map": maps, "score": scores}
    counts |= {"edit": len(bundle["edits"]), "selection": len(bundle["selections"])}
    text += ", ".join(f"{n:,} {what}{'' if n == 1 else 's'}" for what, n in counts.items()) + "."
    if bundle["filter"] is not None:
        text += f" A part of an atlas: `{json.dumps(bundle['filter'], ensure_ascii=False)}`."
    return text + "\n"


def _runs(bundle: Mapping[str, Any]) -> str:
    lines = ["## Runs", "", "| run | kind | model | dataset | methods | concepts | maps | scores | examples |"]
    lines.append("|---|---|---|---|---|--:|--:|--:|--:|")
    for run in bundle["runs"]:
        cells = [run["run_id"][:8], run["kind"], run["model"] or "", run["dataset"] or "", ", ".join(run["methods"])]
        counts = [f"{run[key]:,}" for key in ("concepts", "maps", "scores", "examples")]
        lines.append("| " + " | ".join([*map(_cell, cells), *counts]) + " |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _sources(bundle: Mapping[str, Any]) -> str:
    lines = ["## Models and datasets", "", "| model | revision | sha256 of the weights |", "|---|---|---|"]
    lines += [f"| {_cell(m['name'])} | {m['revision'] or ''} | `{m['fingerprint']}` |" for m in bundle["models"]]
    lines += ["", "| dataset | revision | licence |", "|---|---|---|"]
    lines += [f"| {_cell(d['name'])} | `{_cell(d['revision'])}` | {_cell(d['licence'])} |" for d in bundle["datasets"]]
    lines += [
        "",
        "Pictures and recordings are not here: examples name them, relative to the dataset's own folder. Prompts,",
    ]
    lines += ["reference answers and names of concepts are the datasets', under their licences.", ""]
    return "\n".join(lines)


def _use(bundle: Mapping[str, Any], tables: list[str]) -> str:
    table_name = "scores" if "scores" in tables else (tables or ["scores"])[0]
    return f"""## Use

As an atlas, verified by checksums before anything is stored:

```console
$ atlas pull OWNER/NAME           # from the Hub
$ atlas import FOLDER             # or a folder
$ atlas sql --bundle FOLDER "SELECT method, count(*) FROM maps GROUP BY ALL"
```

As plain Parquet (`map_id`, `concept_id`, `model_id` and `dataset_id` are local to a run's folder):

```python
import duckdb
duckdb.sql("SELECT * FROM read_parquet('runs/*/{table_name}.parquet', filename=true)")

import pandas
pandas.read_parquet("runs/RUN/{table_name}.parquet")
```
"""


def _cite(bundle: Mapping[str, Any]) -> str:
    lines = [
        "## Cite",
        "",
        f"- {bundle['citation']['text']}",
        *(f"- {paper}" for paper in bundle["citation"]["papers"]),
    ]
    return "\n".join([*lines, "- The datasets above, as their authors ask."]) + "\n"
