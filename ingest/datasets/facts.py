"""facts: sentences about the things that `photos` shows, to be completed or continued, in the package.

Task "completion": the answer names the thing, the prompt does not ("The animal that barks is" ... "a dog"). Task
"about": the prompt names it, the answer does not ("A dog likes to chew on" ... "a bone"). Task "sentence": both do. So
the concept is in the prompt, in the answer, or in both (`--where-named`). Each row is a fact of its own; of every
concept's completions and of most concepts' others some are held out, about a quarter in all. CC0-1.0.
"""

from __future__ import annotations

from pathlib import Path

from ingest.datasets._files import refuse_path
from ingest.datasets._tasks import TaskDataset
from ingest.datasets.prompts import read_prompts

FILE = Path(__file__).parent / "_facts.jsonl"


def build(path: str | None = None) -> TaskDataset:
    """The facts.

    Raises:
        UsageError: a path was given.
    """
    refuse_path(path, "facts")
    return read_prompts(FILE, "facts", path=None, licence="CC0-1.0")
