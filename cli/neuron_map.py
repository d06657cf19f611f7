"""`atlas export --as embedding-atlas`: a map of neurons for Apple's Embedding Atlas, which draws and searches it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.query.statements import strongest_example_each
from atlas.store.database import open_readonly
from atlas.vectors.neuron_map import neuron_map, strongest_first
from atlas.vectors.spaces import choose_space

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A picture as HuggingFace's datasets have it."""

SIDE = 128
"""Pixels of a picture's longer side."""


def write(path: Path, file: Path, space: str, model: str | None, images: int) -> dict[str, Any]:
    """Write the map of an atlas's neurons as Parquet, with pictures of the `images` best; what it was made from.

    Raises:
        UsageError: the file has another ending or is there already, or the space was never built.
    """
    if file.suffix != ".parquet":
        raise UsageError(f"an Embedding Atlas opens Parquet; give a file that ends in .parquet, not '{file}'")
    if file.exists():
        raise UsageError(f"{file} exists; give another name")
    with open_readonly(path) as connection:
        chosen, notes = choose_space(connection, space, model)
        table, about = neuron_map(connection, chosen)
        best = [Neuron.parse(address) for address in strongest_first(table, images)]
        statement = strongest_example_each(best, str(about["fingerprint"]))
        rows = statement.run(connection).to_pylist() if best else []
    examples = {
        str(Neuron(row["component"], row["layer"], row["neuron"])): str(row["example"])
        for row in rows
        if row["source"] in ("image", "video")
    }
    table = table.append_column("image", _pictures(path, table["neuron"].to_pylist(), examples))
    table = table.replace_schema_metadata({"neuron_atlas": json.dumps(about)})
    pq.write_table(table, file)
    return about | {"neurons": len(table), "images": len(table) - table["image"].null_count, "notes": notes}


def _pictures(path: Path, neurons: list[str], examples: dict[str, str]) -> pa.Array:
    """The strongest example's picture of every neuron that has one; None for the others."""
    shown: dict[str, bytes | None] = {}
    if examples:
        from ingest.run.thumbnails import pictures

        shown = pictures(path, list(examples.values()), SIDE)
    cells = []
    for neuron in neurons:
        data = shown.get(examples.get(neuron, ""))
        cells.append(None if data is None else {"bytes": data, "path": f"{examples[neuron]}.jpg"})
    return pa.array(cells, IMAGE)
