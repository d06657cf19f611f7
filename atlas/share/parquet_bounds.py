"""Limits on the memory that an untrusted Parquet file needs, checked before it is read: 13 KB can expand to gigabytes.

The footers are checked first, then every value is read once, in a process with limited memory. After that no reader
meets a row group of more rows than ours have, or rows that are much larger than any of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from atlas.errors import AtlasError, IntegrityError
from atlas.store.limited_process import GIB, NeedsMemory, Result, TookTooLong, run_confined
from atlas.store.run_writer import ROW_GROUP, group_rows

GROUP_BYTES = 2 * GIB
"""Bytes of a row group's rows when they are read."""

GAIN, FREE = 10_000, 256 << 20
"""A file may expand to at most GAIN times its size plus FREE bytes."""

_MEMORY = 4 * GIB
_SECONDS = 3600.0
_STREAM, _STREAM_BYTES = 2048, 192 << 20
"""Rows that are read together, and their limit in bytes."""


def require_bounded(files: Sequence[Path]) -> None:
    """Refuse Parquet files that are larger than a bundle's can be.

    Raises:
        IntegrityError: with the file and what is too large.
    """
    if not files:
        return
    for file in files:
        _require_footer(file)
    try:
        run_confined(
            "atlas.share.parquet_bounds:measure", {"files": [str(f) for f in files]}, memory=_MEMORY, seconds=_SECONDS
        )
    except NeedsMemory as error:
        raise IntegrityError(f"one of its files needs more than {_MEMORY / GIB:g} GiB to be read") from error
    except TookTooLong as error:
        raise AtlasError(f"reading its files took longer than {_SECONDS:g} s") from error


def _require_footer(file: Path) -> None:
    import pyarrow.parquet as pq

    about = pq.read_metadata(file)
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        if group.num_rows > ROW_GROUP:
            raise IntegrityError(
                f"{file} has a row group of {group.num_rows:,} rows; at most {ROW_GROUP:,} are allowed"
            )
        if not 0 <= group.total_byte_size <= GROUP_BYTES:
            raise IntegrityError(f"{file} has a row group of {group.total_byte_size:,} bytes, more than can be read")


def measure(files: Sequence[str], ready: Callable[[], None]) -> Result:
    """Read every value of the files, and check their sizes; runs in a separate process."""
    import duckdb

    ready()
    with duckdb.connect(config={"memory_limit": "2GiB", "threads": 1}) as connection:
        for file in map(Path, files):
            try:
                _require_sizes(file, connection.from_parquet(str(file)).to_arrow_reader(_STREAM))
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                if "Out of Memory" in str(error):  # raised by Arrow as an OSError about DuckDB's rows
                    raise IntegrityError(
                        f"{file} has {file.stat().st_size:,} bytes, and needs too much memory to be read"
                    ) from error
                raise IntegrityError(f"{file} cannot be read: {error}") from error
    return {}, None


def _require_sizes(file: Path, batches: Iterable[pa.RecordBatch]) -> None:
    size, together = file.stat().st_size, group_rows(file.stem)
    total = window = rows = 0
    for batch in batches:
        rows, window, total = rows + batch.num_rows, window + batch.nbytes, total + batch.nbytes
        if batch.nbytes > _STREAM_BYTES or window > GROUP_BYTES or total > GAIN * size + FREE:
            raise IntegrityError(f"{file} has {size:,} bytes, and expands to too many ({total:,} or more)")
        if rows >= together:
            rows = window = 0
