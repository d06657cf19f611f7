"""`atlas sql`: the owner's own statement, on a connection that can only read."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.common import AtlasPath, resolve, say
from cli.groups import grouped
from cli.render import Output, show


@grouped
def sql(
    *,
    statement: Annotated[str, typer.Argument(help="One SELECT; - reads it from standard input.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows.")] = 1000,
    timeout: Annotated[float, typer.Option("--timeout", help="How many seconds it may take.")] = 60.0,
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", help="Ask a bundle instead (`atlas export`): a folder, http(s):// or s3://."),
    ] = None,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """Answer one SELECT over the atlas's tables; it can read nothing else and change nothing.

    Example: atlas sql "SELECT method, source, count(*) FROM maps GROUP BY ALL ORDER BY ALL"

    Example: atlas sql "DESCRIBE scores"
    """
    from atlas.api.user_sql import run_sql

    chosen = output.chosen()
    text = sys.stdin.read() if statement == "-" else statement
    where = resolve(atlas) if bundle is None else bundle
    answer = run_sql(where, text, limit=limit, timeout=timeout, bundle=bundle is not None)
    show(answer.rows, chosen, more={"truncated": answer.more})
    if answer.more:
        say(f"the first {limit} rows; there are more, and a larger --limit shows them")
