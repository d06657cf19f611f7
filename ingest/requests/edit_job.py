"""What a model is asked about an edit, where the request leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.edits.edit import Edit
    from ingest.job import Job


def job_of(path: Path, edit: Edit, content: Mapping[str, Any]) -> Job:
    """The job: by default of the edit's own dataset and of examples that it was not made from.

    content: the fields that were given.
    """
    from atlas.query.provenance import maps_of
    from ingest.data.examples import HELD_OUT
    from ingest.evaluate.found_on import answers_of_runs
    from ingest.evaluate.from_edit import own_dataset, own_examples, unseen_split
    from ingest.job import make_job

    own = {"model": str(edit.model["name"]), "split": unseen_split(edit, content.get("dataset"))}
    if "dataset" not in content:
        own |= {"dataset": own_dataset(path, edit)} | own_examples(edit)
    if own["split"] == HELD_OUT and "answers" not in content:
        own["answers"] = answers_of_runs(path, {str(origin["run_id"]) for origin in maps_of(edit.provenance)})
    if "model" not in content and edit.model["revision"]:
        own["revision"] = str(edit.model["revision"])
    return make_job(own | dict(content))
