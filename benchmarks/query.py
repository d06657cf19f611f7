"""`atlas query` as a whole process, against a process that only imports DuckDB and Arrow and runs the same SQL."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from _statements import answered
from _timing import interleaved, report

from atlas.api.atlas import Atlas
from atlas.errors import AtlasError
from atlas.store.database import database_file
from atlas.store.default_path import default_path

BARE = """
import sys, duckdb, pyarrow
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.sql(open(sys.argv[2]).read()).to_arrow_table().to_pylist())
"""


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default_path()
    try:
        atlas = Atlas.open(path)
        concept = next(r["concept"] for r in atlas.concepts().to_pylist() if r["maps"])
        _, statement = answered(lambda: atlas.query(concept))
    except (AtlasError, StopIteration) as error:
        raise SystemExit(f"{error or 'no maps'}: run `atlas demo` first, or give an atlas") from None
    sql = statement.sql
    for name, value in sorted(statement.parameters.items(), key=lambda pair: -len(pair[0])):
        sql = sql.replace(f"${name}", str(value))
    command = [sys.executable, "-m", "cli.main", "query", "--concept", concept, "--atlas", str(path)]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(sql)
        file.flush()
        bare = [sys.executable, "-c", BARE, str(database_file(path)), file.name]
        sides = {"bare": bare, "query": command}
        seconds = interleaved(
            {n: partial(subprocess.run, c, capture_output=True, check=True) for n, c in sides.items()}, 9
        )
    report("atlas query, seconds", seconds["query"], "<= 0.5", f"concept {concept}, {path.name}")
    report(
        "atlas query / import and raw SQL",
        seconds["query"] / seconds["bare"],
        "<= 1.5",
        f"{seconds['bare']:.2f} s bare",
    )


if __name__ == "__main__":
    main()
